"""The logger: what it writes, where it works, and that it does no harm."""

import csv
import gc
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_embcam import explain
from keras_embcam.callbacks import EmbeddingCAMLogger, class_means
from keras_embcam.callbacks.event_writer import TEXT_TAG
from keras_embcam.layers import Proxies
from keras_embcam.losses import ProxyAnchorLoss, TripletSemiHardLoss
from keras_embcam.metrics import heatmap_ratio_in_boxes, measure_retrieval
from keras_embcam.proxies import class_mean
from keras_embcam.tab_format import EXAMPLES_TAG, UPDATES_TAG

SIZE = 16
SCALARS = {
    "heatmap_ratio_bbox",
    "heatmap_ratio_mask",
    "localization_accuracy",
    "pointing_game",
    "empty_heatmaps",
    "recall_at_1",
    "recall_at_2",
    "recall_at_4",
    "recall_at_8",
    "map_at_r",
}


def make_examples(num_images=12, seed=0):
    """A bright square somewhere; the label is its brightest channel."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.2, (num_images, SIZE, SIZE, 3)).astype("float32")
    labels = np.arange(num_images) % 3
    boxes = np.zeros((num_images, 4), "float32")
    masks = np.zeros((num_images, SIZE, SIZE), bool)
    for i in range(num_images):
        y, x = rng.integers(0, SIZE - 6, 2)
        images[i, y : y + 6, x : x + 6, labels[i]] += 0.8
        masks[i, y : y + 6, x : x + 6] = True
        boxes[i] = np.array([y, x, y + 6, x + 6]) / SIZE
    return {"image": images, "label": labels, "bbox": boxes, "segmentation_mask": masks}


EXAMPLES = make_examples()


def make_branch(name="branch"):
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="embedding"),
        ],
        name=name,
    )


def compiled(model=None, loss=None, **options):
    model = model or make_branch()
    model.compile("adam", loss or TripletSemiHardLoss(), **options)
    return model


def fit(model, logger, epochs=2, before=(), after=(), **options):
    return model.fit(
        EXAMPLES["image"],
        EXAMPLES["label"],
        batch_size=6,
        epochs=epochs,
        verbose=0,
        callbacks=[*before, *([] if logger is None else [logger]), *after],
        **options,
    )


@pytest.fixture(scope="module")
def network():
    """One network for the tests that train nothing: it is compiled once."""
    keras.utils.set_random_seed(1)
    return make_branch()


def update_once(model, logger):
    """Return what the logger puts into the logs at the end of an epoch."""
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    logs = {}
    logger.on_epoch_end(0, logs)
    logger.on_train_end()
    return logs


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def steps(folder, tag):
    return [event.step for event in read(folder).Tensors(tag)]


def value(event):
    return float(tf.make_ndarray(event.tensor_proto))


def summary_tags(folder):
    """All but the text and the tab's examples, which are written once."""
    return set(read(folder).Tags()["tensors"]) - {TEXT_TAG, EXAMPLES_TAG}


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(1)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_are_drawn_in_grey(tmp_path, channels):
    images = np.random.default_rng(0).random((4, SIZE, SIZE, channels))
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, channels)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    examples = {"image": images, "label": [0, 0, 1, 1]}
    logger = EmbeddingCAMLogger(tmp_path, examples, projector=channels == 2)
    assert "val_recall_at_1" in update_once(model, logger)
    assert len(steps(tmp_path / "validation", "heatmaps/03")) == 1


