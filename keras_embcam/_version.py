"""The version, kept alone so that packaging reads it without TensorFlow."""

__version__ = "0.2.0"
