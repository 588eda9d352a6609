"""Tests of keras_embcam.evaluation.weight_randomization."""

import doctest

import keras
import numpy as np
import pytest

from keras_embcam import explain
from keras_embcam.evaluation import weight_randomization as module
from keras_embcam.evaluation.weight_randomization import randomize_weights

layers = keras.layers


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def weights_of(layer) -> list[bytes]:
    return [keras.ops.convert_to_numpy(x.value).tobytes() for x in layer.weights]


def test_layers_are_randomized_one_after_the_other_from_the_top(parts) -> None:
    model = parts.functional()
    before = {layer.name: weights_of(layer) for layer in model.layers}
    order = ["dense", "late", "target", "norm", "stem"]
    seen = []
    with randomize_weights(model) as paths:
        for path in paths:
            seen.append(path)
            changed = [x.name for x in model.layers if weights_of(x) != before[x.name]]
            assert sorted(changed) == sorted(seen)
        # As a new layer has them.
        assert not model.get_layer("dense").bias.numpy().any()
        assert (model.get_layer("norm").moving_variance.numpy() == 1).all()
    assert seen == order
    assert before == {layer.name: weights_of(layer) for layer in model.layers}


def test_weights_come_back_after_an_early_exit_and_after_an_exception(parts) -> None:
    model = parts.functional()
    before = weights_of(model)
    with randomize_weights(model) as paths:
        next(paths)
        assert weights_of(model) != before
    assert weights_of(model) == before
    with pytest.raises(RuntimeError, match="stop"), randomize_weights(model) as paths:
        for path in paths:
            if path == "norm":
                model.get_layer("stem").kernel.assign_add(
                    keras.ops.ones_like(model.get_layer("stem").kernel)
                )
                raise RuntimeError("stop")
    assert weights_of(model) == before


def test_the_seed_decides_and_no_other_random_state_is_touched(parts) -> None:
    model = parts.functional()

    def randomize(seed: int) -> list[bytes]:
        with randomize_weights(model, seed) as paths:
            list(paths)
            return weights_of(model)

    state = np.random.get_state()[1].tolist()
    assert randomize(1) == randomize(1) != randomize(2)
    assert np.random.get_state()[1].tolist() == state


def test_nested_shared_composite_and_half_precision_layers_are_found() -> None:
    class Gated(layers.Layer):
        """A weight of its own beside a layer."""

        def __init__(self, **options) -> None:
            super().__init__(**options)
            self.inner = layers.Dense(2, name="inner")

        def build(self, shape) -> None:
            self.inner.build(shape)
            self.gate = self.add_weight(shape=(2,), initializer="uniform", name="gate")

        def call(self, x):
            return self.inner(x) * self.gate

    shared = layers.Dense(3, dtype="float16", name="shared")
    inputs = keras.Input((4, 3))
    x = layers.Bidirectional(layers.LSTM(2), name="both")(shared(shared(inputs)))
    backbone = keras.Model(inputs, Gated(name="gated")(x), name="backbone")
    model = keras.Sequential(
        [keras.Input((4, 3)), backbone, layers.Dense(2, name="top")]
    )
    before = weights_of(model)
    with randomize_weights(model) as paths:
        found = list(paths)
        after = weights_of(model)
    assert found[:3] == ["top", "backbone/gated/inner", "backbone/gated"]
    assert found[-1] == "backbone/shared" and len(found) == 6
    biases = [x.name in ("bias", "cell_bias") for x in model.weights]
    assert [a != b for a, b in zip(after, before, strict=True)] == [
        not is_bias for is_bias in biases
    ]
    assert weights_of(model) == before


def test_the_map_changes_and_comes_back(parts) -> None:
    model = parts.functional()
    proxies = parts.proxies
    maps = explain(model, parts.images, proxies=proxies, conv_layer="target")
    others = []
    with randomize_weights(model, seed=3) as paths:
        for _ in paths:
            others.append(
                explain(model, parts.images, proxies=proxies, conv_layer="target")
            )
    assert not np.allclose(others[0], maps)
    again = explain(model, parts.images, proxies=proxies, conv_layer="target")
    np.testing.assert_array_equal(again, maps)


def test_what_cannot_be_randomized_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a keras.Model"):
        with randomize_weights(layers.Dense(2)):
            pass

    class Odd(layers.Layer):
        def __init__(self, width: int) -> None:
            super().__init__(name="odd")
            self.scale = self.add_weight(shape=(width,), name="scale")

        def call(self, x):
            return x * self.scale

    model = keras.Sequential([keras.Input((3,)), Odd(3), layers.Dense(2, name="top")])
    before = weights_of(model)
    with pytest.raises(ValueError, match="made again from its config.*'odd'"):
        with randomize_weights(model) as paths:
            assert next(paths) == "top"
            next(paths)
    assert weights_of(model) == before
