"""What the logger takes, and what it says before a training begins."""

import doctest
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_embcam import explain
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.callbacks.event_writer import TEXT_TAG
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.proxies import class_mean

SIZE, NUM = 12, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.random((NUM, SIZE, SIZE, 3), "float32")
LABELS = np.arange(NUM) % 3
BOXES = np.tile(np.float32([0.25, 0.25, 0.75, 1.0]), (NUM, 1))
EXAMPLES = {"image": IMAGES, "label": LABELS, "bbox": BOXES}


def make_branch(name="branch"):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), name="image"),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="embedding"),
        ],
        name=name,
    )


@pytest.fixture(scope="module")
def branch():
    """One network for all tests that change nothing: it is compiled once."""
    return make_branch()


def with_nan(number):
    images = IMAGES.copy()
    images[number, 0, 0, 0] = np.nan
    return images


def begin(model, logger, verbose=0):
    logger.set_model(model)
    logger.set_params({"verbose": verbose, "epochs": 1, "steps": 1})
    logger.on_train_begin()


def update_once(model, logger):
    """Return what the logger puts into the logs, as at the end of an epoch."""
    begin(model, logger)
    logs = {}
    logger.on_epoch_begin(0)
    logger.on_epoch_end(0, logs)
    logger.on_train_end()
    return logs


def expected_ratio(model, boxes=BOXES, **options):
    heatmaps = explain(model, IMAGES, **options)
    ratios = heatmap_ratio_in_boxes(heatmaps, boxes, "rel_yxyx")
    return pytest.approx(float(np.nanmean(ratios)), abs=1e-5)


