"""The other callbacks of the same `fit`."""

import sys
import warnings
from pathlib import Path
from types import FrameType

import keras

from keras_embcam.metrics.heatmap_figures import FIGURES

# How the names of the numbers begin that the logger puts into `logs`.
LOGGED = (
    *(f"val_{name}" for name in FIGURES),
    "val_localization_accuracy",
    "val_recall_at_",
    "val_map_at_r",
    "val_context_ratio",
)


def look_at_others(logger: keras.callbacks.Callback, log_dir: str) -> bool:
    """Look at the callbacks that run beside a logger, and warn of those in front.

    Returns:
        Whether one behind it writes each `val_x` of the logs as a curve.
    """
    callbacks = running_callbacks()
    if logger not in callbacks:
        return False
    position = callbacks.index(logger)
    warn_of_shared_folder(logger, callbacks[position + 1 :], log_dir)
    warn_of_early_monitors(callbacks[:position])
    return writes_same_curves(callbacks[position:], log_dir)


def running_callbacks() -> list[keras.callbacks.Callback]:
    """Return the callbacks of the running `fit`, found on the call stack.

    Keras does not pass the list to its members.

    Empty where a loop of the user's own drives the callbacks.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller.callbacks
        frame = frame.f_back
    return []


def warn_of_shared_folder(
    logger: keras.callbacks.Callback,
    behind: list[keras.callbacks.Callback],
    log_dir: str,
) -> None:
    """Warn of another logger that writes into the same folder."""
    for callback in behind:
        if isinstance(callback, type(logger)) and (
            _resolve(getattr(callback, "log_dir", "")) == _resolve(log_dir)
        ):
            warnings.warn(
                "Two EmbeddingCAMLoggers of a training must write into two folders: "
                "of what lies in one, the EmbeddingCAM tab shows one. Received: "
                f"log_dir={log_dir!r} twice. Pass each a log_dir of its own.",
                stacklevel=2,
            )


def warn_of_early_monitors(before: list[keras.callbacks.Callback]) -> None:
    """Warn of callbacks in front of the logger that wait for its numbers."""
    for callback in before:
        monitored = getattr(callback, "monitor", None)
        if isinstance(monitored, str) and monitored.startswith(LOGGED):
            warnings.warn(
                f"{type(callback).__name__} monitors {monitored!r}, which "
                "EmbeddingCAMLogger puts into the logs. Move it behind the "
                "EmbeddingCAMLogger in the list of callbacks.",
                stacklevel=2,
            )


def writes_same_curves(behind: list[keras.callbacks.Callback], log_dir: str) -> bool:
    """Tell whether Keras's own callback writes each `val_x` of the logs as a curve."""
    return any(
        isinstance(callback, keras.callbacks.TensorBoard)
        and _resolve(callback.log_dir) == _resolve(log_dir)
        for callback in behind
    )


def _resolve(log_dir: str | Path) -> str:
    """Return one name for one folder; those of other machines keep theirs."""
    log_dir = str(log_dir)
    return log_dir.rstrip("/") if "://" in log_dir else str(Path(log_dir).resolve())