class TestEvents:
    def test_tags_steps_and_pictures(self, tmp_path):
        fit(compiled(), EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=3))
        run = tmp_path / "validation"
        assert summary_tags(run) == (
            {f"epoch_{name}" for name in SCALARS}
            | {f"heatmaps/{i:02d}" for i in range(3)}
            | {"heatmaps/worst", UPDATES_TAG}
            | {"heatmap_ratio_bbox_per_image", "heatmap_ratio_mask_per_image"}
        )
        assert all(steps(run, tag) == [0, 1] for tag in summary_tags(run))
        assert summary_tags(tmp_path / "uniform_baseline") == {
            "epoch_heatmap_ratio_bbox",
            "epoch_heatmap_ratio_mask",
        }
        width, height, png = read(run).Tensors("heatmaps/01")[0].tensor_proto.string_val
        picture = tf.io.decode_png(png).numpy()
        # 16 pixels are enlarged to 192, and a caption stands below.
        assert (int(width), int(height)) == (192, picture.shape[0])
        assert picture.shape[1:] == (192, 3) and picture.shape[0] > 192

    def test_the_true_box_is_drawn_where_it_is(self, tmp_path, network):
        update_once(network, EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1))
        event = read(tmp_path / "validation").Tensors("heatmaps/00")[0]
        picture = tf.io.decode_png(event.tensor_proto.string_val[2]).numpy()
        top, left, bottom, right = (EXAMPLES["bbox"][0] * 192).round().astype(int)
        green = (picture[:192] == [0, 255, 0]).all(axis=-1)
        rows, columns = np.flatnonzero(green.any(1)), np.flatnonzero(green.any(0))
        assert (rows[0], rows[-1] + 1) == (top, bottom)
        assert (columns[0], columns[-1] + 1) == (left, right)

    def test_numbers_are_those_of_the_weights_at_the_end_of_the_epoch(self, tmp_path):
        model = compiled()
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, batch_size=5)
        history = fit(model, logger).history
        explanation = explain(model, EXAMPLES["image"], details=True)
        ratios = heatmap_ratio_in_boxes(
            explanation.heatmaps, EXAMPLES["bbox"], "rel_yxyx"
        )
        expected = float(np.nanmean(ratios))
        retrieval = measure_retrieval(explanation.embeddings, EXAMPLES["label"])
        assert history["val_heatmap_ratio_bbox"][-1] == pytest.approx(
            expected, abs=1e-6
        )
        assert history["val_recall_at_1"][-1] == retrieval["recall_at_1"]
        run = read(tmp_path / "validation")
        for name in SCALARS:
            written = [value(event) for event in run.Tensors(f"epoch_{name}")]
            assert written == pytest.approx(history[f"val_{name}"], abs=1e-6)
        uniform = read(tmp_path / "uniform_baseline")
        # Every object covers 36 of 256 pixels.
        for event in uniform.Tensors("epoch_heatmap_ratio_mask"):
            assert value(event) == pytest.approx(36 / 256)

    def test_a_histogram_holds_one_ratio_for_each_image(self, tmp_path, network):
        update_once(network, EmbeddingCAMLogger(tmp_path, EXAMPLES))
        event = read(tmp_path / "validation").Tensors("heatmap_ratio_bbox_per_image")[0]
        assert tf.make_ndarray(event.tensor_proto)[:, 2].sum() == 12

    @pytest.mark.parametrize("missing", ["label", "bbox", "segmentation_mask"])
    def test_what_is_missing_switches_off_only_what_needs_it(
        self, tmp_path, missing, network
    ):
        examples = {key: x for key, x in EXAMPLES.items() if key != missing}
        logs = update_once(network, EmbeddingCAMLogger(tmp_path, examples))
        lost = {
            "label": {name for name in SCALARS if "at_" in name},
            "bbox": {"heatmap_ratio_bbox", "localization_accuracy"},
            "segmentation_mask": {"heatmap_ratio_mask"},
        }[missing]
        assert set(logs) == {f"val_{name}" for name in SCALARS - lost}

    def test_images_alone(self, tmp_path, network):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES["image"], num_images=2)
        assert set(update_once(network, logger)) == {"val_empty_heatmaps"}
        tags = summary_tags(tmp_path / "validation")
        pictures = {"heatmaps/00", "heatmaps/01"}
        assert tags == {"epoch_empty_heatmaps", UPDATES_TAG, *pictures}

    def test_every_so_many_training_steps(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, update_freq=3, image_freq=2)
        with pytest.warns(UserWarning, match="update_freq=3, which is more .*epoch .2"):
            history = fit(compiled(), logger, epochs=4).history  # 2 steps an epoch
        run = tmp_path / "validation"
        assert steps(run, "heatmap_ratio_bbox_vs_iterations") == [3, 6]
        assert steps(run, "heatmaps/00") == [3]
        # From the first epoch on, before the first update; none for the fourth epoch,
        # which has no update.
        assert len(history["val_heatmap_ratio_bbox"]) == 3
        assert not any(tag.startswith("epoch_") for tag in summary_tags(run))

    def test_several_steps_at_once(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, update_freq=1, num_images=0)
        fit(compiled(steps_per_execution=2), logger, epochs=3)
        run = tmp_path / "validation"
        assert steps(run, "recall_at_1_vs_iterations") == [2, 4, 6]

    def test_image_freq(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, image_freq=2, num_images=1)
        fit(compiled(), logger, epochs=5)
        run = tmp_path / "validation"
        assert steps(run, "heatmaps/00") == [0, 2, 4]
        assert steps(run, "epoch_recall_at_1") == [0, 1, 2, 3, 4]

    def test_size_of_the_log_is_bounded_as_stated(self, tmp_path):
        fit(compiled(), EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=4), epochs=3)
        size = sum(x.stat().st_size for x in tmp_path.rglob("*") if x.is_file())
        assert size < 3 * 6 * 192 * 220 * 4

    def test_projector(self, tmp_path, network):
        update_once(network, EmbeddingCAMLogger(tmp_path, EXAMPLES, projector=True))
        run = tmp_path / "validation"
        reader = tf.train.load_checkpoint(str(run / "embedding.ckpt"))
        embeddings = reader.get_tensor("embedding/.ATTRIBUTES/VARIABLE_VALUE")
        np.testing.assert_allclose(embeddings, network(EXAMPLES["image"]), atol=1e-6)
        labels = (run / "labels.tsv").read_text().split()
        assert labels == [str(x) for x in EXAMPLES["label"]]
        sprites = tf.io.decode_png((run / "sprites.png").read_bytes())
        assert sprites.shape == (4 * 64, 4 * 64, 3)  # 12 in a square of 16
        assert "sprites.png" in (run / "projector_config.pbtxt").read_text()

    @pytest.mark.parametrize(
        ("indices", "labels"),
        [(None, [0, 1, 2]), ("class_balanced", [0, 1, 2]), ([7, 3, 11], [1, 0, 2])],
    )
    def test_which_examples_are_shown(self, tmp_path, indices, labels, network):
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, picture_indices=indices, num_images=3
        )
        update_once(network, logger)
        assert logger._log._pictured["label"].tolist() == labels

    def test_trimaps(self, tmp_path, network):
        masks = np.where(EXAMPLES["segmentation_mask"], 1, 2).astype("uint8")
        masks[:, :2] = 3  # undecided: left out of both sums
        examples = {"image": EXAMPLES["image"], "segmentation_mask": masks}
        logger = EmbeddingCAMLogger(
            tmp_path, examples, mask_foreground=1, mask_ignored=3, strict=True
        )
        ratio = update_once(network, logger)["val_heatmap_ratio_mask"]
        heatmaps = explain(network, EXAMPLES["image"])
        inside = (heatmaps * (masks == 1)).sum((1, 2))
        counted = (heatmaps * (masks != 3)).sum((1, 2))
        assert ratio == pytest.approx(np.mean(inside / counted), abs=1e-5)