class TestChecksBeforeTheTraining:
    @pytest.mark.parametrize(
        ("changed", "options", "message"),
        [
            ({}, {"conv_layer": "conv2"}, "Did you mean 'conv'"),
            ({}, {"embedding_layer": "embeding"}, "Did you mean 'embedding'"),
            ({"image": IMAGES[..., :1]}, {}, "model takes images of the shape"),
            (
                {"image": with_nan(7)},
                {"batch_size": 3},
                r"NaN or infinity.*\[7\]",
            ),
            ({"bbox": BOXES * SIZE}, {}, "values from 3 to 12 .*mean .*'yxyx'"),
            (
                {"segmentation_mask": np.ones((NUM, 6, 6), bool)},
                {},
                r"masks .* size of its images.*\(8, 6, 6\)",
            ),
            (
                {"segmentation_mask": np.ones((NUM, SIZE, SIZE), "uint8")},
                {},
                "must be bool where `foreground` is None",
            ),
            (
                {"segmentation_mask": np.ones((NUM, SIZE, SIZE), "uint8")},
                {"mask_foreground": 7},
                r"mask_foreground=7 and masks with the values \[1\]",
            ),
            (
                {"label": [0, 1, 2, 0, 1, 2, 0, 5]},
                {"class_proxies": np.eye(3, 4), "batch_size": 3},
                "between 0 and 2.*5",
            ),
            ({}, {"class_proxies": np.eye(3)}, r"\(classes, 4\)"),
            ({}, {"proxy": lambda y: y[:, :2]}, "width of the embedding"),
            ({}, {"proxy": "trained"}, "`proxy_layer` must name"),
            ({}, {"bounding_box_format": "yx"}, "yx"),
        ],
    )
    def test_wrong(self, tmp_path, branch, changed, options, message):
        logger = EmbeddingCAMLogger(
            tmp_path, {**EXAMPLES, **changed}, strict=True, **options
        )
        with pytest.raises(ValueError, match=message):
            begin(branch, logger)

    def test_not_strict_it_warns_once_and_no_number_reaches_the_logs(
        self, tmp_path, branch
    ):
        examples = {**EXAMPLES, "bbox": BOXES * SIZE}
        logger = EmbeddingCAMLogger(tmp_path, examples)
        with pytest.warns(UserWarning, match="stops logging.*No box") as caught:
            logs = update_once(branch, logger)
        assert len([x for x in caught if "stops logging" in str(x.message)]) == 1
        # A checkpoint that monitors a ratio then says itself that there is none.
        assert logs == {}

    def test_a_folder_that_cannot_be_written(self, tmp_path, branch):
        (tmp_path / "file").write_text("in the way")
        logger = EmbeddingCAMLogger(tmp_path / "file" / "logs", EXAMPLES, strict=True)
        message = r"`log_dir` must be a folder that .*\(/.*file is not a directory\)$"
        with pytest.raises(ValueError, match=message):
            begin(branch, logger)

    def test_unused_entries(self, tmp_path, branch):
        examples = {"image": IMAGES, "boxes": BOXES}
        logger = EmbeddingCAMLogger(tmp_path, examples)
        with pytest.warns(UserWarning, match="'boxes'.*Did you mean 'bbox'"):
            begin(branch, logger)

    def test_another_order_each_time(self, tmp_path, branch):
        dataset = tf.data.Dataset.from_tensor_slices(EXAMPLES).shuffle(NUM, seed=3)
        logger = EmbeddingCAMLogger(tmp_path, dataset, strict=True)
        with pytest.raises(ValueError, match="same order each time.*shuffling"):
            update_once(branch, logger)

    def test_numbers_that_are_nan_are_told_once(self, tmp_path, branch):
        logger = EmbeddingCAMLogger(tmp_path, (IMAGES, np.arange(NUM)))
        with pytest.warns(UserWarning, match="'map_at_r'.* are NaN") as caught:
            logs = update_once(branch, logger)
            logger.on_epoch_end(1, logs)
        assert len([x for x in caught if "are NaN" in str(x.message)]) == 1
        assert np.isnan(logs["val_recall_at_1"])

    def test_what_is_explained_is_printed_once_and_logged(
        self, tmp_path, branch, capsys
    ):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0)
        begin(branch, logger, verbose=1)
        begin(branch, logger, verbose=1)  # another `fit`
        printed = capsys.readouterr().out
        assert printed.count("EmbeddingCAMLogger explains") == 1
        facts = [
            "conv, 10 x 10 positions",
            "model's output, 4 numbers",
            "single_point, each image's own unit embedding",
            "8, 3 classes",
            "heatmap_ratio_bbox 0.375",  # 0.5 of the height, 0.75 of the width
            str(tmp_path),
        ]
        assert all(fact in printed for fact in facts), printed
        events = EventAccumulator(str(tmp_path / "validation"))
        events.Reload()
        (event,) = events.Tensors(TEXT_TAG)
        text = tf.make_ndarray(event.tensor_proto).item().decode()
        assert all(fact in text for fact in facts), text

    def test_a_silent_fit_prints_nothing(self, tmp_path, branch, capsys):
        begin(branch, EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0))
        assert capsys.readouterr().out == ""


