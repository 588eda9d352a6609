"""The losses of tensorflow-addons beside Keras 3.

Most of this runs on a stand-in package that asks for the same modules; the last tests
run on tensorflow-addons itself where it is installed.
"""

import importlib.util
import sys

import keras
import numpy as np
import pytest

from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.losses.addons import import_addons_losses

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_addons = pytest.mark.skipif(
    not HAS_ADDONS, reason="tensorflow-addons, the extra [addons], is not installed"
)
FILES = {
    "__init__.py": "raise RuntimeError('the package as a whole was imported')",
    "losses/__init__.py": """
from tensorflow_addons.utils.types import KerasTensor
from tensorflow_addons.losses.triplet import double
""",
    "losses/triplet.py": "def double(x): return 2 * x",
    "utils/__init__.py": "",
    "utils/types.py": "from keras.src.engine.keras_tensor import KerasTensor",
}


def concerned_modules():
    return {
        name: module
        for name, module in sys.modules.items()
        if name.startswith(("tensorflow_addons", "keras.src.engine"))
    }


@pytest.fixture
def fresh(monkeypatch):
    """Forget what was imported, before and after."""
    import_addons_losses.cache_clear()
    yield monkeypatch
    import_addons_losses.cache_clear()


@pytest.fixture
def fake_package(fresh, tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "tensorflow_addons" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    fresh.syspath_prepend(tmp_path)
    return tmp_path / "tensorflow_addons"


def test_losses_are_imported_without_the_package(fake_package):
    module = import_addons_losses()
    assert module.__name__ == "tensorflow_addons.losses"
    assert module.double(4) == 8
    assert module.KerasTensor is keras.KerasTensor
    assert import_addons_losses() is module


def test_no_stand_in_is_left_behind(fake_package):
    before = concerned_modules()
    import_addons_losses()
    assert concerned_modules() == before
    with pytest.raises(RuntimeError, match="as a whole"):
        importlib.import_module("tensorflow_addons")


def test_what_was_imported_before_is_put_back(fake_package, monkeypatch):
    mine = type(sys)("tensorflow_addons")
    mine.__spec__ = importlib.util.find_spec("tensorflow_addons")
    monkeypatch.setitem(sys.modules, "tensorflow_addons", mine)
    assert import_addons_losses().double(1) == 2
    assert sys.modules["tensorflow_addons"] is mine


def test_missing_package_is_named(fresh):
    fresh.setitem(sys.modules, "tensorflow_addons", None)
    fresh.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"tensorflow-addons, which is not installed.*keras-embcam\[addons\]"
    with pytest.raises(ImportError, match=message):
        import_addons_losses()


def test_missing_dependency_is_named_and_no_trace_is_left(fake_package):
    (fake_package / "losses" / "triplet.py").write_text("import no_such_typeguard")
    before = concerned_modules()
    message = r"could not be imported: No module named 'no_such_typeguard'.*\[addons\]"
    with pytest.raises(ImportError, match=message):
        import_addons_losses()
    assert concerned_modules() == before


def draw_points():
    generator = np.random.default_rng(0)
    labels = np.arange(32) % 4
    points = generator.standard_normal((32, 6)) + 2 * np.eye(6)[labels]
    return points.astype("float32"), labels


def make_model():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4),
            keras.layers.UnitNormalization(),
        ]
    )


@needs_addons
@pytest.mark.parametrize(
    "name", ["TripletSemiHardLoss", "TripletHardLoss", "LiftedStructLoss"]
)
def test_addons_losses_train(name, tmp_path):
    keras.utils.set_random_seed(0)
    points, labels = draw_points()
    model = make_model()
    model.compile(keras.optimizers.Adam(0.02), getattr(import_addons_losses(), name)())
    history = model.fit(points, labels, batch_size=32, epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(points, labels, batch_size=32, verbose=0) == pytest.approx(
        model.evaluate(points, labels, batch_size=32, verbose=0)
    )


@needs_addons
def test_addons_losses_of_pairs_train():
    """Similarities for the n-pairs loss, distances for the contrastive one."""
    points, labels = draw_points()
    addons = import_addons_losses()
    left, right = keras.Input((6,)), keras.Input((6,))
    embed = keras.layers.Dense(4)
    dots = keras.ops.matmul(embed(left), keras.ops.transpose(embed(right)))
    model = keras.Model([left, right], dots)
    model.compile("adam", addons.NpairsLoss())
    # One pair of each class in the batch.
    pairs = [points[:4], points[4:8]]
    history = model.fit(pairs, labels[:4], batch_size=4, epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    distances = keras.ops.norm(embed(left) - embed(right), axis=-1)
    model = keras.Model([left, right], distances)
    model.compile("adam", addons.ContrastiveLoss())
    pairs = [points, np.roll(points, 4, axis=0)]  # all of one class
    is_same_class = np.ones(32)
    history = model.fit(pairs, is_same_class, batch_size=32, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


@needs_addons
def test_addons_agree_with_the_losses_here():
    points, labels = draw_points()
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    theirs = import_addons_losses().TripletSemiHardLoss()(labels, unit)
    assert float(TripletSemiHardLoss()(labels, points)) == pytest.approx(
        float(theirs), rel=1e-5
    )


@needs_addons
def test_addons_give_nan_without_a_positive_pair():
    """What the documentation of the adapter says, and why the losses here exist."""
    points, labels = draw_points()
    theirs = import_addons_losses().TripletSemiHardLoss()
    assert np.isnan(theirs(labels[:4], points[:4]))
    assert TripletSemiHardLoss()(labels[:4], points[:4]) == 0
