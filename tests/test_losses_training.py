"""The losses in model.fit: precision, compilation, saving, several devices."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import losses
from keras_embcam.layers import Proxies
from keras_embcam.sampling import sample_balanced_batches

NUM_CLASSES, DIMENSION = 4, 8
PROXY_LOSSES = [losses.ProxyNCALoss, losses.ProxyAnchorLoss]
ALL = [getattr(losses, name) for name in losses.__all__]


def make_loss(loss_class):
    return loss_class(seed=0) if loss_class is losses.MarginLoss else loss_class()


def draw_points(num_examples=96):
    """Return clouds of points that overlap in all but two directions."""
    generator = np.random.default_rng(0)
    labels = np.arange(num_examples) % NUM_CLASSES
    points = 2 * generator.standard_normal((num_examples, 12))
    angles = 2 * np.pi * labels / NUM_CLASSES
    points[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.astype("float32"), labels


def make_model(loss_class):
    layers = [
        keras.Input((12,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(DIMENSION),
    ]
    if loss_class in PROXY_LOSSES:
        layers.append(Proxies(NUM_CLASSES))
    return keras.Sequential(layers)


def fit(loss_class, epochs=3, **compile_options):
    keras.utils.set_random_seed(0)
    points, labels = draw_points()
    batches = sample_balanced_batches(
        points, labels, classes_per_batch=4, images_per_class=6
    )
    model = make_model(loss_class)
    model.compile(keras.optimizers.Adam(0.01), make_loss(loss_class), **compile_options)
    history = model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return model, history.history["loss"]


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("loss_class", ALL)
def test_fit_lowers_the_loss_and_gathers_the_classes(loss_class):
    model, values = fit(loss_class, epochs=12)
    assert values[-1] < 0.8 * values[0]
    points, labels = draw_points()
    embed = keras.Model(model.inputs, model.layers[1].output)
    unit = keras.utils.normalize(embed.predict(points, verbose=0))
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    # Before the training one nearest neighbour in three is of the right class.
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.75


@pytest.mark.parametrize("loss_class", ALL)
def test_fit_in_mixed_float16(loss_class, mixed_float16):
    points, labels = draw_points(24)
    keras.utils.set_random_seed(0)
    model = make_model(loss_class)
    assert model.layers[1].compute_dtype == "float16"
    values = [float(make_loss(loss_class)(labels, model(points)))]
    model.compile("adam", make_loss(loss_class))
    history = model.fit(points, labels, batch_size=24, epochs=5, verbose=0)
    values += history.history["loss"]
    assert np.isfinite(values).all()
    assert values[-1] < values[0]
    assert all(np.isfinite(weights).all() for weights in model.get_weights())

    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    full = make_loss(loss_class)(labels, make_model(loss_class)(points))
    assert values[0] == pytest.approx(float(full), rel=0.01)


@pytest.mark.parametrize("loss_class", [losses.TripletAllLoss, losses.MarginLoss])
def test_fit_compiled_by_xla_takes_the_same_steps(loss_class):
    _, values = fit(loss_class, epochs=1)
    _, compiled_values = fit(loss_class, epochs=1, jit_compile=True)
    assert compiled_values == pytest.approx(values, rel=1e-3)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("loss_class", ALL)
def test_one_graph_serves_every_batch_size(loss_class, jit_compile):
    loss = make_loss(loss_class)
    traces = []

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([None, NUM_CLASSES], tf.float32),
        ],
    )
    def differentiate(labels, predictions):
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            value = loss(labels, predictions)
        return value, tape.gradient(value, predictions)

    eager_loss = make_loss(loss_class)
    generator = np.random.default_rng(1)
    batches = [
        (labels, generator.uniform(-1, 1, (len(labels), NUM_CLASSES)))
        for labels in ([2], [0, 1, 2, 0, 1, 2], [1] * 6)
    ]
    # The gradient of sqrt(0) is zero where TensorFlow runs it, and NaN under XLA.
    batches += [
        ([0, 1, 2, 0, 1, 2], np.zeros((6, NUM_CLASSES))),
        ([0, 1, 2, 0, 1, 2], np.ones((6, NUM_CLASSES))),
    ]
    for labels, predictions in batches:
        labels, predictions = np.array(labels)[:, None], np.float32(predictions)
        value, gradient = differentiate(labels, predictions)
        assert float(value) == pytest.approx(
            float(eager_loss(labels, predictions)), rel=1e-5, abs=1e-6
        )
        assert np.isfinite(gradient).all()
    assert len(traces) == 1


@pytest.mark.parametrize("loss_class", ALL)
def test_compiled_model_is_saved_and_trains_on(loss_class, tmp_path):
    model = make_model(loss_class)
    model.compile("adam", make_loss(loss_class))
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is loss_class
    assert loaded.loss.get_config() == model.loss.get_config()
    points, labels = draw_points()
    np.testing.assert_array_equal(
        loaded.predict(points, verbose=0), model.predict(points, verbose=0)
    )
    values = loaded.fit(points, labels, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(values).all()


def test_class_weights_are_refused_in_fit():
    points, labels = draw_points()
    model = make_model(losses.TripletAllLoss)
    model.compile("adam", losses.TripletAllLoss())
    with pytest.raises(ValueError, match="Leave out sample_weight and class_weight"):
        model.fit(points, labels, class_weight=dict.fromkeys(range(4), 1), verbose=0)


@pytest.mark.skipif(
    tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 8),
    reason="before Keras 3.8 the losses of the replicas, Keras's own too, were summed",
)
def test_replicas_are_averaged_under_mirrored_strategy():
    """Two logical devices, which a process must ask for before anything else."""
    code = """
        import keras, numpy as np, tensorflow as tf
        device = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            device, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from keras_embcam.losses import MarginLoss, TripletHardLoss

        points = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
        labels = np.array([0, 0, 0, 0, 1, 1, 1, 1] * 2)  # eight of each replica
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

        def train(loss_class):
            with strategy.scope():
                model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
                model.set_weights([np.eye(3), np.zeros(3)])
                model.compile(keras.optimizers.SGD(0.1), loss_class())
            model.fit(points, labels, batch_size=16, shuffle=False, verbose=0)
            return model.get_weights()[0]

        gradients = []
        for half in (points[:8], points[8:]):
            kernel = tf.Variable(np.eye(3), dtype="float32")
            with tf.GradientTape() as tape:
                value = TripletHardLoss()(labels[:8], half @ kernel)
            gradients.append(tape.gradient(value, kernel).numpy())
        expected = np.eye(3) - 0.1 * np.mean(gradients, axis=0)
        np.testing.assert_allclose(train(TripletHardLoss), expected, atol=1e-5)
        assert np.abs(train(MarginLoss) - np.eye(3)).max() > 1e-4  # draws numbers
        print("averaged")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert run.stdout.strip().endswith("averaged"), run.stderr[-2000:]
