"""What an explanation costs, counted at run time: no figure here is a time.

The operations of the traced graph are also looked at in test_explain_compiled.py, and
those of a database of grad-weights are counted in test_transfer.py.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import EmbeddingCAM, explain, explain_batches
from keras_embcam.callbacks import EmbeddingCAMLogger, class_means
from keras_embcam.running import compiled_functions as compiled

SIZE, WIDTH = 16, 4


@keras.saving.register_keras_serializable(package="test_cost_counts")
class Count(layers.Layer):
    """Hands its input on, and counts the images that pass, forward and back."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.forward: list[int] = []
        self.backward: list[int] = []
        self.num_calls = 0

    def call(self, maps: Any) -> Any:
        """Return the maps."""
        self.num_calls += 1

        @tf.custom_gradient
        def identity(x: tf.Tensor) -> Any:
            return note(x, self.forward), lambda dy: note(dy, self.backward)

        return identity(maps)

    def clear(self) -> None:
        """Start again."""
        self.forward.clear()
        self.backward.clear()


def note(x: tf.Tensor, counted: list[int]) -> tf.Tensor:
    def add(array: np.ndarray) -> np.ndarray:
        counted.append(len(array))
        return array

    # Stateless, so that TensorFlow drops it where nobody needs the result.
    passed = tf.numpy_function(add, [x], x.dtype, stateful=False)
    return tf.ensure_shape(passed, x.shape)


def make_model() -> tuple[keras.Model, Count, Count]:
    """Return a model with a nested backbone, and what counts in backbone and head."""
    in_backbone, in_head = Count(name="in_backbone"), Count(name="in_head")
    backbone = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(4, 3, name="fine", activation="relu"),
            in_backbone,
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, strides=2, name="middle", activation="relu"),
            layers.Conv2D(6, 3, strides=2, name="last", activation="relu"),
        ],
        name="backbone",
    )
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            backbone,
            layers.GlobalAveragePooling2D(),
            in_head,
            layers.Dense(WIDTH, name="embedding"),
            layers.UnitNormalization(),
        ]
    )
    return model, in_backbone, in_head


def make_images(num_images: int) -> np.ndarray:
    shape = (num_images, SIZE, SIZE, 3)
    return np.random.default_rng(0).random(shape, dtype="float32")


