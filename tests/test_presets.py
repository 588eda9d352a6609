"""Several layers at once, and the preset "localize"."""

import doctest

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import EmbeddingCAM, explain, presets
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.heatmaps import find_boxes, fuse_heatmaps
from keras_embcam.method import Method
from keras_embcam.metrics import localization_accuracy
from keras_embcam.network.feature_maps import Scales
from keras_embcam.network.view import ModelView
from keras_embcam.presets import PRESETS

SIZE = 32
IMAGES = np.random.default_rng(0).random((3, SIZE, SIZE, 3), "float32")


def make_layers():
    """Maps of 32, 16 and 8 positions a side, two layers of 16."""
    return [
        layers.Conv2D(4, 3, padding="same", activation="relu", name="fine"),
        layers.MaxPooling2D(),
        layers.Conv2D(5, 3, padding="same", activation="relu", name="middle_1"),
        layers.Conv2D(6, 3, padding="same", activation="relu", name="middle_2"),
        layers.MaxPooling2D(),
        layers.Conv2D(7, 3, padding="same", activation="relu", name="coarse"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, name="embedding"),
    ]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *make_layers()])


def loop_over_layers(model, names, images=IMAGES):
    """Return {name: (activations, gradients)} of the single point, one tape each."""
    found = {}
    for name in names:
        place = [layer.name for layer in model.layers].index(name)
        activations = tf.convert_to_tensor(images)
        for layer in model.layers[: place + 1]:
            activations = layer(activations)
        with tf.GradientTape() as tape:
            tape.watch(activations)
            embeddings = activations
            for layer in model.layers[place + 1 :]:
                embeddings = layer(embeddings)
            length = tf.stop_gradient(tf.norm(embeddings, axis=1, keepdims=True))
            score = tf.reduce_sum(
                embeddings * tf.stop_gradient(embeddings) / length, axis=1
            )
        gradients = tape.gradient(score, activations)
        found[name] = activations.numpy(), gradients.numpy()
    return found


def resize(heatmap, size):
    """With OpenCV, whose linear resizing aligns the centres of pixels too."""
    return cv2.resize(heatmap, (size, size), interpolation=cv2.INTER_LINEAR)


