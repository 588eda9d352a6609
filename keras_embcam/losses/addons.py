"""The losses of tensorflow-addons, imported beside Keras 3."""

import functools
import importlib
import importlib.util
import sys
from types import ModuleType

import keras

PACKAGE = "tensorflow_addons"
# A package of Keras 2 that Keras 3 lacks. From its module `keras_tensor` the losses
# import one name, for a type annotation.
ENGINE = "keras.src.engine"


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
    engine, keras_tensor = ModuleType(ENGINE), ModuleType(f"{ENGINE}.keras_tensor")
    engine.keras_tensor = keras_tensor  # type: ignore[attr-defined]
    keras_tensor.KerasTensor = keras.KerasTensor  # type: ignore[attr-defined]
    before = _remove_modules()
    sys.modules.update({x.__name__: x for x in (package, engine, keras_tensor)})
    try:
        return importlib.import_module(f"{PACKAGE}.losses")
    except ImportError as error:
        raise ImportError(
            f"The losses of tensorflow-addons could not be imported: {error}. Run pip "
            "install 'keras-embcam[addons]' for the version that was tried and what "
            "it needs."
        ) from error
    finally:
        _remove_modules()
        sys.modules.update(before)


def _remove_modules() -> dict[str, ModuleType]:
    """Take the stand-ins, and what was imported below them, out of `sys.modules`."""
    packages = (f"{PACKAGE}.", f"{ENGINE}.")
    found = [name for name in sys.modules if f"{name}.".startswith(packages)]
    return {name: sys.modules.pop(name) for name in found}
