"""The tables of the two papers on embedding networks, beside our own figures."""

from benchmarks.papers.measure import run_papers
from benchmarks.papers.options import Options

__all__ = ["Options", "run_papers"]