def average_with_neighbours(values):
    """Of those that are there: at the edge there are fewer."""
    averages = np.zeros_like(values)
    for y, x in np.ndindex(*values.shape):
        around = values[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        averages[y, x] = around.mean()
    return averages


def reconstruct_slowly(marker, mask):
    """Level by level: the regions of the mask that the marker lies in."""
    reached = np.zeros_like(mask)
    for level in np.unique(mask[mask > 0]):
        _, regions = cv2.connectedComponents(
            (mask >= level).astype("uint8"), connectivity=8
        )
        marked = np.unique(regions[(np.minimum(marker, mask) >= level)])
        reached[np.isin(regions, marked[marked > 0])] = level
    return reached


def localize_slowly(found, coarse, finer, size):
    """The formula of `localize`, image by image."""
    heatmaps = []
    for i in range(len(IMAGES)):
        fused = np.zeros((size, size))
        for name in finer:
            activations, gradients = (x[i] for x in found[name])
            fine = np.maximum(
                (np.maximum(gradients, 0) * activations).sum(axis=-1), 0
            ).astype("float32")
            fine = resize(fine, size)
            fused += fine / fine.max() / len(finer)
        activations, gradients = (x[i] for x in found[coarse])
        weights = gradients.mean(axis=(0, 1))
        gate = np.maximum((activations * weights).sum(axis=-1), 0)
        gate = resize(average_with_neighbours(gate), size)
        gate /= gate.max()
        is_marked = fused * gate >= 0.8 * (fused * gate).max()
        reached = reconstruct_slowly(np.where(is_marked, fused, 0), fused)
        gate = gate**2 / (gate**2 + 0.3**2)
        heatmaps.append(reached**2 * gate**0.3)
    return np.array(heatmaps)


def test_doctests():
    assert not doctest.testmod(presets).failed


class TestLocalize:
    def test_another_default_format_of_images_changes_nothing(self, model):
        expected = explain(model, IMAGES, preset="localize")
        keras.config.set_image_data_format("channels_first")
        try:
            view = EmbeddingCAM(model, preset="localize")
            _, heatmaps = view(IMAGES)
        finally:
            keras.config.set_image_data_format("channels_last")
        np.testing.assert_allclose(heatmaps, expected, atol=1e-6)

    def test_against_a_slow_loop(self, model):
        names = ["coarse", "middle_2", "fine"]
        found = loop_over_layers(model, names)
        expected = localize_slowly(found, "coarse", names[1:], SIZE)
        heatmaps = explain(model, IMAGES, preset="localize", normalize=False)
        np.testing.assert_allclose(heatmaps, expected, atol=2e-6)

    def test_the_last_layers_of_the_three_coarsest_sizes(self, model):
        view = EmbeddingCAM(model, preset="localize").view()
        assert view.conv_layer == ["coarse", "middle_2", "fine"]
        assert view.map_size == (SIZE, SIZE)

    def test_layers_may_be_named_in_any_order(self, model):
        named = explain(
            model, IMAGES, preset="localize", conv_layer=["middle_1", "coarse"]
        )
        found = loop_over_layers(model, ["middle_1", "coarse"])
        expected = localize_slowly(found, "coarse", ["middle_1"], SIZE // 2)
        expected = np.array([resize(x, SIZE) for x in expected])
        expected /= expected.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(named, expected, atol=2e-6)

    def test_a_network_of_one_size_gives_grad_cam(self):
        keras.utils.set_random_seed(0)
        one = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
        images = IMAGES[:, :8, :8]
        heatmaps = explain(one, images, preset="localize")
        assert heatmaps.max() == 1
        np.testing.assert_array_equal(heatmaps, explain(one, images))

    def test_the_map_shifts_with_the_content(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((64, 64, 3)), *make_layers()])
        images = np.zeros((1, 64, 64, 3), "float32")
        images[:, 16:32, 16:32] = np.random.default_rng(0).random((16, 16, 3))
        shifted = np.roll(images, (16, 8), axis=(1, 2))
        before, after = (
            explain(model, x, preset="localize") for x in (images, shifted)
        )
        assert before.max() == 1
        np.testing.assert_allclose(after, np.roll(before, (16, 8), (1, 2)), atol=1e-5)

    def test_no_heat_stays_no_heat(self, model):
        heatmaps = explain(model, IMAGES, proxies=np.zeros(4), preset="localize")
        assert not heatmaps.any()

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_the_length_of_the_proxy_does_not_matter(self, model, scale):
        proxy = np.float32([1, -1, 0.5, 2])
        unit = explain(model, IMAGES, proxies=proxy, preset="localize")
        scaled = explain(model, IMAGES, proxies=scale * proxy, preset="localize")
        np.testing.assert_allclose(scaled, unit, atol=1e-5)

    def test_several_proxies(self, model):
        proxies = np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32")
        both = explain(model, IMAGES, proxies=proxies, preset="localize")
        for number in range(2):
            single = explain(
                model, IMAGES, proxies=proxies[:, number], preset="localize"
            )
            np.testing.assert_allclose(both[:, number], single, atol=1e-6)

    def test_images_of_any_size(self):
        keras.utils.set_random_seed(0)
        any_size = keras.Sequential([keras.Input((None, None, 3)), *make_layers()])
        fixed = keras.Sequential([keras.Input((24, 20, 3)), *make_layers()])
        fixed.set_weights(any_size.get_weights())
        images = IMAGES[:, :24, :20]
        np.testing.assert_allclose(
            explain(any_size, images, preset="localize"),
            explain(fixed, images, preset="localize"),
            atol=1e-6,
        )
        outputs = EmbeddingCAM(any_size, preset="localize").as_model()
        assert outputs.output_shape == [(None, 4), (None, None, None)]

    def test_as_layer_saved_and_loaded(self, model, tmp_path):
        cam = EmbeddingCAM(model, preset="localize").as_model()
        cam.save(tmp_path / "cam.keras")
        loaded = keras.models.load_model(tmp_path / "cam.keras")
        expected = explain(model, IMAGES, preset="localize")
        np.testing.assert_allclose(cam(IMAGES)[1], expected, atol=1e-6)
        np.testing.assert_allclose(loaded(IMAGES)[1], expected, atol=1e-6)

    def test_exported_and_compiled(self, model, tmp_path):
        cam = EmbeddingCAM(model, preset="localize").as_model()
        cam.export(tmp_path / "cam", verbose=False)
        served = tf.saved_model.load(tmp_path / "cam")
        expected = explain(model, IMAGES, preset="localize")
        np.testing.assert_allclose(served.serve(IMAGES)[1], expected, atol=1e-6)
        compiled = tf.function(cam, jit_compile=True)
        np.testing.assert_allclose(compiled(IMAGES)[1], expected, atol=1e-5)

    def test_heat_stays_with_the_object_that_the_proxy_shows(self):
        coarse = np.zeros((1, 3, 9, 1), "float32")
        coarse[:, 1, 1], coarse[:, 1, 6] = 1, 0.3
        fine = np.zeros((1, 3, 9, 1), "float32")
        fine[:, 1, 0:4] = fine[:, 1, 5:9] = [[0.5], [1], [0.9], [0.8]]
        fine[:, 1, 4] = 0.1  # the gap
        gradients = [np.ones_like(coarse), np.ones_like(fine)]
        heatmaps = np.asarray(presets.localize([coarse, fine], gradients))
        assert heatmaps[0, 1, :3].min() > 0.2
        assert 0 < heatmaps[0, 1, 4:].max() <= 0.1**2 + 1e-6

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_half_precision(self, policy):
        models = []
        for dtype in ("float32", policy):
            keras.utils.set_random_seed(0)
            keras.config.set_dtype_policy(dtype)
            try:
                models.append(
                    keras.Sequential([keras.Input((SIZE, SIZE, 3)), *make_layers()])
                )
            finally:
                keras.config.set_dtype_policy("float32")
        full, half = (explain(x, IMAGES, preset="localize") for x in models)
        assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.99


class TestLogger:
    def test_localisation_uses_the_rule_of_the_preset(self, model, tmp_path):
        # What the rule of the preset finds: the plain rule finds less of it.
        rule = PRESETS["localize"].box_threshold
        heatmaps = explain(model, IMAGES, preset="localize")
        boxes = find_boxes(heatmaps, rule)[:, [1, 0, 3, 2]] / SIZE
        trained = keras.models.clone_model(model)
        trained.set_weights(model.get_weights())
        trained.compile("sgd", "mse")
        trained.optimizer.learning_rate = 0.0
        logger = EmbeddingCAMLogger(
            tmp_path, {"image": IMAGES, "bbox": boxes}, preset="localize", strict=True
        )
        history = trained.fit(
            IMAGES, np.zeros((3, 4)), verbose=0, callbacks=[logger]
        ).history
        expected = localization_accuracy(heatmaps, boxes, "rel_yxyx", rule).mean()
        other = localization_accuracy(heatmaps, boxes, "rel_yxyx").mean()
        assert expected != other  # or the next line could not tell
        assert history["val_localization_accuracy"] == [pytest.approx(expected)]

    def test_a_wrong_preset_is_told_at_once(self, tmp_path):
        with pytest.raises(ValueError, match="`preset` must be one of"):
            EmbeddingCAMLogger(tmp_path, IMAGES, preset="localise")


class TestSeveralLayers:
    def test_maps_are_averaged(self, model):
        single = [
            explain(model, IMAGES, conv_layer=x, resize=False)
            for x in ("coarse", "middle_1")
        ]
        both = explain(model, IMAGES, conv_layer=["middle_1", "coarse"], resize=False)
        for i in range(len(IMAGES)):
            coarse = resize(single[0][i], SIZE // 2)
            expected = coarse / coarse.max() + single[1][i]
            np.testing.assert_allclose(both[i], expected / expected.max(), atol=1e-6)

    def test_layers_may_be_objects(self, model):
        names = ["middle_1", "coarse"]
        objects = [model.get_layer(name) for name in names]
        expected = explain(model, IMAGES, conv_layer=names)
        np.testing.assert_array_equal(
            explain(model, IMAGES, conv_layer=objects), expected
        )
        config = EmbeddingCAM(model, objects).get_config()
        assert config["conv_layer"] == names

    def test_top_channels_of_each_layer(self, model):
        names = ["middle_1", "coarse"]
        few = explain(model, IMAGES, conv_layer=names, top_channels=2)
        maps = [
            explain(model, IMAGES, conv_layer=x, top_channels=2, resize=False)
            for x in names
        ]
        expected = np.asarray(fuse_heatmaps(maps))
        expected = np.array([resize(x, SIZE) for x in expected])
        expected /= expected.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(few, expected, atol=1e-5)

    @pytest.mark.parametrize("names", [[], ["coarse", "coarse"]])
    def test_none_and_twice_are_refused(self, model, names):
        with pytest.raises(ValueError, match="at least one layer, and none twice"):
            explain(model, IMAGES, conv_layer=names)

    def test_an_unknown_one_is_named(self, model):
        with pytest.raises(ValueError, match="nothing"):
            explain(model, IMAGES, conv_layer=["coarse", "nothing"])

    def test_scales_take_what_there_is(self, model):
        assert ModelView(model, Scales(2)).conv_layer == ["coarse", "middle_2"]
        assert len(ModelView(model, Scales(9)).conv_layer) == 3


class TestNames:
    def test_an_unknown_preset_lists_the_known_ones(self, model):
        known = r"one of \['attention_gradient', .*'tokens'\].*'other'"
        with pytest.raises(ValueError, match=known):
            explain(model, IMAGES, preset="other")

    @pytest.mark.parametrize(
        "options", [{"weighting": "layercam"}, {"top_channels": 5}]
    )
    def test_what_the_preset_states_is_not_stated_again(self, model, options):
        with pytest.raises(ValueError, match="states the weighting and the channels"):
            explain(model, IMAGES, preset="localize", **options)

    def test_none_leaves_the_arguments_alone(self):
        method = Method(conv_layer="conv", weighting="layercam", top_channels=3)
        assert (method.layers, method.weigh.__name__) == ("conv", "layercam")
        assert PRESETS["localize"].box_threshold == "otsu_4th_root"


class TestOtsu:
    def test_two_levels_are_parted(self):
        heatmap = np.zeros((1, 8, 8), "float32")
        heatmap[0, 2:6, 1:4] = 0.05  # far below 0.2: few peaks must not hide it
        heatmap[0, 3, 2] = 0.06
        assert find_boxes(heatmap, "otsu").tolist() == [[1, 2, 4, 6]]

    def test_against_otsu_by_hand(self):
        rng = np.random.default_rng(0)
        heatmap = np.square(rng.random((40, 40))).astype("float32")
        heatmap[10:30, 5:25] += 1
        levels = np.rint(255 * np.sqrt(heatmap / heatmap.max()))
        best = max(
            range(255),
            key=lambda level: np.prod(
                [
                    (levels <= level).mean(),
                    (levels > level).mean(),
                    (levels[levels <= level].mean() - levels[levels > level].mean())
                    ** 2
                    if 0 < (levels > level).sum() < levels.size
                    else 0,
                ]
            ),
        )
        hot = heatmap > (best / 255) ** 2 * heatmap.max()
        num_regions, _, regions, _ = cv2.connectedComponentsWithStats(
            hot.astype("uint8"), connectivity=8
        )
        left, top, width, height, _ = max(regions[1:].tolist(), key=lambda x: x[4])
        assert num_regions > 1
        expected = [left, top, left + width, top + height]
        assert find_boxes(heatmap[None], "otsu").tolist() == [expected]

    def test_a_uniform_map_is_all_hot(self):
        heatmap = np.ones((1, 4, 4), "float32")
        for rule in ("otsu", "otsu_4th_root"):
            assert find_boxes(heatmap, rule).tolist() == [[0, 0, 4, 4]]

    @pytest.mark.parametrize("threshold", ["yen", 1.0, -0.1, None])
    def test_another_rule_is_refused(self, threshold):
        with pytest.raises(
            ValueError, match="or be one of .'otsu', 'otsu_4th_root'.. Received"
        ):
            find_boxes(np.ones((1, 2, 2)), threshold)