class TestLabels:
    @pytest.mark.parametrize(
        "labels",
        [
            np.array([2_000_000, -5, 7])[LABELS],
            np.array(["wren", "finch", "owl"])[LABELS],
            LABELS[:, None],
            LABELS.astype("float32"),
        ],
        ids=["large and negative", "strings", "(n, 1)", "floats"],
    )
    def test_of_any_kind(self, tmp_path, branch, labels):
        examples = {**EXAMPLES, "label": labels}
        logger = EmbeddingCAMLogger(
            tmp_path, examples, proxy="class_mean", num_images=0, strict=True
        )
        logs = update_once(branch, logger)
        means = class_mean(branch(IMAGES), LABELS)
        ratio = expected_ratio(branch, labels=LABELS, class_proxies=means)
        assert logs["val_heatmap_ratio_bbox"] == ratio

    def test_captions_and_the_projector_show_the_users_own(self, tmp_path, branch):
        labels = np.array(["wren", "finch", "owl"])[LABELS]
        logger = EmbeddingCAMLogger(
            tmp_path, (IMAGES, labels), num_images=2, projector=True, strict=True
        )
        update_once(branch, logger)
        written = (tmp_path / "validation" / "labels.tsv").read_text().split()
        assert written == labels.tolist()
        shown = logger._run.show(logger._log._pictured)
        assert shown.examples["label"].tolist() == ["wren", "finch"]

    def test_fixed_proxies_are_chosen_by_the_users_own(self, tmp_path, branch):
        # Only the classes 4 and 2 occur: their rows are 4 and 2, not 1 and 0.
        labels, proxies = np.where(LABELS, 4, 2), np.eye(5, 4)
        logger = EmbeddingCAMLogger(
            tmp_path,
            {**EXAMPLES, "label": labels},
            class_proxies=np.where(np.arange(5)[:, None] == 4, -1.0, proxies),
            num_images=0,
            strict=True,
        )
        proxies[4] = -1
        logs = update_once(branch, logger)
        ratio = expected_ratio(branch, labels=labels, class_proxies=proxies)
        assert logs["val_heatmap_ratio_bbox"] == ratio


class TestBoxes:
    def forms(self):
        two = np.float32([[0.25, 0.25, 0.75, 1.0], [0, 0, 0.1, 0.2]])
        rows = [two if i % 2 else two[:1] for i in range(NUM)]
        padded = np.full((NUM, 2, 4), -1, "float32")
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        signature = {
            "image": tf.TensorSpec((SIZE, SIZE, 3)),
            "bbox": tf.TensorSpec((None, 4)),
        }
        dataset = tf.data.Dataset.from_generator(
            lambda: (
                {"image": x, "bbox": y} for x, y in zip(IMAGES, rows, strict=True)
            ),
            output_signature=signature,
        )
        return padded, {
            "list": {"image": IMAGES, "bbox": rows},
            "unbatched": dataset,
            "ragged_batch": dataset.ragged_batch(3),
            "ragged": {
                "image": IMAGES,
                "bbox": tf.ragged.stack([tf.constant(x) for x in rows]),
            },
        }

    @pytest.mark.parametrize("form", ["list", "unbatched", "ragged_batch", "ragged"])
    def test_several_boxes_an_image(self, tmp_path, branch, form):
        padded, forms = self.forms()
        logger = EmbeddingCAMLogger(
            tmp_path, forms[form], num_images=3, batch_size=3, strict=True
        )
        logs = update_once(branch, logger)
        assert logs["val_heatmap_ratio_bbox"] == expected_ratio(branch, padded)


META = np.linspace(0, 1, NUM, dtype="float32")[:, None]


def with_meta():
    branch = make_branch()
    image, meta = (
        keras.Input((SIZE, SIZE, 3), name="image"),
        keras.Input((1,), name="meta"),
    )
    features = layers.Concatenate()([branch(image), meta])
    return keras.Model(
        {"image": image, "meta": meta}, layers.Dense(4, name="both")(features)
    )


def with_label_input():
    """ArcFace as it is usually written in Keras: the loss needs the label inside."""

    class ArcFace(layers.Layer):
        def build(self, shapes):
            self.centres = self.add_weight(shape=(shapes[0][-1], 3))

        def call(self, inputs):
            embeddings, labels = inputs
            cosines = keras.ops.normalize(embeddings) @ self.centres
            return cosines - 0.5 * keras.ops.one_hot(labels, 3)

    image = keras.Input((SIZE, SIZE, 3), name="photo")
    labels = keras.Input((), name="labels", dtype="int32")
    embeddings = make_branch()(image)
    return keras.Model([image, labels], ArcFace()([embeddings, labels]))


def siamese(num_inputs=2):
    branch = make_branch()
    pair = [keras.Input((SIZE, SIZE, 3)) for _ in range(num_inputs)]
    first, second = (branch(x) for x in pair[:2])
    distance = layers.Subtract()([first, second])
    for other in pair[2:]:
        distance = layers.Concatenate()([distance, branch(other)])
    return keras.Model(pair, layers.Dense(1)(distance))


