"""Under a MirroredStrategy all replicas explain, and the results are those of one."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops, tree
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from keras_embcam import explain
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.explain_in_batches import embed
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.proxies import from_score, single_point
from keras_embcam.running import compiled_functions as compiled
from keras_embcam.weightings import gradcam

SIZE, WIDTH = 10, 4


class Devices:
    """A weighting that notes for which replica, and on which device, it is traced."""

    def __init__(self) -> None:
        self.replicas: list[int] = []
        self.devices: set[str] = set()

    def __call__(self, activations: Any, gradients: Any) -> Any:
        replica = tf.distribute.get_replica_context()
        number = tf.get_static_value(replica.replica_id_in_sync_group)
        self.replicas.append(int(number))
        weights = gradcam(activations, gradients)
        self.devices.add(weights.device)
        return weights


def make_strategy(num_replicas: int = 2) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy([f"CPU:{x}" for x in range(num_replicas)])


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, activation="relu")(images)
    x = layers.Conv2D(6, 3, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(WIDTH)(x))


def make_images(num_images: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(size=(num_images, SIZE, SIZE, 3)).astype("float32")


def make_vectors(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype("float32")


@pytest.fixture(scope="module")
def single() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def mirrored() -> keras.Model:
    with make_strategy().scope():
        return make_model()


def check_same(mirrored: keras.Model, single: keras.Model, *args: Any, **kw: Any):
    ours = explain(mirrored, *args, details=True, **kw)
    expected = explain(single, *args, details=True, **kw)
    ours, expected = tree.flatten(ours[:4]), tree.flatten(expected[:4])
    for left, right in zip(ours, expected, strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def count_traces(model: keras.Model) -> int:
    return sum(x.num_traces for x in compiled.list_compiled(model))


def test_both_replicas_work_and_one_trace_serves_all_batches() -> None:
    with make_strategy().scope():
        model = make_model()
    seen = Devices()
    for batch_size in (4, 5, 2):  # the last batches hold 1, 5 and 1 images
        explain(model, make_images(), weighting=seen, batch_size=batch_size)
    assert sorted(seen.replicas) == [0, 1]
    assert {x.rpartition("/")[2] for x in seen.devices} == {
        "device:CPU:0",
        "device:CPU:1",
    }
    assert count_traces(model) == 1


def test_each_replica_computes_its_half_only() -> None:
    """By the number of images that each sees, when it runs."""
    with make_strategy().scope():
        model = make_model()
    sizes = []

    def weighting(activations: Any, gradients: Any) -> Any:
        tf.py_function(
            lambda x: sizes.append(int(x)), [tf.shape(activations)[0]], Tout=[]
        )
        return gradcam(activations, gradients)

    for num_images, share in ((8, 4), (7, 4), (2, 1), (1, 1)):
        sizes.clear()
        explain(model, make_images(num_images), weighting=weighting)
        assert sizes == [share, share]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_results_are_those_of_one_device(mirrored, single, batch_size) -> None:
    check_same(mirrored, single, make_images(), batch_size=batch_size)


@pytest.mark.parametrize(
    "options",
    [
        {"proxies": make_vectors()},
        {"proxies": make_vectors(5)},
        {"proxies": make_vectors(5, 3)},
        {"target_class": np.arange(5) % WIDTH},
        {"proxies": single_point},
        {"resize": False, "normalize": False, "top_channels": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_each_image_keeps_its_proxy(mirrored, single, options) -> None:
    check_same(mirrored, single, make_images(), batch_size=3, **options)


@pytest.mark.parametrize(
    "proxies",
    [
        lambda y: y - ops.mean(y, axis=0),
        lambda y: ops.mean(y, axis=0),
        lambda y: ops.stack([y, y[::-1]], axis=1),
        from_score(lambda y: ops.sum(y * ops.mean(y, axis=0), axis=-1)),
    ],
    ids=["of each", "one for all", "several", "of a score"],
)
def test_a_function_sees_all_embeddings_of_the_batch(mirrored, single, proxies):
    check_same(mirrored, single, make_images(), proxies=proxies, batch_size=5)
    check_same(mirrored, single, make_images(1), proxies=proxies)


@pytest.mark.parametrize("num_rows", [2, 4])
def test_a_function_of_another_number_of_rows_is_refused(mirrored, num_rows) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each image"):
        explain(mirrored, make_images(3), proxies=lambda y: ops.ones((num_rows, WIDTH)))


def test_embeddings_without_heatmaps(mirrored, single) -> None:
    ours = embed(mirrored, make_images(), batch_size=2)
    np.testing.assert_allclose(ours, embed(single, make_images()), atol=1e-6)


def test_a_model_of_several_inputs(single) -> None:
    def make() -> keras.Model:
        inputs = [keras.Input((SIZE, SIZE, 3)), keras.Input((2,))]
        keras.utils.set_random_seed(1)
        return keras.Model(inputs, single(inputs[0]) + layers.Dense(WIDTH)(inputs[1]))

    with make_strategy().scope():
        ours = make()
    arrays = [make_images(), np.arange(10, dtype="float32").reshape(5, 2)]
    check_same(ours, make(), arrays, batch_size=3)


def test_changed_weights_show(single) -> None:
    with make_strategy().scope():
        model = make_model()
    explain(model, make_images())
    other = keras.models.clone_model(single)
    other.set_weights([0.5 - weight for weight in model.get_weights()])
    model.set_weights(other.get_weights())
    check_same(model, other, make_images())
    assert count_traces(model) == 1


def test_a_model_from_elsewhere_within_the_scope(single) -> None:
    """Keras's trainer takes the strategy of the scope too."""
    model = keras.models.clone_model(single)
    model.set_weights(single.get_weights())
    seen = Devices()
    with make_strategy().scope():
        ours = explain(model, make_images(), weighting=seen)
    assert sorted(seen.replicas) == [0, 1]
    np.testing.assert_allclose(ours, explain(single, make_images()), atol=1e-6)
    # And without it again.
    seen.replicas.clear()
    explain(model, make_images(), weighting=seen)
    assert seen.replicas == [0]


