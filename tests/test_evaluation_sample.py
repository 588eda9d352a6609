"""What slow measures find on a sample: each column against its own function."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import embed, explain
from keras_embcam.evaluation import METHODS, Method, comparison, evaluate
from keras_embcam.evaluation.correlation import rank_correlation
from keras_embcam.evaluation.deletion import (
    area_under,
    deletion_curve,
    insertion_curve,
)
from keras_embcam.evaluation.known_measures import TABLES
from keras_embcam.evaluation.measure import Measured
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.montages import (
    NUM_MONTAGES,
    heat_by_cell,
    make_montages,
)
from keras_embcam.evaluation.occlusion import occlusion_maps
from keras_embcam.evaluation.sample import choose_images
from keras_embcam.evaluation.stability import (
    add_adversarial_noise,
    shift_images,
    translation_overlap,
)
from keras_embcam.evaluation.top_pointing import (
    choose_rejection_threshold,
    top_5_pointing,
)
from keras_embcam.evaluation.weight_randomization import randomize_weights
from keras_embcam.heatmaps import find_boxes
from keras_embcam.presets import get_preset
from keras_embcam.proxies import class_mean, single_point

SIZE, NUM_IMAGES, NUM_SHOWN = 14, 16, 8
METHODS_COMPARED = ["uniform", "centred_gaussian", "single_point", "class_mean"]
OWN = METHODS_COMPARED.index("single_point")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(6, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def examples() -> dict[str, np.ndarray]:
    """Return four classes, each with a bright patch of its own colour somewhere."""
    random = np.random.default_rng(0)
    labels = np.arange(NUM_IMAGES) % 4
    images = 0.1 * random.random((NUM_IMAGES, SIZE, SIZE, 3)).astype("float32")
    colours = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    corners = random.integers(1, 8, (NUM_IMAGES, 2))
    boxes = []
    for image, label, (top, left) in zip(images, labels, corners, strict=True):
        image[top : top + 5, left : left + 5] += colours[label]
        boxes.append([top, left, top + 5, left + 5])
    return {
        "image": images,
        "label": labels,
        "bbox": np.float32(boxes) / SIZE,
        "segmentation_mask": images.max(axis=-1) > 0.5,
    }


@pytest.fixture(scope="module")
def report(network, examples):
    before = [x.copy() for x in network.get_weights()]
    report = evaluate(
        network,
        examples,
        METHODS_COMPARED,
        faithfulness_images=NUM_SHOWN,
        num_timings=1,
        batch_size=6,
        seed=1,
    )
    for weight, kept in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)
    return report


@pytest.fixture(scope="module")
def shown(network, examples):
    """Return the images that were chosen, their numbers and their own maps."""
    rows = choose_images(NUM_IMAGES, examples["label"], NUM_SHOWN, seed=1)
    images = examples["image"][rows]
    return rows, images, explain(network, images)


def test_as_many_images_of_each_class() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2])
    rows = choose_images(14, labels, 7, seed=0)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 1]
    assert np.all(np.diff(rows) > 0)
    assert not np.array_equal(rows, choose_images(14, labels, 7, seed=1))
    assert len(choose_images(5, None, 9, seed=0)) == 5


def test_every_column_of_every_measure_is_printed(report) -> None:
    named = [column for columns in TABLES.values() for column in columns]
    keys = {column.key for column in named}
    assert len(keys) == len(named)
    # Deviations over models come with the mean of several reports.
    alone = {key for key in keys if not key.endswith("_std_models")}
    assert set().union(*report.rows) == alone | {"method"}
    headings = [
        x for x in report.to_markdown().splitlines() if x.startswith("| method")
    ]
    assert len(headings) == len(TABLES)
    for line, columns in zip(headings, TABLES.values(), strict=True):
        there = [column.heading for column in columns if column.key in alone]
        assert line == f"| method | {' | '.join(there)} |"


def test_a_column_that_no_table_prints_is_refused(
    network, examples, monkeypatch
) -> None:
    def measure_something(context: Context) -> Measured:
        return Measured([{"forgotten": 1.0} for _ in context.methods])

    monkeypatch.setattr(comparison, "describe_methods", measure_something)
    with pytest.raises(ValueError, match=r"no table prints it.*\['forgotten'\]"):
        evaluate(network, examples, ["uniform"], num_timings=0)


def test_curves_and_correlations_are_those_of_the_functions(
    network, report, shown
) -> None:
    _, images, maps = shown
    embeddings = embed(network, images)
    targets = np.asarray(single_point(embeddings))
    row = report.rows[OWN]

    def run(x):
        return network(x).numpy()

    deletion = area_under(deletion_curve(run, images, maps, targets, 20)).mean()
    insertion = area_under(insertion_curve(run, images, maps, targets, 20)).mean()
    occluded = occlusion_maps(run, images, targets, SIZE // 7)
    assert row["deletion"] == pytest.approx(deletion, abs=1e-5)
    assert row["insertion"] == pytest.approx(insertion, abs=1e-5)
    assert row["occlusion"] == pytest.approx(
        rank_correlation(maps, occluded).mean(), abs=1e-4
    )
    curve = report.curves["Deletion: similarity to the proxy"]["y"]
    assert len(curve["single_point"]) == 21
    assert curve["single_point"][0] == pytest.approx(1, abs=1e-5)
    assert "uniform" not in curve  # which pixel would go first?


def test_class_means_are_what_their_rows_are_compared_with(
    network, examples, report, shown
) -> None:
    rows, images, _ = shown
    labels = examples["label"]
    means = class_mean(embed(network, examples["image"]), labels)
    targets = means[labels[rows]]
    maps = explain(network, images, proxies=targets)
    row = report.rows[METHODS_COMPARED.index("class_mean")]

    def run(x):
        return network(x).numpy()

    deletion = area_under(deletion_curve(run, images, maps, targets, 20)).mean()
    assert row["deletion"] == pytest.approx(deletion, abs=1e-5)
    assert report.rows[OWN]["deletion"] != pytest.approx(deletion, abs=1e-5)
    occluded = occlusion_maps(run, images, targets, SIZE // 7)
    expected = rank_correlation(maps, occluded).mean()
    assert row["occlusion"] == pytest.approx(expected, abs=1e-4)


def test_a_preset_keeps_its_layers_and_its_rule_for_boxes(network, examples) -> None:
    report = evaluate(
        network,
        examples,
        [Method("fused", preset="localize")],
        conv_layer="last",
        faithfulness_images=NUM_SHOWN,
        num_timings=0,
        seed=1,
    )
    (row,) = report.rows
    assert row["conv_layer"] == "last, first"
    rows = choose_images(NUM_IMAGES, examples["label"], NUM_SHOWN, seed=1)
    images, step = examples["image"][rows], round(SIZE / 8)
    shifted = shift_images(images, step, step, fill=images.mean(axis=(0, 1, 2)))
    maps, later = (explain(network, x, preset="localize") for x in (images, shifted))
    rule = get_preset("localize").box_threshold
    overlaps = {
        threshold: np.nanmean(
            translation_overlap(
                find_boxes(maps, threshold),
                find_boxes(later, threshold),
                (step, step),
                size=(SIZE, SIZE),
            )
        )
        for threshold in (rule, 0.2)
    }
    assert row["translation"] == pytest.approx(overlaps[rule])
    assert overlaps[rule] != overlaps[0.2]  # or nothing was tested


def test_noise_and_translation(network, report, shown) -> None:
    _, images, maps = shown
    targets = np.asarray(single_point(embed(network, images)))
    with tf.GradientTape() as tape:
        pixels = tf.Variable(images)
        scores = tf.reduce_sum(network(pixels) * targets)
    gradients = tape.gradient(scores, pixels).numpy()
    epsilon = 2 / 255 * float(np.ptp(images))
    noisy = add_adversarial_noise(images, gradients, epsilon)
    correlation = rank_correlation(explain(network, noisy), maps).mean()
    assert report.rows[OWN]["noise"] == pytest.approx(correlation, abs=1e-4)
    step = round(SIZE / 8)
    shifted = shift_images(images, step, step, fill=images.mean(axis=(0, 1, 2)))
    overlaps = translation_overlap(
        find_boxes(maps),
        find_boxes(explain(network, shifted)),
        (step, step),
        size=(SIZE, SIZE),
    )
    assert report.rows[OWN]["translation"] == pytest.approx(np.nanmean(overlaps))
    # A map that does not look at the image stays where it is.
    assert report.rows[1]["noise"] == pytest.approx(1)
    assert report.rows[1]["translation"] < 1


def test_the_sanity_check(network, report, shown) -> None:
    _, images, maps = shown
    with randomize_weights(network, seed=1) as paths:
        names = list(paths)
        correlation = np.nanmean(rank_correlation(explain(network, images), maps))
    assert report.rows[OWN]["randomized"] == pytest.approx(correlation, abs=1e-4)
    assert report.rows[1]["randomized"] == pytest.approx(1)
    curve = report.curves["Rank correlation with the maps of the trained network"]
    assert curve["x"] == [1, 2, 3] and len(names) == 3
    assert curve["y"]["single_point"][-1] == report.rows[OWN]["randomized"]


@pytest.mark.parametrize("num_cells", [2, 4])
def test_montages(network, examples, report, shown, num_cells) -> None:
    """The share of heat in the cell whose class is the proxy, for all methods."""
    rows, images, _ = shown
    others = np.setdiff1d(np.arange(NUM_IMAGES), rows)
    means = class_mean(
        embed(network, examples["image"][others]), examples["label"][others]
    )
    montages = make_montages(
        images, examples["label"][rows], num_cells, NUM_MONTAGES, seed=1
    )
    shares = []
    for cell in range(num_cells):
        proxies = means[montages.cell_labels[:, cell]]
        heat = explain(network, montages.images, proxies=proxies)
        shares.append(heat_by_cell(heat, num_cells)[:, cell])
    key = f"own_cell_{num_cells}"
    assert report.rows[OWN][key] == pytest.approx(np.nanmean(shares), abs=1e-5)
    assert report.rows[OWN][key] == report.rows[OWN + 1][key]  # the same proxies
    assert report.rows[0][key] == pytest.approx(1 / num_cells)


def test_top_5_pointing_is_for_maps_in_units_of_the_score(
    network, examples, report, shown
) -> None:
    for row, name in zip(report.rows, METHODS_COMPARED, strict=True):
        assert ("top_5_pointing" in row) == METHODS[name].explains_proxy
    assert any("Top-4 pointing" in note for note in report.notes)  # four classes
    rows, images, _ = shown
    others = np.setdiff1d(np.arange(NUM_IMAGES), rows)
    embeddings, labels = embed(network, examples["image"]), examples["label"]
    means = np.asarray(class_mean(embeddings[others], labels[others]))
    boxes = examples["bbox"][rows] * SIZE
    maxima, hits, ranked = (np.zeros((NUM_SHOWN, 4)) for _ in range(3))
    for i, image in enumerate(images):
        unit = embeddings[rows[i]] / np.linalg.norm(embeddings[rows[i]])
        ranked[i] = np.argsort(-(means @ unit))
        for place, label in enumerate(ranked[i].astype(int)):
            (heat,) = explain(
                network, image[None], proxies=means[label], normalize=False
            )
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            top, left, bottom, right = boxes[i]
            is_inside = top <= y + 0.5 <= bottom and left <= x + 0.5 <= right
            maxima[i, place], hits[i, place] = heat.max(), is_inside
    ranked = ranked.astype(int)
    threshold = choose_rejection_threshold(
        maxima[::2], hits[::2], ranked[::2], labels[rows][::2]
    )
    result = top_5_pointing(
        maxima[1::2], hits[1::2], ranked[1::2], labels[rows][1::2], threshold
    )
    assert report.rows[OWN]["top_5_pointing"] == pytest.approx(
        np.nanmean(result.accuracy)
    )


def test_a_reader_is_told_what_was_compared_with_what(report) -> None:
    notes = " ".join(report.notes)
    assert f"Faithfulness on {NUM_SHOWN} images" in notes
    assert "the image's own embedding where a row has no proxy" in notes
    assert "right angles" not in notes  # no triplets and pairs here


def test_without_labels_and_boxes(network, examples) -> None:
    methods = [Method("own"), Method("edges", heatmaps=METHODS["edges"].heatmaps)]
    report = evaluate(
        network, examples["image"][:4], methods, faithfulness_images=2, num_timings=0
    )
    for row in report.rows:
        assert "heatmap_ratio_bbox" not in row and "own_cell_2" not in row
        assert np.isfinite(row["deletion"]) and np.isfinite(row["occlusion"])


def test_an_image_without_a_proxy_counts_nowhere(network, examples) -> None:
    """Half of the images are the only ones of their class."""
    changed = {**examples, "label": np.r_[np.arange(8) % 2, np.arange(2, 10)]}
    report = evaluate(
        network,
        changed,
        ["class_mean_leave_one_out"],
        faithfulness_images=NUM_IMAGES,
        num_timings=0,
    )
    (row,) = report.rows
    assert row["left_out"] == 8 and np.isfinite(row["deletion"])
    means = class_mean(
        embed(network, examples["image"]), changed["label"], leave_one_out=True
    )
    maps = explain(network, examples["image"][:8], proxies=means[:8])
    targets = means[:8]
    expected = area_under(
        deletion_curve(
            lambda x: network(x).numpy(), examples["image"][:8], maps, targets, 20
        )
    )
    assert row["deletion"] == pytest.approx(expected.mean(), abs=1e-5)
    assert any("No montages of 2 cells" in note for note in report.notes)


def test_a_model_of_whole_numbers_gets_whole_numbers(network) -> None:
    """Blurred images have fractions, which such a model does not take."""
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(inputs, network(layers.Rescaling(1 / 255)(inputs)))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    report = evaluate(
        model,
        images,
        ["single_point"],
        conv_layer="last",
        faithfulness_images=2,
        num_timings=0,
    )
    (row,) = report.rows
    options = {"conv_layer": "last"}
    maps = explain(model, images, **options)
    targets = np.asarray(single_point(embed(model, images)))

    def run(x):
        return model(np.rint(x).astype("uint8")).numpy()

    deleted = area_under(deletion_curve(run, images, maps, targets, 20)).mean()
    assert row["deletion"] == pytest.approx(deleted, abs=1e-5)
    occluded = occlusion_maps(run, images, targets, SIZE // 7)
    expected = rank_correlation(maps, occluded).mean()
    assert row["occlusion"] == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(row["translation"]) and np.isfinite(row["randomized"])
    assert np.isnan(row["noise"])
    assert any("the model takes integers" in note for note in report.notes)


def test_a_preprocessing_has_a_name(network) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3))
    examples = {"image": images, "bbox": np.float32([[0.1, 0.1, 0.6, 0.6]] * 2)}
    tables = [
        evaluate(
            network,
            examples,
            ["single_point"],
            preprocessing_function=function,
            num_timings=0,
        ).rows
        for function in ("0,1", lambda x: x / 255)
    ]
    ratios = [table[0]["heatmap_ratio_bbox"] for table in tables]
    assert ratios[0] == pytest.approx(ratios[1], abs=1e-6)


def test_a_missing_scipy_is_noticed_before_any_work(network, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)

    def refuse(images):
        raise AssertionError("the examples were read before")

    with pytest.raises(ImportError, match=r"keras-embcam\[evaluation\]"):
        evaluate(
            network,
            np.zeros((2, SIZE, SIZE, 3)),
            ["single_point"],
            preprocessing_function=refuse,
            faithfulness_images=2,
        )
