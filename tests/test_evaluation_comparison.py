"""Tests of keras_embcam.evaluation.evaluate on a network worked by slow loops."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from keras import layers

from keras_embcam import explain
from keras_embcam.evaluation import METHODS, Method, evaluate, sensitivity_to_channels
from keras_embcam.metrics import heatmap_ratio_in_boxes, localization_accuracy

SIZE, NUM_IMAGES = 6, 9
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
KERNEL = np.float32([[1, -1, 0.5, 0.3], [-0.5, 1, 0.7, -0.2]])
HEAD = np.float32([[1, 0.2, -0.5], [-1, 0.4, 0.3], [0.1, -0.8, 1], [0.6, 0.5, 0.2]])
BIAS = np.float32([0.3, -0.2, 0.1])


def make_network(first: keras.layers.Layer | None = None) -> keras.Model:
    """Return a network whose maps are as large as its images."""
    images = keras.Input((SIZE, SIZE, 2))
    x = images if first is None else first(images)
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, layers.Dense(3, name="head")(x))
    model.get_layer("conv").set_weights([KERNEL[None, None], np.zeros(4, "float32")])
    model.get_layer("head").set_weights([HEAD, BIAS])
    return model


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return make_network()


@pytest.fixture(scope="module")
def examples() -> dict[str, np.ndarray]:
    """Return images with boxes on whole pixels, and masks of other pixels."""
    random = np.random.default_rng(0)
    images = random.normal(size=(NUM_IMAGES, SIZE, SIZE, 2)).astype("float32")
    # Nearly alike: without a margin these two have no active triplet.
    images[8] = images[7] + 0.01 * images[6]
    boxes = np.float32([[1, 0, 5, 3], [0, 2, 4, 6], [2, 2, 5, 5]])[np.arange(9) % 3]
    masks = random.random((NUM_IMAGES, SIZE, SIZE)) < 0.3
    return {
        "image": images,
        "label": LABELS,
        "bbox": boxes / SIZE,  # y, x, y, x
        "segmentation_mask": masks,
    }


def run_by_hand(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the activations and the raw embeddings."""
    activations = np.maximum(images.astype("float64") @ KERNEL, 0)
    return activations, activations.mean(axis=(1, 2)) @ HEAD + BIAS


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def weigh(activations: np.ndarray, proxy: np.ndarray, weighting: str) -> np.ndarray:
    """Return the channel weights (k,) of one image, from the closed forms."""
    gradients = HEAD @ proxy / SIZE**2  # at every position
    if weighting == "gradcam":
        return gradients
    weights = np.zeros(4)
    for channel, gradient in enumerate(gradients):
        denominator = 2 + gradient * activations[..., channel].sum()
        if gradient > 0 and denominator > 0:
            weights[channel] = SIZE**2 * gradient / denominator
    return weights


def draw(activations: np.ndarray, weights: np.ndarray, top: int = 4) -> np.ndarray:
    kept = np.argsort(-weights)[:top]
    heat = np.maximum(sum(weights[k] * activations[..., k] for k in kept), 0)
    return heat / heat.max() if heat.max() > 0 else heat


def all_triplets(units: np.ndarray, anchor: int, margin: float) -> list[np.ndarray]:
    """Return the direction of every active triplet, before the normalisation."""
    found = []
    for p in range(NUM_IMAGES):
        for n in range(NUM_IMAGES):
            if (
                p == anchor
                or LABELS[p] != LABELS[anchor]
                or LABELS[n] == LABELS[anchor]
            ):
                continue
            near = np.sum((units[anchor] - units[p]) ** 2)
            far = np.sum((units[anchor] - units[n]) ** 2)
            if near - far + margin > 0:
                found.append(units[p] - units[n])  # sign -1, halved
    return found


def expect(method: Method, images: np.ndarray) -> list[np.ndarray | None]:
    """Return the map of each image by slow loops, None for one without a proxy."""
    activations, embeddings = run_by_hand(images)
    units, maps = unit(embeddings), []
    for i in range(NUM_IMAGES):
        members = LABELS == LABELS[i]
        if method.proxy == "class_mean_leave_one_out":
            members[i] = False
        if method.proxy == "triplet":
            along = units[i]
            directions = [
                2 * (d - (d @ along) * along) / np.linalg.norm(embeddings[i])
                for d in all_triplets(units, i, method.margin)
            ]
        elif method.proxy == "single_point":
            directions = [units[i]]
        else:
            directions = [unit(units[members].sum(axis=0))] if members.any() else []
        if not directions:
            maps.append(None)
            continue
        weights = [weigh(activations[i], d, method.weighting) for d in directions]
        top = method.top_channels or 4
        maps.append(draw(activations[i], np.mean(weights, axis=0), top))
    return maps