class TestNeighbours:
    @pytest.mark.parametrize("place", ["before", "after"])
    def test_beside_keras_tensorboard_each_curve_is_written_once(self, tmp_path, place):
        board = keras.callbacks.TensorBoard(tmp_path)
        fit(
            compiled(),
            EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1),
            validation_data=(EXAMPLES["image"], EXAMPLES["label"]),
            **{place: [board]},
        )
        run = tmp_path / "validation"
        for name in SCALARS | {"loss"}:
            assert steps(run, f"epoch_{name}") == [0, 1], name

    def test_checkpoint_csv_and_early_stopping_see_the_numbers(self, tmp_path):
        best = tmp_path / "best.keras"
        table = tmp_path / "table.csv"
        monitor = {"monitor": "val_heatmap_ratio_bbox", "mode": "max"}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit(
                compiled(),
                EmbeddingCAMLogger(tmp_path, EXAMPLES),
                after=[
                    keras.callbacks.ModelCheckpoint(
                        best, save_best_only=True, **monitor
                    ),
                    keras.callbacks.EarlyStopping(**monitor),
                    keras.callbacks.CSVLogger(table),
                ],
            )
        assert best.exists()
        rows = list(csv.DictReader(table.open()))
        assert {f"val_{name}" for name in SCALARS} < set(rows[0])
        assert 0 <= float(rows[0]["val_heatmap_ratio_bbox"]) <= 1

    def test_a_monitor_in_front_is_warned_about(self, tmp_path):
        early = keras.callbacks.EarlyStopping("val_recall_at_1", mode="max")
        with pytest.warns(
            UserWarning, match="EarlyStopping monitors 'val_recall_at_1'"
        ):
            fit(compiled(), EmbeddingCAMLogger(tmp_path, EXAMPLES), 1, before=[early])


class CustomModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.branch = make_branch()
        self.head = layers.Dense(4)

    def call(self, images):
        return self.head(self.branch(images))

    def train_step(self, data):
        images, labels = data
        with tf.GradientTape() as tape:
            loss = TripletSemiHardLoss()(labels, self(images, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def functional():
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, activation="relu")(images)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return compiled(keras.Model(images, layers.UnitNormalization()(layers.Dense(4)(x))))


def nested():
    images = keras.Input((SIZE, SIZE, 3))
    return compiled(keras.Model(images, layers.Dense(4)(make_branch()(images))))


def custom():
    model = CustomModel()
    model.compile("adam")
    return model


def with_proxies():
    images = keras.Input((SIZE, SIZE, 3))
    similarities = Proxies(3, name="proxies")(make_branch()(images))
    return compiled(keras.Model(images, similarities), ProxyAnchorLoss())


def two_outputs():
    branch = make_branch()
    classes = layers.Dense(3, name="classes")(branch.outputs[0])
    return compiled(
        keras.Model(branch.inputs, [branch.outputs[0], classes]),
        [
            TripletSemiHardLoss(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ],
    )


class TestTrainingStyles:
    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (functional, {}),
            (lambda: compiled(), {}),
            (nested, {}),
            (custom, {}),
            (with_proxies, {"embedding_layer": "embedding", "proxy": "trained"}),
            (two_outputs, {"embedding_layer": "embedding", "proxy": "class_mean"}),
        ],
        ids=["functional", "sequential", "nested", "custom", "proxies", "outputs"],
    )
    def test_style(self, tmp_path, make, options):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True, **options)
        model = make()
        labels = EXAMPLES["label"]
        targets = [labels, labels] if make is two_outputs else labels
        history = model.fit(
            EXAMPLES["image"],
            targets,
            batch_size=6,
            epochs=2,
            verbose=0,
            callbacks=[logger],
        )
        assert len(history.history["val_heatmap_ratio_bbox"]) == 2
        assert steps(tmp_path / "validation", "heatmaps/00") == [0, 1]

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed_precision(self, tmp_path, policy):
        keras.config.set_dtype_policy(policy)
        try:
            model = functional()
            history = fit(model, EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True))
        finally:
            keras.config.set_dtype_policy("float32")
        assert np.isfinite(history.history["val_heatmap_ratio_bbox"]).all()

    def test_the_branch_of_a_siamese_network(self, tmp_path):
        branch = make_branch()
        pair = [keras.Input((SIZE, SIZE, 3)) for _ in range(2)]
        distance = layers.Subtract()([branch(x) for x in pair])
        model = keras.Model(pair, distance)
        model.compile("adam", "mse")
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, embedding_model=branch, strict=True
        )
        images = EXAMPLES["image"]
        zeros = np.zeros((12, 4))
        model.fit([images, images[::-1]], zeros, verbose=0, callbacks=[logger])
        assert steps(tmp_path / "validation", "heatmaps/00") == [0]


def run_python(code, *arguments):
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert finished.returncode == 0, finished.stderr
    return finished