class TestInputs:
    @pytest.mark.parametrize(
        "examples",
        [
            {**EXAMPLES, "meta": META},
            tf.data.Dataset.from_tensor_slices({**EXAMPLES, "meta": META}),
            ({"image": IMAGES, "meta": META}, {"label": LABELS, "bbox": BOXES}),
        ],
        ids=["dict", "data set", "as fit takes them"],
    )
    def test_several_inputs(self, tmp_path, examples):
        model = with_meta()
        logger = EmbeddingCAMLogger(tmp_path, examples, num_images=2, strict=True)
        logs = update_once(model, logger)
        heatmaps = explain(model, {"image": IMAGES, "meta": META})
        ratios = heatmap_ratio_in_boxes(heatmaps, BOXES, "rel_yxyx")
        assert logs["val_heatmap_ratio_bbox"] == pytest.approx(
            float(np.nanmean(ratios)), abs=1e-5
        )

    def test_a_missing_input_is_named(self, tmp_path):
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True)
        with pytest.raises(ValueError, match=r"nothing for \['meta'\]"):
            begin(with_meta(), logger)

    @pytest.mark.parametrize(
        "examples",
        [EXAMPLES, ((IMAGES, LABELS), {"label": LABELS, "bbox": BOXES})],
        ids=["dict", "as fit takes them"],
    )
    def test_the_label_as_an_input(self, tmp_path, examples):
        model = with_label_input()
        logger = EmbeddingCAMLogger(
            tmp_path,
            examples,
            embedding_layer="embedding",
            proxy="class_mean",
            num_images=2,
            strict=True,
        )
        logs = update_once(model, logger)
        branch = model.get_layer("branch")
        means = class_mean(branch(IMAGES), LABELS)
        ratio = expected_ratio(branch, labels=LABELS, class_proxies=means)
        assert logs["val_heatmap_ratio_bbox"] == ratio

    @pytest.mark.parametrize(
        ("num_inputs", "embedding_layer"),
        [(2, None), (2, "branch"), (2, "embedding"), (3, "branch/embedding")],
    )
    def test_the_branch_of_a_siamese_network_is_found(
        self, tmp_path, num_inputs, embedding_layer
    ):
        model = siamese(num_inputs)
        logger = EmbeddingCAMLogger(
            tmp_path,
            EXAMPLES,
            embedding_layer=embedding_layer,
            num_images=0,
            strict=True,
        )
        logs = update_once(model, logger)
        ratio = expected_ratio(model.get_layer("branch"))
        assert logs["val_heatmap_ratio_bbox"] == ratio

    def test_two_networks_for_two_images_are_no_siamese_one(self, tmp_path):
        pair = [keras.Input((SIZE, SIZE, 3), name=name) for name in ("image", "depth")]
        both = [make_branch(f"of_{x.name}")(x) for x in pair]
        model = keras.Model(pair, layers.Concatenate()(both))
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True)
        with pytest.raises(ValueError, match=r"nothing for \['depth'\]"):
            begin(model, logger)

    def test_pictures_of_examples_that_are_not_there(self, tmp_path, branch):
        """Known only when the first epoch was over."""
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, picture_indices=[0, NUM, -1], strict=True
        )
        with pytest.raises(ValueError, match=r"between 0 and 7.*Received: \[-1, 8\]"):
            begin(branch, logger)

    def test_images_of_different_sizes(self, tmp_path, branch):
        dataset = tf.data.Dataset.from_generator(
            lambda: (np.zeros((side, side, 3), "float32") for side in (12, 14)),
            output_signature=tf.TensorSpec((None, None, 3)),
        )
        logger = EmbeddingCAMLogger(tmp_path, dataset, strict=True)
        with pytest.raises(ValueError, match=r"one size.*tf\.image\.resize"):
            begin(branch, logger)


