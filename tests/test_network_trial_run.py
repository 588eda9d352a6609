"""Tests of keras_embcam.network.trial_run."""

import doctest
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam.network import trial_run as module
from keras_embcam.network.calls import vectors_of
from keras_embcam.network.trial_run import (
    TrialRun,
    enclosing_paths,
    list_operations,
)


def make_backbone(name: str = "backbone") -> keras.Model:
    """Return a Functional model with a nested block and an operation."""
    inputs = keras.Input((8, 8, 3))
    block = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv")], name="block"
    )
    outputs = ops.relu(block(inputs))
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture
def nested() -> keras.Model:
    """Return a network with `conv` twice, at different depths of two branches."""
    inputs = keras.Input((8, 8, 3), name="images")
    first = make_backbone("first")(inputs)
    second = layers.Conv2D(3, 3, name="late")(make_backbone("second")(inputs))
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (first, second)]
    outputs = layers.Dense(4, name="embedding")(layers.Concatenate()(pooled))
    return keras.Model(inputs, outputs)


class Twins(keras.Model):
    """Two layers of one name side by side, each with a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [
            keras.Sequential([layers.Conv2D(2, 3, name="conv")], name="block")
            for _ in range(2)
        ]
        self.operations = "an attribute that only Functional models have"

    def call(self, x: Any) -> Any:
        return ops.mean(self.blocks[1](self.blocks[0](x)), axis=(1, 2))


@pytest.fixture
def twins() -> keras.Model:
    """Return a built model."""
    model = Twins()
    model(np.zeros((1, 8, 8, 3)))
    return model


IMAGES = np.zeros((1, 8, 8, 3), "float32")


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# list_operations


def test_operations_at_any_depth_are_listed_by_path(nested: keras.Model) -> None:
    found = list_operations(nested)
    assert found["late"] is nested.get_layer("late")
    assert found["first"] is nested.get_layer("first")
    block = nested.get_layer("first").get_layer("block")
    assert found["first/block"] is block
    assert found["first/block/conv"] is block.get_layer("conv")
    relus = [x for path, x in found.items() if path.startswith("first/relu")]
    assert len(relus) == 1 and not isinstance(relus[0], layers.Layer)
    assert len({id(x) for x in found.values()}) == len(found)


def test_layers_of_one_name_side_by_side_are_numbered(twins: Any) -> None:
    found = list_operations(twins)
    assert [path for path in found if "input" not in path] == [
        "block#1",
        "block#1/conv",
        "block#2",
        "block#2/conv",
    ]
    assert found["block#1/conv"] is twins.blocks[0].layers[0]
    assert found["block#2/conv"] is twins.blocks[1].layers[0]


def test_a_layer_in_several_places_is_listed_where_it_is_least_deep() -> None:
    conv = layers.Conv2D(2, 1, name="conv")
    inner = keras.Sequential([keras.Input((8, 8, 3)), conv], name="inner")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Add()([inner(inputs), conv(inputs)]))
    paths = [path for path, x in list_operations(model).items() if x is conv]
    assert paths == ["conv"]


def test_wrapped_layers_are_listed() -> None:
    inputs = keras.Input((2, 8, 8, 3))
    wrapper = layers.TimeDistributed(layers.Conv2D(2, 3, name="conv"), name="time")
    model = keras.Model(inputs, wrapper(inputs))
    assert list_operations(model)["time/conv"] is wrapper.layer


def test_a_layer_that_knows_its_model_ends_no_path() -> None:
    class Owned(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(2, 3, name="conv")
            self.conv.owner = self

    assert list(list_operations(Owned())) == ["conv"]


def test_enclosing_paths_go_from_the_inside_out() -> None:
    assert enclosing_paths("a/b/c") == ["a/b", "a", ""]
    assert enclosing_paths("a") == [""]


# TrialRun


def test_calls_hold_what_each_operation_made(nested: keras.Model) -> None:
    trial = TrialRun(nested)
    embedding = trial.first_call(nested.get_layer("embedding"))
    np.testing.assert_array_equal(embedding.output, trial.outputs)
    kernel, bias = nested.get_layer("embedding").get_weights()
    np.testing.assert_allclose(
        embedding.inputs[0] @ kernel + bias, embedding.output, rtol=1e-5, atol=1e-5
    )
    late = trial.first_call(nested.get_layer("late"))
    assert late.shape == (3, 4, 4, 3) and late.output is None
    assert late.inputs[0] is None


def test_a_container_repeats_what_its_last_layer_made(nested: keras.Model) -> None:
    trial = TrialRun(nested)
    repeats = {trial.path(call.operation): call.repeats for call in trial.calls}
    assert repeats["first"] and repeats["first/block"]
    assert not repeats["first/block/conv"] and not repeats["late"]


def test_a_layer_that_is_off_repeats_its_input() -> None:
    class TwoBranches(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.convs = [layers.Conv2D(2, 3) for _ in range(2)]
            self.drop = layers.Dropout(0.5)

        def call(self, x: Any) -> Any:
            first, second = (conv(x) for conv in self.convs)
            # What it returns is not the latest output that was made.
            return ops.mean(self.drop(first) + second, axis=(1, 2))

    model = TwoBranches()
    model(IMAGES)
    trial = TrialRun(model, IMAGES)
    assert trial.first_call(model.drop).repeats
    assert not any(trial.first_call(conv).repeats for conv in model.convs)


def test_inference_mode_is_used() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Dropout(0.9),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )
    trial = TrialRun(model)
    # A batch normalisation that was never trained divides by sqrt(1 + 1e-3).
    expected = np.mean(trial.probe, axis=(1, 2)) / np.sqrt(1.001)
    np.testing.assert_allclose(trial.outputs, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_vectors_are_the_float32_values_of_one_vector_an_image(dtype: str) -> None:
    values = np.float32([[1, 2, 4], [8, 16, 32]])
    for shape in ((2, 3), (2, 1, 1, 3), (2, 3, 1)):
        vectors = vectors_of(ops.cast(values.reshape(shape), dtype))
        assert vectors is not None and vectors.dtype == "float32"
        np.testing.assert_array_equal(vectors, values)


def test_what_is_no_vector_an_image_has_none() -> None:
    for shape in ((2, 2, 3), (2, 4, 4, 3), (6,)):
        assert vectors_of(ops.zeros(shape)) is None
    assert vectors_of(ops.zeros((2, 3), "int32")) is None
    assert vectors_of(None) is None and vectors_of(True) is None
    assert vectors_of([ops.zeros((2, 3))]) is None


# find_operation


def find(model: keras.Model, identifier: Any) -> Any:
    """Find a convolution."""
    images = None if isinstance(model, keras.Function) else IMAGES
    return TrialRun(model, images).find_operation(identifier, "conv_layer", 4)


@pytest.mark.parametrize("path", ["late", "first/block/conv", "second/block", "first"])
def test_a_path_names_an_operation(nested: keras.Model, path: str) -> None:
    assert find(nested, path) is list_operations(nested)[path]


def test_the_end_of_a_path_is_enough_where_it_is_the_only_one() -> None:
    inputs = keras.Input((8, 8, 3))
    outputs = ops.mean(make_backbone()(inputs), axis=(1, 2))
    model = keras.Model(inputs, outputs)
    conv = list_operations(model)["backbone/block/conv"]
    for identifier in ("conv", "block/conv", "backbone/block/conv", conv):
        assert find(model, identifier) is conv


def test_a_whole_path_goes_before_the_end_of_a_longer_one() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="conv")(inputs)
    model = keras.Model(inputs, ops.mean(make_backbone()(x), axis=(1, 2)))
    assert find(model, "conv") is model.get_layer("conv")


def test_an_ambiguous_name_lists_paths_with_shapes(nested: keras.Model) -> None:
    message = (
        r"`conv_layer='conv'` is ambiguous. Pass the layer itself, or one of these "
        r"paths:(\n  (first|second)/block/conv \(None, 6, 6, 2\)){2}$"
    )
    with pytest.raises(ValueError, match=message) as error:
        find(nested, "conv")
    assert "first" in str(error.value) and "second" in str(error.value)


def test_numbered_paths_are_not_ambiguous(twins: Any) -> None:
    for number in (1, 2):
        conv = twins.blocks[number - 1].layers[0]
        assert find(twins, f"block#{number}/conv") is conv
        assert find(twins, conv) is conv
    for name in ("conv", "block/conv", "block"):
        with pytest.raises(ValueError, match=r"ambiguous.*\n  block#1.*\n  block#2"):
            find(twins, name)


def test_an_unknown_name_lists_candidates_the_last_one_first(parts: Any) -> None:
    message = (
        r"`conv_layer` must name a layer of the model. Received: 'lat'. Did you mean "
        r"'late'\? Candidates:\n  late \(None, 4, 3, 6\)\n  drop \(None, 5, 4, 5\)\n"
        r"  target \(None, 5, 4, 5\)\n  norm \(None, 7, 6, 4\)\n"
        r"  stem \(None, 7, 6, 4\)$"
    )
    with pytest.raises(ValueError, match=message):
        find(parts.functional(), "lat")


def test_candidates_for_an_embedding_are_vectors(nested: keras.Model) -> None:
    trial = TrialRun(nested)
    with pytest.raises(ValueError, match=r"\n  embedding \(None, 4\)\n") as error:
        trial.find_operation("xyz", "embedding_layer", 2)
    assert "late" not in str(error.value) and "Did you mean" not in str(error.value)


def test_a_long_list_of_candidates_is_cut(nested: Any) -> None:
    trial = TrialRun(nested)
    num_candidates = len(
        {id(x.operation) for x in trial.calls if x.shape and len(x.shape) == 4}
    )
    lines = trial.list_candidates(4, num_listed=2).split("\n")
    assert len(lines) == 3
    assert lines[-1] == f"  ... and {num_candidates - 2} more before these"


def test_no_candidates_are_said_to_be_none() -> None:
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, ops.mean(inputs, axis=(1, 2)))
    with pytest.raises(ValueError, match=r"Candidates:\n  \(none\)"):
        find(model, "conv")


@pytest.mark.parametrize("stranger", [layers.Conv2D(2, 3, name="late"), 3, None])
def test_an_object_of_another_model_is_refused(nested: Any, stranger: Any) -> None:
    message = r"the name, the path or the object of a layer inside the model. Received"
    with pytest.raises(ValueError, match=message):
        find(nested, stranger)


def test_a_layer_that_is_called_twice_asks_for_the_branch_model() -> None:
    branch = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="c")])
    inputs = [keras.Input((8, 8, 3)) for _ in range(2)]
    pooled = [ops.mean(branch(x), axis=(1, 2)) for x in inputs]
    model = keras.Model(inputs, pooled[0] - pooled[1])
    trial = TrialRun(model)
    with pytest.raises(ValueError, match="/c' is called 2 times .* branch model"):
        trial.find_operation("c", "conv_layer", 4)


def test_a_layer_that_is_not_called_says_so() -> None:
    class Unused(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.used = layers.Conv2D(2, 3, name="used")
            self.unused = layers.Conv2D(2, 3, name="unused")
            self.unused.build((None, 8, 8, 3))

        def call(self, x: Any) -> Any:
            return ops.mean(self.used(x), axis=(1, 2))

    model = Unused()
    model(IMAGES)
    message = "'unused' cannot be recorded: the model did not call it on inference"
    with pytest.raises(ValueError, match=message):
        find(model, "unused")


class Compiled(layers.Layer):
    """A layer whose call is compiled, with a convolution inside."""

    def __init__(self) -> None:
        super().__init__(name="compiled")
        self.conv = layers.Conv2D(2, 3, name="conv")

    def build(self, shape: Any) -> None:
        self.conv.build(shape)

    @tf.function
    def call(self, x: Any) -> Any:
        return self.conv(x)


@pytest.mark.parametrize("traced_before", [False, True])
def test_a_layer_inside_a_compiled_call_names_the_culprit(traced_before: bool) -> None:
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, ops.mean(Compiled()(inputs), axis=(1, 2)))
    if traced_before:
        model(IMAGES)
    message = (
        "'compiled/conv' cannot be recorded: it runs inside the `call` of 'compiled', "
        "which is compiled with `tf.function`. Remove that decorator"
    )
    with pytest.raises(ValueError, match=message):
        find(model, "conv")
    # What the compiled layer itself returns is in reach.
    assert find(model, "compiled") is model.get_layer("compiled")


def test_a_layer_inside_a_compiled_model_names_the_model() -> None:
    class CompiledModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(2, 3, name="conv")

        @tf.function
        def call(self, x: Any) -> Any:
            return ops.mean(self.conv(x), axis=(1, 2))

    model = CompiledModel()
    model(IMAGES)
    with pytest.raises(ValueError, match="inside the `call` of the model, which is"):
        find(model, "conv")


@pytest.mark.parametrize("depth", [0, 1])
def test_channels_first_is_refused(depth: int) -> None:
    pool = layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")
    inputs = keras.Input((3, 8, 8))
    model = keras.Model(inputs, pool(inputs), name="inner")
    if depth:
        model = keras.Model(inputs, model(inputs))
    path = "inner/pool" if depth else "pool"
    message = f"'{path}' has data_format='channels_first'. Only channels_last models"
    with pytest.raises(ValueError, match=message):
        TrialRun(model)


def test_all_is_unhooked_afterwards_also_after_an_error(parts: Any) -> None:
    model = parts.functional()
    TrialRun(model)
    assert not any("call" in vars(x) for x in list_operations(model).values())
    with pytest.raises(ValueError, match="expected shape=|incompatible"):
        TrialRun(model, np.zeros((1, 5, 5, 7), "float32"))
    assert not any("call" in vars(x) for x in list_operations(model).values())