def make_vectors(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype("float32")


def test_ten_calls_of_ten_batch_sizes_run_the_python_code_once() -> None:
    model, in_backbone, _ = make_model()
    explain(model, make_images(3))  # looks at the model, and traces
    first = in_backbone.num_calls
    for num_images in range(1, 11):
        explain(model, make_images(num_images), batch_size=7)
    assert in_backbone.num_calls == first
    (explainer,) = compiled.list_compiled(model)
    assert explainer.num_traces == 1


@pytest.mark.parametrize(
    ("options", "num_backward"),
    [
        ({}, 1),
        ({"proxies": make_vectors(10)}, 1),
        ({"proxies": make_vectors(10, WIDTH - 1)}, WIDTH - 1),
        # More proxies than the embedding has numbers: one way back for each of these.
        ({"proxies": make_vectors(10, WIDTH + 1)}, WIDTH),
        ({"proxies": make_vectors(10, 5), "weighting": "gradcam++"}, 5),
        # Three layers at once share one way back.
        ({"preset": "localize"}, 1),
        ({"preset": "localize", "proxies": make_vectors(10, 5)}, 5),
    ],
)
def test_one_forward_pass_an_image_and_one_head_pass_a_proxy(
    options, num_backward
) -> None:
    model, in_backbone, in_head = make_model()
    images = make_images(10)
    explain(model, images, batch_size=4, **options)
    in_backbone.clear()
    in_head.clear()
    explain(model, images, batch_size=4, **options)
    assert in_backbone.forward == in_head.forward == [4, 4, 2]
    assert sum(in_head.backward) == 10 * num_backward
    assert not in_backbone.backward


def test_the_backbone_is_differentiated_where_the_layer_asks_for_it() -> None:
    """The counter in the backbone counts what it is there for."""
    model, in_backbone, _ = make_model()
    explain(model, make_images(2), conv_layer="fine")
    in_backbone.clear()
    explain(model, make_images(2), conv_layer="fine")
    assert in_backbone.backward == [2]


def test_the_eager_layer_costs_the_same() -> None:
    model, in_backbone, in_head = make_model()
    cam = EmbeddingCAM(model)
    cam(make_images(3))
    in_backbone.clear()
    in_head.clear()
    cam(make_images(3))
    assert (in_backbone.forward, in_backbone.backward) == ([3], [])
    assert (in_head.forward, in_head.backward) == ([3], [3])


def count_all_operations(graph: Any) -> Counter[str]:
    """Count the operations of a graph and its functions, those never run included."""
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes += function.node_def
    return Counter(node.op for node in nodes)


@pytest.mark.parametrize("shape", [None, (2,), (2, 3)])
def test_the_graph_holds_no_gradient_of_a_convolution(shape) -> None:
    """Of a nested backbone, at the default layer; nothing is left to be pruned."""
    model, _, _ = make_model()
    vectors = None if shape is None else make_vectors(*shape)
    explain(model, make_images(2), proxies=vectors)
    (explainer,) = compiled.list_compiled(model)
    (concrete,) = explainer._run._list_all_concrete_functions()
    counts = count_all_operations(concrete.graph)
    assert counts["Conv2D"] == 3
    gradients = [x for x in counts if "Conv" in x or "Norm" in x or "Relu" in x]
    assert not [x for x in gradients if "Backprop" in x or "Grad" in x]


@pytest.mark.parametrize("has_tab", [False, True])
@pytest.mark.parametrize(
    ("proxy", "max_kept_bytes", "num_runs"),
    [("single_point", 0, 1), ("class_mean", 2**28, 1), ("class_mean", 0, 2)],
)
def test_an_update_of_the_logger(
    tmp_path, monkeypatch, proxy, max_kept_bytes, num_runs, has_tab
) -> None:
    """One run over the examples, two with class means of many, and the pictures."""
    monkeypatch.setattr(class_means, "MAX_KEPT_BYTES", max_kept_bytes)
    model, in_backbone, in_head = make_model()
    model.compile("sgd", "mse")
    images = make_images(10)
    examples = {
        "image": images,
        "label": np.arange(10) % 2,
        "bbox": np.tile(np.float32([0, 0, 0.5, 0.5]), (10, 1)),
    }
    logger = EmbeddingCAMLogger(
        tmp_path,
        examples,
        proxy=proxy,
        num_images=3,
        num_tab_examples=1000 if has_tab else 0,
        batch_size=4,
        strict=True,
    )
    fit = {"x": images[:1], "y": make_vectors(1), "verbose": 0, "callbacks": [logger]}
    model.fit(**fit)  # the first update compiles
    in_backbone.clear()
    in_head.clear()
    model.fit(**fit)
    # One image is trained on. The wrong first match that is drawn takes two more, the
    # query and what won, and each number of the embedding a way back, for the
    # contributions.
    num_forward = 1 + 10 * num_runs + 3 + 2
    num_backward = 1 + 10 + 3 + WIDTH
    if has_tab:  # pairs take each of their images once more, with contributions
        in_pairs = sum(in_backbone.forward) - num_forward
        assert 0 < in_pairs <= 10
        num_forward += in_pairs
        num_backward += WIDTH * in_pairs
    assert sum(in_backbone.forward) == num_forward
    assert sum(in_head.backward) == num_backward
    assert sum(in_backbone.backward) == 1
    # Batches of 4, 2 and 3 share a trace after the first one.
    model.fit(**fit, epochs=2)
    assert logger._run._figures._measure.experimental_get_tracing_count() == 2


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_peak_of_the_memory_does_not_grow_with_the_stream() -> None:
    """Of the whole process, TensorFlow's own memory included."""
    size, batch_size, num_batches = 96, 16, 300
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(4, 3, strides=8),
            layers.GlobalAveragePooling2D(),
            layers.Dense(WIDTH),
        ]
    )

    def generate() -> Iterator[np.ndarray]:
        for index in range(num_batches):
            yield np.full((batch_size, size, size, 3), index / num_batches, "float32")

    signature = tf.TensorSpec((batch_size, size, size, 3))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    peaks = []
    for _ in explain_batches(model, dataset):
        peaks.append(max(resident_bytes(), *peaks[-1:], 0))
    assert len(peaks) == num_batches
    # The maps of the other batches take this much, and their images three times it.
    grown = num_batches * 0.8 * batch_size * size * size * 4
    assert peaks[-1] - peaks[num_batches // 5] < grown / 4
