"""From arrays, files and data sets to batches, proxies and compiled functions."""