class Interrupt(keras.callbacks.Callback):
    """Fail in the middle of an epoch, as a machine does."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.current = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.current == self.epoch and batch == 1:
            raise KeyboardInterrupt


class TestAxes:
    def test_initial_epoch_continues(self, tmp_path):
        model = compiled()
        fit(model, EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1), epochs=2)
        again = EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1)
        fit(model, again, epochs=4, initial_epoch=2)
        run = tmp_path / "validation"
        assert steps(run, "epoch_recall_at_1") == [0, 1, 2, 3]
        assert steps(run, "heatmaps/00") == [0, 1, 2, 3]

    def test_a_resumed_run_does_not_write_again_what_is_there(self, tmp_path):
        model = compiled()
        fit(model, EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1), epochs=3)
        again = EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1)
        history = fit(model, again, epochs=4, initial_epoch=1)
        assert steps(tmp_path / "validation", "heatmaps/00") == [0, 1, 2, 3]
        assert len(history.history["val_recall_at_1"]) == 3

    @pytest.mark.parametrize("update_freq", ["epoch", 1])
    def test_backup_and_restore(self, tmp_path, update_freq):
        def make_logger():
            return EmbeddingCAMLogger(
                tmp_path / "logs", EXAMPLES, num_images=1, update_freq=update_freq
            )

        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        with pytest.raises(KeyboardInterrupt):
            fit(compiled(), make_logger(), 4, before=[backup], after=[Interrupt(2)])
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(compiled(), make_logger(), 4, before=[backup])
        run = tmp_path / "logs" / "validation"
        expected = [0, 1, 2, 3] if update_freq == "epoch" else list(range(1, 9))
        assert sorted(steps(run, "heatmaps/00")) == expected

    def test_a_folder_that_holds_a_run_is_warned_of(self, tmp_path):
        def make_logger():
            return EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0)

        model = compiled()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model, make_logger(), epochs=1)
            fit(model, make_logger(), epochs=2, initial_epoch=1)  # goes on
        with pytest.warns(UserWarning, match="holds a run already.*Pass a new log_dir"):
            fit(model, make_logger(), epochs=1)

    def test_two_loggers_in_one_folder_are_warned_of(self, tmp_path):
        loggers = [EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0) for _ in "ab"]
        with pytest.warns(UserWarning, match="Two EmbeddingCAMLoggers") as found:
            fit(compiled(), loggers[0], epochs=1, after=[loggers[1]])
        assert sum("Two EmbeddingCAM" in str(x.message) for x in found) == 1

    def test_a_folder_deleted_while_it_trains_is_said(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path / "logs", EXAMPLES, num_images=0)
        delete = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: shutil.rmtree(tmp_path / "logs")
        )
        with pytest.warns(UserWarning, match="stops logging.*which was deleted"):
            fit(compiled(), logger, epochs=1, after=[delete])

    def test_a_second_fit_goes_on(self, tmp_path):
        model, logger = compiled(), EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=1)
        fit(model, logger)
        fit(model, logger)
        assert steps(tmp_path / "validation", "heatmaps/00") == [0, 1, 2, 3]

    def test_evaluate_alone_logs_nothing(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES)
        model = compiled()
        data = EXAMPLES["image"], EXAMPLES["label"]
        loss = model.evaluate(*data, verbose=0)
        assert model.evaluate(*data, verbose=0, callbacks=[logger]) == loss
        assert not list(tmp_path.iterdir())


class TestHarm:
    @staticmethod
    def train(callbacks):
        """Everything that a seed decides: weights, dropout, shuffling, augmentation."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(7)
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.RandomFlip(),
                layers.Conv2D(6, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.SpatialDropout2D(0.2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4, activity_regularizer="l2"),
            ]
        )
        model.compile("adam", TripletSemiHardLoss())
        data = tf.data.Dataset.from_tensor_slices(
            (EXAMPLES["image"], EXAMPLES["label"])
        )
        history = model.fit(
            data.shuffle(12).batch(4), epochs=3, verbose=0, callbacks=callbacks
        )
        state = [x.numpy() for x in (*model.variables, *model.optimizer.variables)]
        return state, history.history["loss"]

    @pytest.fixture(scope="class")
    def unlogged(self):
        """Two trainings without a logger."""
        return self.train([]), self.train([])

    @pytest.mark.parametrize(
        "options", [{"proxy": "class_mean"}, {"update_freq": 2, "context_ratio": True}]
    )
    def test_training_is_the_same_to_the_bit(self, tmp_path, unlogged, options):
        (state, losses), (again, losses_again) = unlogged
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True, **options)
        logged, losses_logged = self.train([logger])
        assert losses == losses_again == losses_logged
        for one, two, three in zip(state, again, logged, strict=True):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_array_equal(one, three)
        tags = " ".join(summary_tags(tmp_path / "validation"))
        assert ("context_ratio" in tags) == ("context_ratio" in options)

    def test_traced_once(self, tmp_path):
        num_calls = []

        @keras.saving.register_keras_serializable(package="tests")
        class Counting(layers.Layer):
            def call(self, x):
                num_calls.append(keras.backend.is_keras_tensor(x))
                return x

        branch = make_branch()
        model = compiled(keras.Sequential([*branch.layers, Counting()]))
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, batch_size=5, strict=True)
        fit(model, logger, epochs=1)
        first = len(num_calls)
        # Another `fit` traces nothing of its own, so this is all the logger's.
        fit(model, logger, epochs=4)
        assert len(num_calls) == first

    def test_memory_is_flat_over_epochs(self, tmp_path):
        few = {key: EXAMPLES[key][:4] for key in ("image", "label", "bbox")}
        logger = EmbeddingCAMLogger(tmp_path, few, num_images=1, strict=True)
        logger.set_model(compiled())
        logger.on_train_begin()
        sizes = []
        # As `fit` calls it, without the time that the training itself takes.
        for epoch in range(80):
            logger.on_epoch_begin(epoch)
            logger.on_epoch_end(epoch, {"loss": 0.0})
            if epoch in (19, 79):
                gc.collect()
                sizes.append(Counter(type(x).__name__ for x in gc.get_objects()))
        logger.on_train_end()
        before, after = sizes
        assert after.total() - before.total() < 50, (after - before).most_common(5)