def measure_by_hand(maps, examples) -> dict[str, float]:
    """Return the figures of a table by loops over images; SciPy finds the regions."""
    gathered: dict[str, list[float]] = {}
    for heat, box, mask in zip(
        maps, examples["bbox"] * SIZE, examples["segmentation_mask"], strict=True
    ):
        if heat is None:
            continue
        top, left, bottom, right = box.round().astype(int)
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        gathered.setdefault("heatmap_ratio_bbox", []).append(
            heat[inside].sum() / heat.sum()
        )
        gathered.setdefault("heatmap_ratio_bbox_uniform", []).append(inside.mean())
        gathered.setdefault("heatmap_ratio_mask", []).append(
            heat[mask].sum() / heat.sum()
        )
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        gathered.setdefault("pointing_game", []).append(float(inside[hottest]))
        for threshold in (0.2, 0.15):
            regions, _ = scipy.ndimage.label(heat > threshold, np.ones((3, 3)))
            sizes = np.bincount(regions.ravel())[1:]
            # Of several largest ones the table takes the highest, then leftmost.
            rows, columns = min(
                scipy.ndimage.find_objects(regions)[k]
                for k in np.flatnonzero(sizes == sizes.max())
            )
            found = np.zeros_like(mask)
            found[rows, columns] = True
            overlap = (found & inside).sum() / (found | inside).sum()
            key = f"localization_accuracy_{threshold}"
            gathered.setdefault(key, []).append(float(overlap >= 0.5))
    figures = {key: float(np.mean(values)) for key, values in gathered.items()}
    figures["heatmap_ratio_bbox_std"] = float(
        np.std(gathered["heatmap_ratio_bbox"], ddof=1)
    )
    return figures


COMPARED = [
    Method("single point"),
    Method("top 2", top_channels=2),
    Method("mean", "class_mean"),
    Method("others", "class_mean_leave_one_out"),
    Method("plus", "class_mean", weighting="gradcam++"),
    Method("triplet", "triplet", margin=0.0),
    Method("triplet, top 1", "triplet", top_channels=1, margin=0.0),
    # Not linear in the gradient: each triplet has weights of its own.
    Method(
        "triplet plus", "triplet", weighting="gradcam++", top_channels=2, margin=0.0
    ),
]


def test_a_table_is_what_slow_loops_give(network, examples) -> None:
    report = evaluate(network, examples, COMPARED, batch_size=4, num_timings=0)
    assert [row["method"] for row in report.rows] == [x.name for x in COMPARED]
    left_out = []
    for row, method in zip(report.rows, COMPARED, strict=True):
        maps = expect(method, examples["image"])
        left_out.append(sum(heat is None for heat in maps))
        assert row["left_out"] == left_out[-1], method.name
        assert row["images"] == NUM_IMAGES - left_out[-1]
        assert row["empty_heatmaps"] == 0
        for key, value in measure_by_hand(maps, examples).items():
            assert row[key] == pytest.approx(value, abs=2e-6), (method.name, key)
    assert 0 < left_out[-1] < NUM_IMAGES  # both cases are there
    assert "no proxy" in report.notes[0]


def test_best_thresholds_and_the_curve(network, examples) -> None:
    """From the accuracies at single thresholds, each its own run of the loops."""
    report = evaluate(network, examples, ["single_point"], num_timings=0)
    (row,) = report.rows
    curve = report.curves["Localisation accuracy by threshold"]
    accuracies = curve["y"]["single_point"]
    assert curve["x"] == pytest.approx(np.arange(0.05, 1, 0.05))
    assert row["localization_accuracy_0.2"] == accuracies[curve["x"].index(0.2)]
    assert row["max_box_accuracy_0.5"] == max(accuracies)
    assert row["max_box_threshold"] == curve["x"][int(np.argmax(accuracies))]
    mean = np.mean([row[f"max_box_accuracy_{iou}"] for iou in (0.3, 0.5, 0.7)])
    assert row["max_box_accuracy_mean"] == pytest.approx(mean)
    assert (
        row["max_box_accuracy_0.3"]
        >= row["max_box_accuracy_0.5"]
        >= row["max_box_accuracy_0.7"]
    )
    assert "oracle" in report.settings["thresholds of MaxBoxAcc"]


