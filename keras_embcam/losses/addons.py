"""The losses of tensorflow-addons, imported beside Keras 3."""

import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import keras

PACKAGE = "tensorflow_addons"
# The one module of Keras 2 that the losses import; they take one name from it, for a
# type annotation.
MISSING_MODULE = "keras.src.engine.keras_tensor"
_LOCK = threading.Lock()


@functools.cache
def import_addons_losses() -> ModuleType:
    """Import ``tensorflow_addons.losses`` so that its losses work in ``fit`` here.

    tensorflow-addons reached its end of life in May 2024, and ``import
    tensorflow_addons`` fails beside Keras 3. This imports its losses alone, without the
    package's own ``__init__``, and lends them a stand-in for the one private module of
    Keras 2 that they ask for. Afterwards no trace of it is left: ``import
    tensorflow_addons`` fails as it did before.

    It is meant for old training code, and for comparing the losses of this package with
    their predecessors; take those of ``keras_embcam.losses`` otherwise. What you get is
    the original code, with its habits: ``TripletSemiHardLoss`` and ``TripletHardLoss``
    expect embeddings of unit length, the former is NaN for a batch without a positive
    pair, and ``ContrastiveLoss`` takes distances. Tried in ``fit`` with
    tensorflow-addons 0.23.0 and Keras 3.15: ``TripletSemiHardLoss``,
    ``TripletHardLoss``, ``LiftedStructLoss``, ``NpairsLoss`` and ``ContrastiveLoss``.
    Call this before loading a model that was compiled with one of them.

    Returns:
        The module ``tensorflow_addons.losses``, the same at each call.

    Raises:
        ImportError: if tensorflow-addons, or what it needs, is not installed.

    Example:
    >>> losses = import_addons_losses()  # doctest: +SKIP
    >>> model.compile("adam", losses.TripletSemiHardLoss())  # doctest: +SKIP
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "import_addons_losses needs tensorflow-addons, which is not installed. Run "
            "pip install 'keras-embcam[addons]' (it has no wheel for a Python above "
            "3.11), or take the losses of keras_embcam.losses, which need nothing."
        )
    package = ModuleType(PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    engine, keras_tensor = ModuleType("keras.src.engine"), ModuleType(MISSING_MODULE)
    engine.keras_tensor = keras_tensor  # type: ignore[attr-defined]
    keras_tensor.KerasTensor = keras.KerasTensor  # type: ignore[attr-defined]
    stand_ins = {
        PACKAGE: package,
        "keras.src.engine": engine,
        MISSING_MODULE: keras_tensor,
    }
    with _lend_modules(stand_ins):
        try:
            return importlib.import_module(f"{PACKAGE}.losses")
        except ImportError as error:
            raise ImportError(
                f"The losses of tensorflow-addons could not be imported: {error}. Run "
                "pip install 'keras-embcam[addons]' for the version that was tried and "
                "what it needs."
            ) from error


@contextmanager
def _lend_modules(stand_ins: dict[str, ModuleType]) -> Iterator[None]:
    """Put modules into ``sys.modules`` for a while, then take away what came of it."""

    def is_concerned(name: str) -> bool:
        return name in stand_ins or name.startswith(f"{PACKAGE}.")

    with _LOCK:
        before = {
            name: sys.modules.pop(name)
            for name in list(sys.modules)
            if is_concerned(name)
        }
        sys.modules.update(stand_ins)
        try:
            yield
        finally:
            for name in list(sys.modules):
                if is_concerned(name):
                    del sys.modules[name]
            sys.modules.update(before)
