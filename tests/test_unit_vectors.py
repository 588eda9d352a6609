"""Rows of length one: of any length that a float has, with finite gradients."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import unit_vectors
from keras_embcam.unit_vectors import normalize_rows


def test_the_examples_run() -> None:
    results = doctest.testmod(unit_vectors)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1.0, 1e30])
def test_every_length_but_zero_has_a_direction(length: float) -> None:
    random = np.random.default_rng(0).normal(size=(4, 2, 5))
    expected = random / np.linalg.norm(random, axis=-1, keepdims=True)
    found = normalize_rows(tf.constant(length * random, "float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_are_those_of_the_quotient() -> None:
    """The gradient of ``u . c`` by v is ``(c - (u . c) u) / |v|``; of zero, zero."""
    vectors = tf.constant([[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]])
    cotangents = np.float32([[1.0, -2.0, 0.5], [1.0, 1.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        units = normalize_rows(vectors)
    gradients = tape.gradient(units, vectors, cotangents)
    unit = vectors[0].numpy() / 13
    expected = (cotangents[0] - (unit @ cotangents[0]) * unit) / 13
    np.testing.assert_allclose(gradients, [expected, [0, 0, 0]], atol=1e-7)


def test_what_is_not_finite_stays_visible() -> None:
    found = normalize_rows(tf.constant([[np.nan, 1.0], [np.inf, 1.0], [0.0, 2.0]]))
    assert np.isnan(found[:2]).any(axis=1).all()
    np.testing.assert_array_equal(found[2], [0, 1])
    assert normalize_rows(tf.zeros((0, 3))).shape == (0, 3)
