"""Check the saved model of a command before TensorFlow is loaded."""

from pathlib import Path


def check_model_file(path: Path) -> None:
    """Check that a model is there.

    Raises:
        ValueError: where it is not.
    """
    if not path.exists():
        raise ValueError(f"There is no model {str(path)!r}.")