def test_boxes_are_found_at_the_methods_own_threshold(network, examples) -> None:
    methods = [Method("listed", box_threshold=0.3), Method("default")]
    methods += [Method("other", box_threshold=0.33)]
    report = evaluate(network, examples, methods, num_timings=0)
    curve = report.curves["Localisation accuracy by threshold"]
    for row, threshold in zip(report.rows, (0.3, 0.2, 0.33), strict=True):
        assert row["box_threshold"] == threshold
        maps = explain(network, examples["image"])
        hits = localization_accuracy(maps, examples["bbox"], "rel_yxyx", threshold)
        assert row["localization_accuracy"] == pytest.approx(hits.mean())
    expected = curve["y"]["listed"][curve["x"].index(0.3)]
    assert report.rows[0]["localization_accuracy"] == pytest.approx(expected)
    assert Method("x", preset="localize").find_box_threshold() == "otsu_4th_root"


def test_thresholds_chosen_on_another_set_are_used(network, examples) -> None:
    other = {key: values[4:] for key, values in examples.items()}
    methods = ["single_point", "class_mean"]
    options = {"num_timings": 0, "metrics": ["localization_accuracy"]}
    report = evaluate(network, examples, methods, calibration_examples=other, **options)
    chosen = evaluate(network, other, methods, **options)
    curve = report.curves["Localisation accuracy by threshold"]
    for row, other_row in zip(report.rows, chosen.rows, strict=True):
        assert row["max_box_threshold"] == other_row["max_box_threshold"]
        at = curve["x"].index(row["max_box_threshold"])
        assert row["max_box_accuracy_0.5"] == curve["y"][row["method"]][at]
    chosen = report.settings["thresholds of MaxBoxAcc"]
    assert chosen == "chosen on 5 other images, of 0.05 to 0.95 in steps of 0.05"


def test_baselines_that_explain_nothing(network, examples) -> None:
    names = ["uniform", "centred_gaussian", "central_box", "edges", "activation_sum"]
    rows = evaluate(network, examples, names, num_timings=0).rows
    activations, _ = run_by_hand(examples["image"])
    expected = measure_by_hand(list(activations.sum(axis=-1)), examples)
    assert rows[4]["heatmap_ratio_bbox"] == pytest.approx(
        expected["heatmap_ratio_bbox"], abs=1e-6
    )
    for row in rows:
        uniform = np.mean([12, 16, 9]) / SIZE**2  # areas of the boxes
        assert row["heatmap_ratio_bbox_uniform"] == pytest.approx(uniform, abs=1e-6)
        assert row["proxy"] == "none"
    assert rows[0]["heatmap_ratio_bbox"] == pytest.approx(
        rows[0]["heatmap_ratio_bbox_uniform"], abs=1e-6
    )
    assert rows[0]["heatmap_ratio_bbox_std"] == pytest.approx(
        np.std([12, 16, 9] * 3, ddof=1) / SIZE**2, abs=1e-6
    )


def test_own_maps_and_a_database(network, examples) -> None:
    """A function, and an object like GradWeightDatabase, stand beside the others."""

    class Database:
        def explain(self, model, images, num_neighbors=1):
            assert model is network
            maps = np.zeros(images.shape[:3])
            maps[:, 0, :num_neighbors] = 3
            return maps

    def light_corner(images):
        assert images.dtype == "float32"
        maps = np.zeros(images.shape[:3])
        maps[:, 0, 0] = 7
        return maps

    methods = [
        Method("corner", heatmaps=light_corner),
        Method("lent", database=Database(), options={"num_neighbors": 2}),
    ]
    rows = evaluate(network, examples, methods, num_timings=0).rows
    # The boxes start at rows 1, 0 and 2, and at columns 0, 2 and 2.
    assert [row["pointing_game"] for row in rows] == [0, 0]
    assert rows[0]["heatmap_ratio_mask"] == pytest.approx(
        examples["segmentation_mask"][:, 0, 0].mean()
    )
    assert rows[1]["heatmap_ratio_mask"] == pytest.approx(
        examples["segmentation_mask"][:, 0, :2].mean()
    )
    assert rows[1]["proxy"] == "transferred"


