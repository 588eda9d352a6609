"""Retrieval explained: why two images match, and what a search found instead."""
