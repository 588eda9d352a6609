"""What the logger tells of retrieval: context ratios, and wrong first matches drawn."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_embcam import context_ratio, explain_neighbors
from keras_embcam.callbacks import EmbeddingCAMLogger, retrieval_log
from keras_embcam.callbacks.other_callbacks import LOGGED
from keras_embcam.callbacks.retrieval_log import find_errors
from keras_embcam.losses import TripletSemiHardLoss

SIZE, NUM = 12, 12
RNG = np.random.default_rng(0)
COLORS = np.eye(3, dtype="float32")[np.arange(NUM) % 3]
IMAGES = (COLORS[:, None, None] + RNG.random((NUM, SIZE, SIZE, 3)) / 2).astype(
    "float32"
)
# The colour is the class: nothing is wrong. Of halves everything may be.
RIGHT, MIXED = np.arange(NUM) % 3, np.arange(NUM) // 6
BOXES = np.tile(np.float32([0.25, 0.25, 0.75, 0.75]), (NUM, 1))
EXAMPLES = {"image": IMAGES, "label": MIXED, "bbox": BOXES}
TAG = "heatmaps/retrieval_errors"


def make_network():
    keras.utils.set_random_seed(1)
    conv = layers.Conv2D(3, 1, use_bias=False, name="conv")
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), conv, layers.GlobalAveragePooling2D()]
    )
    conv.set_weights([np.eye(3, dtype="float32").reshape(1, 1, 3, 3)])
    return model


@pytest.fixture(scope="module")
def network():
    """One network for all tests that change nothing: it is compiled once."""
    return make_network()


def update(model, logger, epochs=1):
    """Return what the logger puts into the logs of the last of some epochs."""
    logger.set_model(model)
    logger.on_train_begin()
    logs = {}
    for epoch in range(epochs):
        logger.on_epoch_begin(epoch)
        logger.on_epoch_end(epoch, logs)
    logger.on_train_end()
    return logs


def tags(folder):
    events = EventAccumulator(str(folder / "validation"), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [event.step for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def read_picture(folder):
    events = EventAccumulator(str(folder / "validation"), size_guidance={"tensors": 0})
    events.Reload()
    _, _, png = events.Tensors(TAG)[0].tensor_proto.string_val
    return tf.io.decode_png(png).numpy()


@pytest.fixture
def explained(monkeypatch):
    """Collect what the logger has explained."""
    found = []

    def explain(*arguments, **options):
        found.append(explain_neighbors(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(retrieval_log, "explain_neighbors", explain)
    return found


class TestContextRatio:
    @pytest.mark.parametrize(
        ("update_freq", "tag"), [("epoch", "epoch_{}"), (2, "{}_vs_iterations")]
    )
    def test_curves_and_logs(self, tmp_path, update_freq, tag):
        model = make_network()
        model.compile("adam", TripletSemiHardLoss())
        logger = EmbeddingCAMLogger(
            tmp_path,
            EXAMPLES,
            update_freq=update_freq,
            num_images=0,
            context_ratio=True,
            strict=True,
        )
        history = model.fit(
            IMAGES, MIXED, batch_size=6, verbose=0, callbacks=[logger]
        ).history
        expected = context_ratio(model, EXAMPLES).as_logs()
        assert len(expected) == 19
        written = tags(tmp_path)
        for name, value in expected.items():
            assert history[f"val_{name}"] == [value], name
            assert f"val_{name}".startswith(LOGGED)
            assert len(written[tag.format(name)]) == 1

    def test_only_where_it_is_asked_for(self, tmp_path, network):
        logs = update(network, EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=0))
        assert logs and not any("covered" in name or "context" in name for name in logs)

    def test_layers_and_masks_are_those_of_the_logger(self, tmp_path):
        inputs = keras.Input((SIZE, SIZE, 3))
        maps = layers.Conv2D(5, 3, activation="relu", name="conv")(inputs)
        raw = layers.Dense(4, name="raw")(layers.GlobalAveragePooling2D()(maps))
        model = keras.Model(inputs, layers.Dense(2, activation="softmax")(raw))
        masks = np.ones((NUM, SIZE, SIZE), "uint8")
        masks[:, 2:6, 2:8] = 2
        masks[:, 0] = 3
        examples = {"image": IMAGES, "label": MIXED, "segmentation_mask": masks}
        options = {
            "embedding_layer": "raw",
            "mask_foreground": 2,
            "mask_ignored": 3,
        }
        logger = EmbeddingCAMLogger(
            tmp_path, examples, num_images=0, context_ratio=True, **options
        )
        logs = update(model, logger)
        found = context_ratio(model, examples, **options).as_logs()
        assert found == {name: logs[f"val_{name}"] for name in found}

    @pytest.mark.parametrize("missing", ["label", "bbox"])
    def test_examples_that_lack_something(self, tmp_path, missing):
        examples = {key: x for key, x in EXAMPLES.items() if key != missing}
        with pytest.raises(ValueError, match=f'context_ratio.*needs.*"{missing}"'):
            EmbeddingCAMLogger(tmp_path, examples, context_ratio=True)

    def test_classes_of_one_are_told_before_the_training(self, tmp_path, network):
        examples = {**EXAMPLES, "label": np.arange(NUM)}
        logger = EmbeddingCAMLogger(tmp_path, examples, context_ratio=True, strict=True)
        logger.set_model(network)
        with pytest.raises(ValueError, match="class of two members.*12 examples"):
            logger.on_train_begin()
        logger = EmbeddingCAMLogger(tmp_path, examples, context_ratio=True)
        with pytest.warns(UserWarning, match="stops logging.*class of two members"):
            assert update(network, logger) == {}

    def test_a_network_that_has_diverged(self, tmp_path):
        model = make_network()
        model.get_layer("conv").set_weights([np.full((1, 1, 3, 3), np.nan)])
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, num_images=0, context_ratio=True
        )
        with pytest.warns(UserWarning, match="goes on.*embeddings are not finite"):
            logs = update(model, logger)
        assert not any("context" in key for key in logs)

    def test_an_image_whose_embedding_is_not_finite(self, tmp_path):
        images = IMAGES.copy()
        images[3] = 3e38  # their mean overflows
        logger = EmbeddingCAMLogger(
            tmp_path,
            {**EXAMPLES, "image": images},
            num_images=5,
            context_ratio=True,
            strict=True,
        )
        with pytest.warns(UserWarning, match="'context_ratio'.* are NaN"):
            logs = update(make_network(), logger)
        covered = [x for key, x in logs.items() if "context" in key or "covered" in key]
        assert len(covered) == 19 and np.isnan(covered).all()

    def test_a_monitor_in_front_is_warned_about(self, tmp_path):
        model = make_network()
        model.compile("adam", TripletSemiHardLoss())
        early = keras.callbacks.EarlyStopping("val_context_ratio", mode="min")
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, num_images=0, context_ratio=True
        )
        with pytest.warns(UserWarning, match="monitors 'val_context_ratio'"):
            model.fit(IMAGES, MIXED, verbose=0, callbacks=[early, logger])


class TestFindErrors:
    @pytest.mark.parametrize("num_errors", [3, 100])
    def test_against_a_loop(self, num_errors):
        embeddings = RNG.normal(size=(40, 5)).astype("float32")
        labels = RNG.integers(0, 12, 40).astype(str)
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        cosines = units @ units.T
        np.fill_diagonal(cosines, -np.inf)
        expected, seen = [], set()
        for query in np.argsort(-cosines.max(axis=1)):
            match = int(cosines[query].argmax())
            same = np.flatnonzero((labels == labels[query]) & (np.arange(40) != query))
            is_wrong = labels[match] != labels[query] and len(same)
            if is_wrong and (match, query) not in seen:
                seen.add((query, match))
                best = same[cosines[query][same].argmax()]
                expected.append((query, match, best))
        found = find_errors(embeddings, labels, num_errors)
        # Of two that are each other's match either may be the query.
        assert len(expected) > 3
        for row, (query, match, best) in zip(
            zip(*found, strict=True), expected[:num_errors], strict=True
        ):
            assert {int(row[0]), int(row[1])} == {query, match}
            if row[0] == query:
                assert row[2] == best

    def test_nothing_to_find(self):
        embeddings = np.float32([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
        labels = np.array([0, 0, 1, 1])
        assert [len(x) for x in find_errors(embeddings, labels, 4)] == [0, 0, 0]
        wrong = np.array([0, 1, 0, 1])
        assert len(find_errors(embeddings, wrong, 4)[0]) == 2
        # No right match is left for a class of one.
        assert len(find_errors(embeddings, np.arange(4), 4)[0]) == 0
        assert len(find_errors(embeddings, wrong, 0)[0]) == 0
        assert len(find_errors(embeddings * np.nan, wrong, 4)[0]) == 0
        assert len(find_errors(embeddings[:1], wrong[:1], 4)[0]) == 0


class TestRetrievalErrors:
    @pytest.mark.parametrize("as_data_set", [False, True])
    def test_the_errors_are_those_of_explain_neighbors(
        self, tmp_path, network, explained, as_data_set
    ):
        names = np.array(["finch", "wren"])[MIXED]
        examples = {**EXAMPLES, "label": names}
        if as_data_set:
            examples = tf.data.Dataset.from_tensor_slices(examples).batch(5)
        logger = EmbeddingCAMLogger(tmp_path, examples, num_images=6, strict=True)
        update(network, logger)
        [found] = explained
        whole = explain_neighbors(network, IMAGES, k=1, labels=names, only_errors=True)
        assert len(found.queries) == 3 and not found.is_right.any()
        assert np.all(np.diff(found.similarities[:, 0]) <= 0)
        # Some of the most similar ones are there as two queries.
        best = np.unique(whole.similarities)[::-1][: len(found.queries)]
        np.testing.assert_allclose(found.similarities[:, 0], best, atol=1e-6)
        for row, image in enumerate(found.query_images):
            query = int(np.flatnonzero((IMAGES == image).all(axis=(1, 2, 3)))[0])
            other = int(np.flatnonzero(whole.queries == query)[0])
            for name in ("match_images", "best_right_images", "query_images"):
                np.testing.assert_array_equal(
                    getattr(found, name)[row], getattr(whole, name)[other]
                )
            for name in ("heatmaps_queries", "heatmaps_matches", "contrasts"):
                np.testing.assert_allclose(
                    getattr(found, name)[row], getattr(whole, name)[other], atol=1e-4
                )
        picture = read_picture(tmp_path)
        # Three pictures in a row, each with a red frame, and no larger than stated.
        red = (np.abs(picture.astype(int) - [205, 40, 40]) < 3).all(axis=-1)
        edges = np.pad(red.sum(axis=0) > 100, 1)
        assert np.count_nonzero(np.diff(edges)) // 2 == 6  # left and right
        assert picture.nbytes < 3 * 0.5e6

    def test_only_at_updates_with_pictures(self, tmp_path, network):
        logger = EmbeddingCAMLogger(
            tmp_path, EXAMPLES, num_images=2, image_freq=2, strict=True
        )
        update(network, logger, epochs=3)
        written = tags(tmp_path)
        assert written[TAG] == written["heatmaps/00"] == [0, 2]
        assert written["epoch_recall_at_1"] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("examples", "num_images"),
        [
            ({**EXAMPLES, "label": RIGHT}, 4),
            ({"image": IMAGES, "bbox": BOXES}, 4),
            (EXAMPLES, 1),
            (EXAMPLES, 0),
        ],
        ids=["no errors", "no labels", "one picture", "no pictures"],
    )
    def test_nothing_to_show(self, tmp_path, network, explained, examples, num_images):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            update(
                network,
                EmbeddingCAMLogger(
                    tmp_path, examples, num_images=num_images, strict=True
                ),
            )
        assert not explained and TAG not in tags(tmp_path)
        assert "epoch_heatmap_ratio_bbox" in tags(tmp_path)

    def test_an_error_ends_in_one_warning_and_the_rest_goes_on(
        self, tmp_path, network, monkeypatch
    ):
        def fail(*arguments, **options):
            raise RuntimeError("no memory is left")

        monkeypatch.setattr(retrieval_log, "explain_neighbors", fail)
        logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, num_images=2)
        with pytest.warns(UserWarning, match="retrieval_errors.*no memory") as caught:
            logs = update(network, logger, epochs=3)
        assert len([x for x in caught if "no memory" in str(x.message)]) == 1
        assert np.isfinite(logs["val_recall_at_1"])
        assert tags(tmp_path)["heatmaps/00"] == [0, 1, 2]
        logger = EmbeddingCAMLogger(tmp_path / "b", EXAMPLES, strict=True)
        with pytest.raises(RuntimeError, match="no memory"):
            update(network, logger)

    @pytest.mark.parametrize(
        "options", [{"preset": "localize"}, {"conv_layer": ["first", "last"]}]
    )
    def test_several_layers_and_inputs(self, tmp_path, explained, options):
        keras.utils.set_random_seed(1)
        images = keras.Input((SIZE, SIZE, 3), name="image")
        ages = keras.Input((2,), name="age")
        maps = layers.Conv2D(4, 3, activation="relu", name="first")(images)
        maps = layers.Conv2D(4, 3, activation="relu", name="last")(maps)
        pooled = layers.GlobalAveragePooling2D()(maps)
        model = keras.Model(
            [images, ages], layers.Dense(3)(layers.Concatenate()([pooled, ages]))
        )
        examples = {**EXAMPLES, "age": RNG.random((NUM, 2))}
        logger = EmbeddingCAMLogger(
            tmp_path, examples, num_images=4, strict=True, **options
        )
        update(model, logger)
        assert len(explained) == 1 and tags(tmp_path)[TAG] == [0]

    def test_a_network_that_crops_has_heat_where_it_looks(self, tmp_path, explained):
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.CenterCrop(8, 8),
                layers.Conv2D(4, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
            ]
        )
        update(model, EmbeddingCAMLogger(tmp_path, EXAMPLES, strict=True))
        assert tags(tmp_path)[TAG] == [0]
        for heatmaps in (explained[0].heatmaps_queries, explained[0].heatmaps_matches):
            assert heatmaps[..., 2:10, 2:10].max() == 1
            inside = np.zeros((SIZE, SIZE), bool)
            inside[2:10, 2:10] = True
            assert not heatmaps[..., ~inside].any()
