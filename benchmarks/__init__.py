"""What explanations cost, measured: `make bench`, or `python -m benchmarks`."""