def test_one_replica_is_traced_as_without_a_strategy() -> None:
    def list_operations(model: keras.Model) -> list[str]:
        explain(model, make_images())
        (explainer,) = compiled.list_compiled(model)
        (concrete,) = explainer._run._list_all_concrete_functions()
        return [operation.type for operation in concrete.graph.get_operations()]

    with make_strategy(1).scope():
        model = make_model()
    assert list_operations(model) == list_operations(make_model())


def test_the_logger_uses_both_replicas_and_writes_once(tmp_path) -> None:
    """In a process of its own: strategies of one process share collective keys."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import conftest  # two devices
        from test_explain_distributed import fit_mirrored
        fit_mirrored(sys.argv[2])
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), Path(__file__).parent, tmp_path],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["replicas"] == [0, 1]
    for run in ("validation", "uniform_baseline"):
        steps = read_steps(tmp_path / run)
        assert "epoch_heatmap_ratio_bbox" in steps
        curves = {tag: x for tag, x in steps.items() if tag.startswith("epoch_")}
        assert all(x == [0, 1] for x in curves.values()), steps
    assert "heatmaps/00" in read_steps(tmp_path / "validation")
    # The last numbers are those of the trained weights on one device.
    model, logs = make_model(), {}
    model.load_weights(tmp_path / "trained.weights.h5")
    logger = EmbeddingCAMLogger(tmp_path / "alone", make_examples(), **LOGGED)
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    logger.on_epoch_end(0, logs)
    logger.on_train_end()
    assert "val_heatmap_ratio_bbox" in logs
    for name, value in logs.items():
        np.testing.assert_allclose(found["last"][name], value, atol=1e-5)


LOGGED: dict[str, Any] = {"proxy": "class_mean", "num_images": 3, "strict": True}


def fit_mirrored(folder: str) -> None:
    """Fit with the logger, save the weights, print what was seen."""
    examples, seen = make_examples(), Devices()
    with make_strategy().scope():
        model = make_model()
        model.compile("sgd", TripletSemiHardLoss())
    logger = EmbeddingCAMLogger(
        folder, examples, weighting=seen, batch_size=4, **LOGGED
    )
    images, labels = examples["image"][:8], examples["label"][:8]
    history = model.fit(
        images, labels, batch_size=8, epochs=2, verbose=0, callbacks=[logger]
    ).history
    model.save_weights(Path(folder) / "trained.weights.h5")
    last = {name: x[-1] for name, x in history.items() if name.startswith("val_")}
    print(json.dumps({"replicas": sorted(set(seen.replicas)), "last": last}))


def read_steps(folder: Path) -> dict[str, list[int]]:
    steps: dict[str, list[int]] = {}
    for file in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    return steps


def make_examples() -> dict[str, np.ndarray]:
    return {
        "image": make_images(9),
        "label": np.arange(9) % 2,
        "bbox": np.tile(np.float32([0.1, 0.2, 0.7, 0.9]), (9, 1)),
    }
