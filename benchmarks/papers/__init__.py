"""The tables of the two papers on embedding networks, beside our own figures."""

from benchmarks.papers.cub import run_cub
from benchmarks.papers.options import Options

__all__ = ["Options", "run_cub"]