class TestOtherFileSystems:
    def test_memory(self, tmp_path, branch, monkeypatch):
        monkeypatch.chdir(tmp_path)
        logger = EmbeddingCAMLogger(
            "ram://bucket/logs", EXAMPLES, num_images=1, projector=True, strict=True
        )
        update_once(branch, logger)
        assert not list(tmp_path.iterdir())  # no local folder "ram:"
        names = tf.io.gfile.listdir("ram://bucket/logs/validation")
        assert {"labels.tsv", "sprites.png", "projector_config.pbtxt"} <= set(names)
        for run in ("validation", "uniform_baseline"):
            (events,) = tf.io.gfile.glob(f"ram://bucket/logs/{run}/*tfevents*")
            (tmp_path / run).mkdir()
            tf.io.gfile.copy(events, str(tmp_path / run / "events.tfevents"))
            read = EventAccumulator(str(tmp_path / run))
            read.Reload()
            assert "epoch_heatmap_ratio_bbox" in read.Tags()["tensors"]
        # Another training that is resumed there finds what was written.
        again = EmbeddingCAMLogger("ram://bucket/logs", EXAMPLES, num_images=0)
        begin(branch, again)
        again.on_epoch_begin(1)
        assert again._axis.is_written(0) and not again._axis.is_written(1)

    def test_a_path_that_has_lost_a_slash(self):
        with pytest.raises(ValueError, match="`log_dir` must be a string"):
            EmbeddingCAMLogger(Path("gs://bucket/logs"), EXAMPLES)


def test_gradient_accumulation_loses_no_update(tmp_path):
    model = make_branch()
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    logger = EmbeddingCAMLogger(
        tmp_path, EXAMPLES, update_freq=10, num_images=0, strict=True
    )
    images = np.tile(IMAGES, (5, 1, 1, 1))
    targets = np.zeros((len(images), 4))
    model.fit(images, targets, batch_size=2, epochs=2, verbose=0, callbacks=[logger])
    events = EventAccumulator(str(tmp_path / "validation"))
    events.Reload()
    steps = [x.step for x in events.Tensors("heatmap_ratio_bbox_vs_iterations")]
    assert steps == [10, 20, 30, 40]


def test_what_an_update_knows_of_all_examples(tmp_path, branch):
    logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0, strict=True)
    begin(branch, logger)
    update = logger._run.measure(num_worst=0, kept_map_side=6)
    heatmaps = explain(branch, IMAGES)
    assert update.heatmaps.shape == (NUM, 6, 6) and update.heatmaps.dtype == np.uint8
    means = heatmaps.reshape(NUM, 6, 2, 6, 2).mean((2, 4))
    means *= 255 / means.max((1, 2), keepdims=True)
    np.testing.assert_allclose(update.heatmaps, means, atol=0.51)
    assert update.found_boxes.shape == (NUM, 4)
    assert (update.found_boxes >= 0).all() and (update.found_boxes <= 1).all()
    assert update.labels.tolist() == LABELS.tolist()
    assert set(update.per_image) == {
        "heatmap_ratio_bbox",
        "localization_accuracy",
        "pointing_game",
        "empty_heatmaps",
    }


@pytest.mark.parametrize("name", ["embedding_cam_logger", "pictures", "update"])
def test_doctests(name):
    module = importlib.import_module(f"keras_embcam.callbacks.{name}")
    finished = doctest.testmod(module)
    assert finished.attempted and not finished.failed


def test_embeddings_of_nan_are_named_and_the_training_goes_on(tmp_path):
    model = make_branch()
    logger = EmbeddingCAMLogger(tmp_path, EXAMPLES)
    begin(model, logger)
    model.get_layer("embedding").set_weights([np.full((6, 4), np.nan), np.zeros(4)])
    logger.on_epoch_begin(0)
    logs = {}
    with pytest.warns(UserWarning, match="training goes on.*embeddings are not finite"):
        logger.on_epoch_end(0, logs)