class TestFailures:
    def check_stops_once(self, logger, match, epochs=3):
        with pytest.warns(UserWarning, match=match) as caught:
            history = fit(compiled(), logger, epochs=epochs)
        ours = [x for x in caught if "stops logging" in str(x.message)]
        assert len(ours) == 1
        assert len(history.history["loss"]) == epochs
        return history.history

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("in the way")
        self.check_stops_once(EmbeddingCAMLogger(file / "logs", EXAMPLES), "file")

    def test_a_full_disk(self, tmp_path):
        # A limit on the size of files fails in the middle of writing, as a full disk.
        code = """
            import resource, signal, sys, warnings
            import keras, numpy as np
            from keras import layers
            from keras_embcam.callbacks import EmbeddingCAMLogger
            from keras_embcam.losses import TripletSemiHardLoss
            model = keras.Sequential([
                keras.Input((64, 64, 3)), layers.Conv2D(4, 3, activation="relu"),
                layers.GlobalAveragePooling2D(), layers.Dense(4)])
            model.compile("adam", TripletSemiHardLoss())
            rng = np.random.default_rng(0)
            images, labels = rng.random((16, 64, 64, 3)), np.arange(16) % 2
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            logger = EmbeddingCAMLogger(sys.argv[1], (images, labels))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                history = model.fit(images, labels, epochs=4, verbose=0,
                                    callbacks=[logger])
            stops = [x for x in caught if "stops logging" in str(x.message)]
            assert len(stops) == 1, [str(x.message) for x in caught]
            assert len(history.history["loss"]) == 4
        """
        run_python(code, tmp_path)
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY

    def test_a_bad_example(self, tmp_path):
        images = EXAMPLES["image"].copy()
        images[7, 0, 0, 0] = np.nan
        logger = EmbeddingCAMLogger(tmp_path, images, batch_size=4)
        self.check_stops_once(logger, "NaN or infinity")

    def test_a_data_set_that_fails_later(self, tmp_path):
        healthy = [True]

        def generate():
            yield EXAMPLES["image"][0]
            if not healthy[0]:
                raise OSError("the share is gone")

        class Break(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                healthy[0] = False

        examples = tf.data.Dataset.from_generator(
            generate, output_signature=tf.TensorSpec((SIZE, SIZE, 3))
        )
        logger = EmbeddingCAMLogger(tmp_path, examples)
        monitor = keras.callbacks.EarlyStopping(
            "val_empty_heatmaps", patience=1, mode="min"
        )
        with pytest.warns(UserWarning, match="the share is gone"):
            history = fit(
                compiled(), logger, epochs=5, after=[monitor, Break()]
            ).history
        # No numbers rather than NaN, for which the training would end early.
        assert len(history["val_empty_heatmaps"]) == 1
        assert len(history["loss"]) == 5

    def test_out_of_memory(self, tmp_path, monkeypatch):
        def fail(*arguments, **options):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

        monkeypatch.setattr("keras_embcam.callbacks.validation_run.run_batches", fail)
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES)
        history = self.check_stops_once(logger, "ResourceExhaustedError: OOM")
        assert set(history) == {"loss"}

    def test_a_wrong_layer(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, conv_layer="conv2")
        self.check_stops_once(logger, "Did you mean 'conv'")

    def test_strict(self, tmp_path):
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, conv_layer="convolution", strict=True
        )
        with pytest.raises(ValueError, match="conv_layer"):
            fit(compiled(), logger)