def test_what_is_missing_is_not_available(network, examples) -> None:
    masks = {key: examples[key] for key in ("image", "segmentation_mask")}
    report = evaluate(network, masks, num_timings=0)  # the default methods
    assert all(
        "heatmap_ratio_bbox" not in row and "heatmap_ratio_mask" in row
        for row in report.rows
    )
    assert "Left out, as the examples have no labels: ['class_mean']" in report.notes
    boxes = {**masks, "bbox": np.zeros((NUM_IMAGES, 4), "float32")}
    report = evaluate(network, boxes, ["single_point"], num_timings=0)
    (row,) = report.rows
    assert (
        math.isnan(row["heatmap_ratio_bbox"]) and "localization_accuracy_0.2" not in row
    )
    assert "n/a" in report.to_markdown()


def test_a_class_of_one_image_is_left_out_and_counted(network, examples) -> None:
    alone = {**examples, "label": np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])}
    names = ["single_point", "class_mean_leave_one_out", "pairwise_distance"]
    report = evaluate(network, alone, names, num_timings=0, batch_size=1)
    assert [row["left_out"] for row in report.rows] == [0, 2, 2]
    assert [row["images"] for row in report.rows] == [9, 7, 7]
    assert "Classes with one image: 2" in report.notes[0]
    # The uniform map beside it is measured on the images that are left.
    areas = np.array([12, 16, 9] * 3)[:7]
    assert report.rows[1]["heatmap_ratio_bbox_uniform"] == pytest.approx(
        areas.mean() / 36, abs=1e-6
    )


@pytest.mark.parametrize("names", [["wren", "owl", "tit"], [3_000_000, 2**40, -5]])
def test_labels_are_names_and_not_places(network, examples, names) -> None:
    """However large, they take no memory, and the user's own are shown."""
    named = {**examples, "label": np.array(names)[LABELS]}
    found, expected = (
        evaluate(network, x, ["class_mean"], num_timings=0) for x in (named, examples)
    )
    for key in ("heatmap_ratio_bbox", "pointing_game"):
        assert found.rows[0][key] == expected.rows[0][key]
    assert {x["label"] for x in found.by_class()} == set(names)


def test_figures_of_images_and_classes_come_to_those_of_the_table(
    network, examples
) -> None:
    methods = ["single_point", "class_mean_leave_one_out"]
    alone = {**examples, "label": np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])}
    report = evaluate(network, alone, methods, num_timings=0, batch_size=4)
    by_class = report.by_class()
    for row, entry in zip(report.rows, report.by_image, strict=True):
        assert entry["method"] == row["method"]
        assert entry["label"].tolist() == alone["label"].tolist()
        names = ("heatmap_ratio_bbox", "localization_accuracy", "empty_heatmaps")
        for name in names:
            assert len(entry[name]) == NUM_IMAGES
            assert np.nanmean(entry[name]) == pytest.approx(row[name])
            classes = [x for x in by_class if x["method"] == row["method"]]
            means = np.array([x[name] for x in classes])
            images = np.array([x["images"] for x in classes]) * ~np.isnan(means)
            mean = np.average(np.nan_to_num(means), weights=images)
            assert mean == pytest.approx(row[name])
    left_out = np.isnan(report.by_image[1]["empty_heatmaps"])
    assert np.flatnonzero(left_out).tolist() == [7, 8]
    maps = explain(network, examples["image"])
    ratios = heatmap_ratio_in_boxes(maps, examples["bbox"], "rel_yxyx")
    np.testing.assert_allclose(
        report.by_image[0]["heatmap_ratio_bbox"], ratios, atol=1e-6
    )


def test_sampling_is_seeded_and_independent_of_the_batches(network, examples) -> None:
    method = Method("few", "distance_difference", num_triplets=2)

    def ratio(**options) -> float:
        return evaluate(network, examples, [method], num_timings=0, **options).rows[0][
            "heatmap_ratio_bbox"
        ]

    assert ratio(seed=1) == pytest.approx(ratio(seed=1, batch_size=2), abs=1e-6)
    assert ratio(seed=1) != pytest.approx(ratio(seed=2), abs=1e-6)


