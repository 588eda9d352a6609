"""The saved model of a command: checked before TensorFlow is loaded, then opened."""

from pathlib import Path
from typing import Any


def check_model_file(path: Path) -> None:
    """Check that a model is there.

    Raises:
        ValueError: where it is not.
    """
    if not path.exists():
        raise ValueError(f"There is no model {str(path)!r}.")


def load_model(path: Path) -> Any:
    """Return a saved Keras model.

    Raises:
        ValueError: where it needs code that a command does not have, such as layers
            of the user's own and `Lambda` layers.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        if "deserializ" not in str(error):
            raise
        # Keras names what it does not know in the innermost of several errors.
        reason = str(error).rpartition("Exception encountered: ")[2].strip()
        raise ValueError(
            f"Keras cannot load {str(path)!r} by itself. A command loads only models "
            "without code of your own, such as layers that you wrote or a Lambda. Load "
            "it in Python, where that code is imported, and call the function there: "
            "`keras_embcam.explain(model, files)`, for example. Keras says: "
            f"{reason[:300]}"
        ) from error