class TestProxies:
    # All activations kept, those of the first batch only (5 x 10 x 10 x 6 numbers of
    # four bytes), or none.
    @pytest.mark.parametrize("max_bytes", [2**28, 15_000, 0])
    def test_class_means_are_those_of_the_examples(
        self, tmp_path, network, monkeypatch, max_bytes
    ):
        monkeypatch.setattr(class_means, "MAX_KEPT_BYTES", max_bytes)
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, proxy="class_mean", batch_size=5
        )
        logs = update_once(network, logger)
        means = class_mean(network(EXAMPLES["image"]), EXAMPLES["label"])
        self.check(network, logs, means)

    def test_class_means_of_images_in_another_order(self, tmp_path):
        """Of one class, so that labels do not tell."""
        images = tf.data.Dataset.from_tensor_slices(
            {"image": EXAMPLES["image"], "label": np.zeros(12, int)}
        )
        logger = EmbeddingCAMLogger(
            tmp_path, images.shuffle(12, seed=1), proxy="class_mean", strict=True
        )
        with pytest.raises(
            ValueError, match="same order each time.*images of batch 0 differ"
        ):
            update_once(make_branch(), logger)

    def test_class_means_of_integer_images(self, tmp_path, network):
        examples = {**EXAMPLES, "image": (EXAMPLES["image"] * 255).astype("uint8")}
        logger = EmbeddingCAMLogger(tmp_path, examples, proxy="class_mean", strict=True)
        assert "val_heatmap_ratio_bbox" in update_once(network, logger)

    def test_fixed_class_proxies(self, tmp_path, network):
        proxies = np.eye(3, 4)
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, class_proxies=proxies)
        self.check(network, update_once(network, logger), proxies)

    def test_trained_proxies(self, tmp_path):
        model = with_proxies()
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, proxy="trained", embedding_layer="embedding"
        )
        logs = update_once(model, logger)
        proxies = model.get_layer("proxies").proxies
        self.check(model, logs, proxies, embedding_layer="embedding")

    def test_a_function(self, tmp_path, network):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, proxy=lambda y: -y)
        logs = update_once(network, logger)
        heatmaps = explain(network, EXAMPLES["image"], proxies=lambda y: -y)
        self.check_ratio(logs, heatmaps)

    def check(self, model, logs, class_proxies, **options):
        heatmaps = explain(
            model,
            EXAMPLES["image"],
            labels=EXAMPLES["label"],
            class_proxies=class_proxies,
            **options,
        )
        self.check_ratio(logs, heatmaps)

    def check_ratio(self, logs, heatmaps):
        ratios = heatmap_ratio_in_boxes(heatmaps, EXAMPLES["bbox"], "rel_yxyx")
        expected = np.nanmean(ratios)
        assert logs["val_heatmap_ratio_bbox"] == pytest.approx(expected, abs=1e-5)

    def test_labels_without_trained_proxies(self, tmp_path):
        examples = {**EXAMPLES, "label": EXAMPLES["label"] + 1}
        logger = EmbeddingCAMLogger(
            tmp_path,
            examples,
            proxy="trained",
            embedding_layer="embedding",
            strict=True,
        )
        with pytest.raises(ValueError, match="between 0 and 2"):
            update_once(with_proxies(), logger)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"proxy": "mean"}, "`proxy` must be one of .*'class_mean'.*'mean'"),
            (
                {"proxy": "trained", "class_proxies": np.eye(3)},
                "`class_proxies` or `proxy`, not both",
            ),
            ({"weighting": "cam"}, "`weighting` must be one of"),
            ({"update_freq": 0}, '`update_freq` must be "epoch" or an integer >= 1'),
            ({"update_freq": "batch"}, "`update_freq` must be"),
            ({"image_freq": 0}, "`image_freq` must be an integer >= 1. Received: 0"),
            ({"num_images": -1}, "`num_images` must be an integer >= 0"),
            ({"batch_size": 2.5}, "`batch_size` must be an integer >= 1"),
            ({"picture_indices": "random"}, "`picture_indices` must be None"),
        ],
    )
    def test_out_of_range(self, tmp_path, options, match):
        with pytest.raises(ValueError, match=match):
            EmbeddingCAMLogger(tmp_path, EXAMPLES, **options)

    @pytest.mark.parametrize("proxy", ["class_mean", "trained"])
    def test_proxies_by_class_need_labels(self, tmp_path, proxy):
        with pytest.raises(ValueError, match="need labels"):
            EmbeddingCAMLogger(tmp_path, EXAMPLES["image"], proxy=proxy)
