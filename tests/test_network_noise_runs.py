"""Tests of keras_embcam.network.noise_runs: the memory of the first look at a model."""

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam.network import noise_runs
from keras_embcam.network.feature_maps import AllBranches
from keras_embcam.network.noise_runs import run_on_noise
from keras_embcam.network.view import ModelView

LARGE = (160, 144, 3)


class Count(layers.Identity):
    """Notes the shapes of what runs through it, and whether it runs eagerly."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.is_eager: list[bool] = []

    def call(self, x: Any) -> Any:
        self.is_eager.append(tf.executing_eagerly())

        def note(values: Any) -> Any:
            self.shapes.append(tuple(values.shape))
            return values

        y = tf.numpy_function(note, [x], x.dtype, stateful=False)
        return tf.ensure_shape(y, x.shape)


def make_model(*steps: Any, shape: tuple[int | None, ...] = LARGE) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            *steps,
            layers.Conv2D(6, 3, strides=4, name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("shape", [LARGE, (None, None, 3)])
def test_large_images_are_looked_at_one_at_a_time_and_never_eagerly(
    shape: tuple[int | None, ...],
) -> None:
    # An eager run of a Functional model keeps the activations of all its layers.
    count = Count()
    model = make_model(count, shape=shape)
    count.is_eager.clear()  # of when it was built
    ModelView(model, images=np.zeros((5, *LARGE), "float32"))
    assert count.shapes and {x[0] for x in count.shapes} == {1}
    assert not any(count.is_eager)
    # The trial, the gradient at the last layer, and the embeddings with it held fixed,
    # which need nothing before it.
    assert len(count.shapes) == 2 * 3


@pytest.mark.parametrize("activation, num_traces", [(None, 2), ("sigmoid", 3)])
def test_a_chain_of_layers_is_traced_for_the_trial_and_the_gradient_alone(
    activation: str | None, num_traces: int
) -> None:
    # That nothing goes around its last layer is seen in the graph. Whether values
    # between 0 and 1 are those of a gate is tried twice, by one trace.
    count = Count()
    inputs = keras.Input(LARGE)
    x = count(layers.Conv2D(6, 3, strides=2, activation="relu")(inputs))
    x = layers.Conv2D(6, 3, strides=4, activation=activation, name="last")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    count.is_eager.clear()
    assert ModelView(model, AllBranches()).conv_layer == "last"
    assert len(count.is_eager) == num_traces


def test_small_images_are_looked_at_all_at_once() -> None:
    count = Count()
    model = make_model(count, shape=(64, 64, 3))
    count.is_eager.clear()
    ModelView(model)
    assert {x[0] for x in count.shapes} == {3} and all(count.is_eager)


def test_what_has_a_row_for_each_image_is_joined() -> None:
    images = np.arange(3, dtype="float32").reshape(3, 1, 1, 1) * np.ones(
        (1, 200, 200, 2)
    )

    def function(images: Any, rows: Any) -> Any:
        return {"sum": images[:, 0, 0] + rows, "none": None, "number": ops.ones(())}

    rows = np.float32([[10], [20], [30]])
    found = run_on_noise(function, ops.convert_to_tensor(images, "float32"), rows)
    assert np.asarray(found["sum"]).tolist() == [[10, 10], [21, 21], [32, 32]]
    assert found["none"] is None and float(found["number"]) == 1


SLOW = """
import sys
import keras, numpy as np
import keras_embcam
name, height, width, is_open, what = sys.argv[1:]
size = (int(height), int(width), 3)
model = getattr(keras.applications, name)(
    weights=None, include_top=False, pooling="avg",
    input_shape=(None, None, 3) if is_open == "open" else size,
)
images = np.random.default_rng(0).uniform(0, 255, (1, *size)).astype("float32")
if what == "predict":
    model.predict(images, verbose=0)
else:
    keras_embcam.explain(model, images)
# Not `ru_maxrss`, which counts the process that started this one too.
(peak,) = [x for x in open("/proc/self/status") if x.startswith("VmHWM")]
print(peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts peaks of memory")
@pytest.mark.parametrize(
    "network",
    [
        ("ResNet50", "800", "800", "fixed"),
        ("EfficientNetB4", "600", "600", "fixed"),
        ("MobileNetV2", "1200", "1600", "open"),
    ],
)
def test_the_first_explanation_takes_at_most_half_as_much_memory_again_as_predict(
    network: tuple[str, ...],
) -> None:
    predict, explain = (
        int(
            subprocess.run(
                [sys.executable, "-c", SLOW, *network, what],
                capture_output=True,
                check=True,
                text=True,
            ).stdout.split()[-1]
        )
        for what in ("predict", "explain")
    )
    assert explain <= 1.5 * predict


# Looked at one by one, models show the same


def attend(x: Any) -> Any:
    x = layers.Reshape((16, 6))(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))


def two_branches(x: Any) -> Any:
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    parts = [
        layers.Conv2D(5, 2, name=f"branch{i}")(layers.Multiply()([x, gate]))
        for i in range(2)
    ]
    return layers.Concatenate()([layers.GlobalMaxPooling2D()(x) for x in parts])


@pytest.mark.parametrize("head", [attend, two_branches])
def test_large_and_small_images_show_the_same(
    head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 4, strides=4, activation="relu", name="first")(inputs)
    x = layers.UnitNormalization(name="unit")(layers.Dense(7)(head(x)))
    model = keras.Model(inputs, x)
    views = []
    for limit in (noise_runs.MAX_EAGER_PIXELS, 0):
        monkeypatch.setattr(noise_runs, "MAX_EAGER_PIXELS", limit)
        views.append(ModelView(model, AllBranches(all_blocks=True)))
    assert repr(views[0]) == repr(views[1])
    assert "input of 'unit'" in repr(views[0])
    assert views[0].makes_tokens == (head is attend)
    if head is two_branches:
        assert sorted(views[0].conv_layer) == ["branch0", "branch1"]