def test_sensitivity_to_channels(network, examples) -> None:
    methods = ["single_point", "class_mean"]
    curves = sensitivity_to_channels(network, examples, methods)
    curve = curves["Heatmap ratio by top channels"]
    assert curve["x"] == [1, 2, 4]
    for name in methods:
        for number, mean, deviation in zip(
            curve["x"], curve["y"][name], curve["std"][name], strict=True
        ):
            method = dataclasses.replace(METHODS[name], top_channels=number)
            hand = measure_by_hand(expect(method, examples["image"]), examples)
            assert mean == pytest.approx(hand["heatmap_ratio_bbox"], abs=1e-6)
            assert deviation == pytest.approx(hand["heatmap_ratio_bbox_std"], abs=1e-6)
    with pytest.raises(ValueError, match=r"weight channels.*'edges'"):
        sensitivity_to_channels(network, examples, ["edges"])


def test_cost_is_measured_for_each_method(network, examples) -> None:
    names = ["edges", "activation_sum", "single_point"]
    report = evaluate(network, examples, names, num_timings=1)
    for row in report.rows:
        assert row["seconds"] > 0 and row["relative_time"] > 0
    # Floats of 4 bytes: a map of 36, and 36 x 4 activations and gradients.
    kilobytes = [row["kilobytes"] for row in report.rows]
    assert kilobytes == pytest.approx([0.144, 0.72, 1.296])


@pytest.mark.parametrize("form", ["unbatched", "ragged_batch", "batch", "lists"])
def test_several_boxes_of_some_images(network, examples, form) -> None:
    """Every form of boxes gives the figures of padded arrays."""
    images, boxes = examples["image"], examples["bbox"]
    several = [
        np.concatenate([boxes[i : i + 1], boxes[(i + 1) % 9 : (i + 1) % 9 + 1]])[
            : 1 + i % 2
        ]
        for i in range(NUM_IMAGES)
    ]
    padded = np.full((NUM_IMAGES, 2, 4), np.nan, "float32")
    for row, box in zip(padded, several, strict=True):
        row[: len(box)] = box

    def generate():
        for image, box in zip(images, several, strict=True):
            yield {"image": image, "bbox": box}

    signature = {
        "image": tf.TensorSpec((SIZE, SIZE, 2), tf.float32),
        "bbox": tf.TensorSpec((None, 4), tf.float32),
    }
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    given = {
        "unbatched": dataset,
        "ragged_batch": dataset.ragged_batch(4),
        "batch": dataset.padded_batch(4),
        "lists": {"image": images, "bbox": several},
    }[form]
    expected, found = (
        evaluate(network, x, ["single_point"], num_timings=0)
        for x in ({"image": images, "bbox": padded}, given)
    )
    assert found.rows[0].keys() == expected.rows[0].keys()
    for name, value in expected.rows[0].items():  # batches differ in the last digit
        if isinstance(value, float):
            value = pytest.approx(value, abs=1e-6)
        assert found.rows[0][name] == value, name
    assert found.by_image[0].keys() == expected.by_image[0].keys()
    for name, values in expected.by_image[0].items():
        if name != "method":
            of_images = found.by_image[0][name]
            np.testing.assert_allclose(of_images, values, atol=1e-6)
    ratios = heatmap_ratio_in_boxes(explain(network, images), padded, "rel_yxyx")
    ratio = found.rows[0]["heatmap_ratio_bbox"]
    assert ratio == pytest.approx(float(np.mean(ratios)), abs=1e-6)


def test_given_class_proxies_are_chosen_by_the_labels_as_given(
    network, examples
) -> None:
    """Labels 1 and 3 of four classes stay 1 and 3, in whatever order they come."""
    proxies = np.float32([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, -1]])
    labels = np.where(LABELS > 0, 1, 3)
    arrays = {**examples, "label": labels}
    for given in (arrays, tf.data.Dataset.from_tensor_slices(arrays)):
        (row,) = evaluate(network, given, [Method("x", proxies)], num_timings=0).rows
        maps = explain(network, examples["image"], proxies=proxies[labels])
        ratios = heatmap_ratio_in_boxes(maps, examples["bbox"], "rel_yxyx")
        expected = pytest.approx(float(np.nanmean(ratios)), abs=1e-6)
        assert row["heatmap_ratio_bbox"] == expected
