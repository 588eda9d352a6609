"""The papers' tables in one command, on small pictures and small networks."""

import doctest
import importlib
import json
import math
import platform
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

ROOT = Path(__file__).parent.parent
# Behind everything else, so that the package still comes from where it is installed.
sys.path.append(str(ROOT))

from benchmarks.papers import (  # noqa: E402
    Options,
    measure,
    run_papers,
    training,
    transferred_weights,
)
from benchmarks.papers.__main__ import main  # noqa: E402
from benchmarks.papers.cub_halves import choose_central_box, load_half  # noqa: E402
from benchmarks.papers.methods import (  # noqa: E402
    make_direct_methods,
    make_single_methods,
)
from benchmarks.papers.names import (  # noqa: E402
    LOCALIZE,
    MEAN,
    SINGLE,
    SINGLE_TOP,
    UNIFORM_OF_CHEN,
    VARIANTS,
    name_transferred,
)
from benchmarks.papers.published import PUBLISHED  # noqa: E402
from benchmarks.papers.relations import find_relations  # noqa: E402
from benchmarks.papers.tables import list_tables, redraw_tables  # noqa: E402
from keras_embcam import embed  # noqa: E402
from keras_embcam.datasets import cub200  # noqa: E402
from keras_embcam.evaluation import Report, evaluate  # noqa: E402
from keras_embcam.transfer import GradWeightDatabase  # noqa: E402

SIZE = 32
NUM_CLASSES = 4
IMAGES_PER_CLASS = 5


def make_network(seed: int = 0, width: int = 4) -> keras.Model:
    """Return a small network with maps of three sizes."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, 2, activation="relu", padding="same"),
            layers.Conv2D(6, 3, 2, activation="relu", padding="same"),
            layers.Conv2D(64, 3, 2, activation="relu", padding="same", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(width),
        ]
    )


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    """Return a folder of twenty small pictures of four classes, as CUB's."""
    folder = tmp_path_factory.mktemp("data") / "few_birds"
    random = np.random.default_rng(0)
    tables: dict[str, list[str]] = {
        name: []
        for name in (
            "images.txt",
            "image_class_labels.txt",
            "bounding_boxes.txt",
            "train_test_split.txt",
        )
    }
    for number in range(NUM_CLASSES * IMAGES_PER_CLASS):
        label = number // IMAGES_PER_CLASS + 1
        path = f"{label}/{number}.png"
        picture = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        picture[10:30, 10:40] //= label
        tf.io.write_file(str(folder / "images" / path), tf.io.encode_png(picture))
        tables["images.txt"].append(f"{number} {path}")
        tables["image_class_labels.txt"].append(f"{number} {label}")
        tables["bounding_boxes.txt"].append(f"{number} 10.0 10.0 30.0 20.0")
        tables["train_test_split.txt"].append(f"{number} 1")
    tables["classes.txt"] = [f"{x + 1} bird{x}" for x in range(NUM_CLASSES)]
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.keras"
    make_network().save(path)
    return path


@pytest.fixture(scope="module")
def found(birds, saved, tmp_path_factory):
    """Return what a run on a saved model found, and its folder."""
    out = tmp_path_factory.mktemp("out")
    options = Options(
        data=birds, model=saved, image_size=SIZE, out=out, faithfulness_images=0
    )
    return run_papers(options), out


def by_method(content) -> dict[str, dict]:
    return {row["method"]: row for row in content["rows"]}


@pytest.mark.slow
def test_figures_are_those_of_the_harness(birds, saved, found) -> None:
    """The second half is reported, thresholds come from the first."""
    content, _ = found
    model = keras.models.load_model(saved, compile=False)
    second, first = (
        cub200(birds, split=f"{which}_half", image_size=SIZE)
        for which in ("second", "first")
    )
    methods = [x for x in make_single_methods(0.5) if x.name in (SINGLE, LOCALIZE)]
    report = evaluate(model, second, methods, calibration_examples=first, num_timings=0)
    for row in report.rows:
        ours = by_method(content)[row["method"]]
        assert ours["images"] == 2 * IMAGES_PER_CLASS
        for column in (
            "heatmap_ratio_bbox",
            "localization_accuracy_0.2",
            "max_box_accuracy_0.5",
            "max_box_threshold",
        ):
            assert ours[column] == pytest.approx(row[column], abs=1e-6)


@pytest.mark.slow
def test_transferred_rows_are_those_of_the_database(birds, saved, found) -> None:
    content, _ = found
    model = keras.models.load_model(saved, compile=False)
    first, second = (
        load_half(birds, f"{which}_half", SIZE, "full_frame")
        for which in ("first", "second")
    )
    database = GradWeightDatabase.fit(
        model, first["image"], first["label"], sign=1, top_channels=None
    )
    cut = GradWeightDatabase.fit(
        model, first["image"], first["label"], sign=-1, top_channels=1
    )
    for sign, variant, made in (
        (1, "50 triplets", database),
        (-1, "50 triplets, top 1", cut),
    ):
        heatmaps = made.explain(model, second["image"])
        top, left, bottom, right = second["bbox"].T * SIZE
        ratios = []
        for heatmap, *box in zip(heatmaps, top, left, bottom, right, strict=True):
            if heatmap.sum():
                rows, columns = np.mgrid[:SIZE, :SIZE]
                # The share of each pixel that the box covers, down and across.
                down = np.minimum(rows + 1, box[2]) - np.maximum(rows, box[0])
                across = np.minimum(columns + 1, box[3]) - np.maximum(columns, box[1])
                inside = np.clip(down, 0, 1) * np.clip(across, 0, 1)
                ratios.append((heatmap * inside).sum() / heatmap.sum())
        row = by_method(content)[name_transferred("gradcam", sign, variant)]
        assert row["heatmap_ratio_bbox"] == pytest.approx(np.mean(ratios), abs=1e-5)
        assert row["empty_heatmaps"] == pytest.approx(1 - len(ratios) / len(heatmaps))
        assert "max_box_accuracy_0.5" not in row


@pytest.mark.slow
def test_files_name_what_was_used_and_no_place(birds, saved, found) -> None:
    _, out = found
    text = (out / "tables.md").read_text()
    content = json.loads((out / "tables.json").read_text())
    command = "python -m benchmarks.papers --data few_birds --model small.keras"
    assert content["settings"]["command"].startswith(command)
    assert f"--image-size {SIZE}" in content["settings"]["command"]
    assert content["settings"]["framing"] == "full frame"
    assert "4 x 4 x 64" in content["settings"]["layer"]
    assert content["settings"]["versions"]["keras"] == keras.__version__
    assert "Recall@1 on the second half, embedding" in text
    for secret in (str(birds.parent), str(saved.parent), str(out), platform.node()):
        assert secret not in text + json.dumps(content)
    assert {path.name for path in out.glob("*.png")} >= {
        "heatmap_ratio_by_top_channels.png",
        "heatmap_ratio_bbox.png",
    }
    assert f"| {SINGLE} | 0.776 ± 0.004 | 0.543 ± 0.004 | 0.776 |" in text
    assert "| n/a |" in text  # there are no masks


@pytest.mark.slow
def test_every_row_of_the_tables_was_measured(found) -> None:
    content, _ = found
    named = {name for table in list_tables(0.5).values() for name in table}
    assert named == set(by_method(content)) | {UNIFORM_OF_CHEN}


@pytest.mark.slow
def test_means_over_runs(birds, tmp_path, monkeypatch) -> None:
    """Two trainings with seeds of their own; mean and deviation of both."""
    made = []

    def build(*_) -> training.Network:
        model = make_network(len(made))
        made.append(model)
        return training.Network(model, None, model, make_network())

    monkeypatch.setattr(measure, "build_network", build)
    # The rows of triplets are measured elsewhere; here they are n/a.
    monkeypatch.setattr(measure, "fit_databases", lambda *_: ({}, ["no triplet"]))
    methods = [make_direct_methods()[0], make_direct_methods()[-4]]
    monkeypatch.setattr(measure.methods_of, "make_direct_methods", lambda: methods)
    two = measure.methods_of.make_faithfulness_methods()[:2]
    monkeypatch.setattr(measure.methods_of, "make_faithfulness_methods", lambda: two)
    options = {"epochs": 1, "image_size": SIZE, "faithfulness_images": 1}
    content = run_papers(Options(data=birds, out=tmp_path, runs=2, seed=3, **options))
    examples = cub200(birds, split="second_half", image_size=SIZE)
    methods = make_single_methods(0.5)[:1]
    ratios = []
    for seed in (3, 4):
        path = tmp_path / f"model_seed_{seed}.keras"
        model = keras.models.load_model(path, compile=False)
        [row] = evaluate(model, examples, methods, num_timings=0).rows
        ratios.append(row["heatmap_ratio_bbox"])
    assert ratios[0] != ratios[1]
    row = by_method(content)[SINGLE]
    assert row["heatmap_ratio_bbox"] == pytest.approx(np.mean(ratios))
    assert row["heatmap_ratio_bbox_std_models"] == pytest.approx(np.std(ratios, ddof=1))
    assert content["settings"]["seeds"] == [3, 4]
    text = (tmp_path / "tables.md").read_text()
    assert "std over runs" in text and "deletion (low)" in text
    assert "- no triplet" in text
    row = f"| {name_transferred('gradcam', 1, '50 triplets')} | 0.643 ± 0.265 |"
    assert f"{row} 0.416 ± 0.231 | – | n/a |" in text


def test_rows_that_a_training_lacks_are_left_out_of_the_means() -> None:
    rows = [
        {"method": name, "heatmap_ratio_bbox": x}
        for name, x in (("one", 0.2), ("two", 1))
    ]
    curves = {"curve": {"x": [1], "y": {"one": [0.2], "two": [1.0]}}}
    whole, half = Report(rows, {}, curves), Report(rows[:1], {})
    combined = measure._combine([whole, half])
    assert [row["method"] for row in combined.rows] == ["one"]
    assert "['two']" in combined.notes[-1]


def test_fit_is_timed_on_few_classes_of_many() -> None:
    """As CUB has: one image of each of 64 would have no positives."""
    labels = np.repeat(np.arange(70), 2)
    images = np.random.default_rng(0).random((140, SIZE, SIZE, 3)).astype("float32")
    model = make_network()
    embeddings = model.predict(images, verbose=0)
    seconds = transferred_weights.measure_fit_times(
        model, images, labels, embeddings, num_timings=1
    )
    assert set(seconds) == {"gradcam", "gradcam++"} and min(seconds.values()) > 0


@pytest.mark.slow
def test_resnet50_with_random_weights(birds, tmp_path, capsys) -> None:
    """The full-size command, on eight small pictures of each half."""
    arguments = f"--data {birds} --out {tmp_path} --limit 8 --image-size 64"
    options = "--epochs 1 --faithfulness-images 0"
    main([*arguments.split(), *options.split()])
    printed = capsys.readouterr().out
    assert "ResNet50, random weights" in printed
    assert "width 128" in printed
    assert (tmp_path / "model_seed_0.keras").is_file()


def test_training_leaves_the_frozen_part(tmp_path) -> None:
    path = tmp_path / "random.weights.h5"
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV2((SIZE, SIZE, 3), 1.0, False, None).save_weights(path)
    built = training.build_network("MobileNetV2", path, SIZE)
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 4)
    images = random.integers(0, 80, (12, SIZE, SIZE, 3), dtype=np.uint8)
    images[range(12), ..., labels] += 100  # classes are colours
    inputs = training._Inputs(built, images)
    rows, is_flipped = np.array([0, 5]), np.array([0, 1])
    direct = np.stack([images[0], images[5, :, ::-1]]).astype("float32")
    expected = built.frozen.predict(direct, verbose=0)
    np.testing.assert_allclose(inputs.take(rows, is_flipped), expected, atol=1e-5)
    before = {x.path: x.numpy() for x in built.model.weights}
    training.train_network(built, images, labels, epochs=1, seed=0)
    changed = {
        x.path
        for x in built.model.weights
        if not np.array_equal(x.numpy(), before[x.path])
    }
    allowed = ("block_16", "Conv_1", "embedding")
    assert changed and all(path.startswith(allowed) for path in changed)
    assert not any("moving" in path for path in changed)
    assert any(path.startswith("block_16_expand") for path in changed)


def test_training_lowers_the_loss() -> None:
    model = make_network(width=8)
    labels = np.repeat(np.arange(3), 4)
    images = np.random.default_rng(0).integers(0, 80, (12, SIZE, SIZE, 3), "uint8")
    images[range(12), ..., labels] += 100  # classes are colours
    small = training.Network(model, None, model, model)
    options = {"epochs": 8, "seed": 0, "learning_rate": 1e-2}
    losses = training.train_network(small, images, labels, **options)
    assert losses[-1] < 0.8 * losses[0]
    assert training.measure_recall(model, images, labels) == 1
    assert training.train_network(small, images, labels, epochs=0, seed=0) == []


def test_flips_without_a_frozen_part() -> None:
    model = make_network()
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), "uint8")
    inputs = training._Inputs(training.Network(model, None, model, model), images)
    taken = inputs.take(np.array([1, 1]), np.array([0, 1]))
    np.testing.assert_array_equal(taken[0], images[1])
    np.testing.assert_array_equal(taken[1], images[1, :, ::-1])


def test_the_negated_database_is_that_of_the_other_sign() -> None:
    model = make_network()
    images = np.random.default_rng(0).random((8, SIZE, SIZE, 3), "float32") * 255
    labels, options = [0, 0, 0, 0, 1, 1, 1, 1], {"top_channels": None}
    first = GradWeightDatabase.fit(model, images, labels, sign=1, **options)
    second = GradWeightDatabase.fit(model, images, labels, sign=-1, **options)
    made = transferred_weights.negate(first)
    found, expected = (x.query(embed(model, images)) for x in (made, second))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(made.channels[:, 0], second.channels[:, 0])
    assert made.sign == -1


def test_lender_runs_the_model_once_for_all_databases(monkeypatch) -> None:
    model = make_network()
    images = np.random.default_rng(0).random((6, SIZE, SIZE, 3), "float32") * 255
    database = GradWeightDatabase.fit(model, images, [0, 0, 0, 1, 1, 1])
    lender = transferred_weights.Lender(model, database.conv_layer)
    databases = {"all": database, "one": transferred_weights.keep_channels(database, 1)}
    calls = []
    run = transferred_weights.run_once
    monkeypatch.setattr(
        transferred_weights, "run_once", lambda *x: calls.append(1) or run(*x)
    )
    report = evaluate(
        model,
        {"image": images, "bbox": np.float32([[0.2, 0.2, 0.7, 0.9]] * 6)},
        lender.make_methods(databases),
        batch_size=3,
        num_timings=0,
    )
    assert len(calls) == 2  # batches
    for row, lent in zip(report.rows, databases.values(), strict=True):
        maps = lent.explain(model, images)
        same = np.asarray(lender.explain(lent, images))
        peaks = same.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(
            same / np.where(peaks > 0, peaks, 1), maps, atol=1e-5
        )
        assert row["images"] == 6


def outcome_of(claim: str, rows=None, **curves) -> str:
    given = {
        name: {"heatmap_ratio_bbox": value} for name, value in (rows or {}).items()
    }
    options = {"localization": {}, "by_channels": {}, "seconds": {}} | curves
    found = find_relations(given, **options)
    [relation] = [x for x in found if f"{x.claim}: {x.where}".startswith(claim)]
    return relation.outcome


SLIGHTLY = f"top 50 slightly below all: {SINGLE_TOP}"
WHOLE, TOP, CENTRES = (name_transferred("gradcam", 1, x) for x in VARIANTS[1:4])


@pytest.mark.parametrize(
    ("claim", "first", "second", "figures", "outcome"),
    [
        ("class mean above single", MEAN, SINGLE, (0.7, 0.6), "holds"),
        ("class mean above single", MEAN, SINGLE, (0.6, 0.7), "does not hold here"),
        ("class mean above single", MEAN, SINGLE, (0.6, 0.6), "does not hold here"),
        ("class mean above single", MEAN, SINGLE, (math.nan, 0.7), "n/a"),
        ("class mean above single", MEAN, SINGLE, ("n/a", 0.7), "n/a"),
        ("top 50 far above", TOP, WHOLE, (0.56, 0.5), "holds"),
        ("top 50 far above", TOP, WHOLE, (0.54, 0.5), "does not hold here"),
        (SLIGHTLY, SINGLE_TOP, SINGLE, (0.69, 0.7), "holds"),
        (SLIGHTLY, SINGLE_TOP, SINGLE, (0.64, 0.7), "does not hold here"),
        (SLIGHTLY, SINGLE_TOP, SINGLE, (0.71, 0.7), "does not hold here"),
        ("50 centres close", CENTRES, TOP, (0.515, 0.5), "holds"),
        ("50 centres close", CENTRES, TOP, (0.53, 0.5), "does not hold here"),
    ],
)
def test_relations_of_two_rows(claim, first, second, figures, outcome) -> None:
    rows = dict(zip((first, second), figures, strict=True))
    assert outcome_of(claim, rows) == outcome


@pytest.mark.parametrize(
    ("slow", "outcome"),
    [(6.0, "holds"), (2.0, "does not hold here"), (11.0, "does not hold here")],
)
def test_cost_of_plus_plus(slow, outcome) -> None:
    seconds = {"gradcam": 1.0, "gradcam++": slow}
    assert outcome_of("Grad-CAM++ 5 to 10 times slower", seconds=seconds) == outcome
    assert outcome_of("Grad-CAM++ 5 to 10 times slower") == "n/a"


@pytest.mark.parametrize(
    ("accuracy", "outcome"),
    [
        ([0.1, 0.61, 0.7, 0.61, 0.1], "holds"),
        ([0.9, 0.7, 0.59, 0.7, 0.9], "does not hold here"),
        ([0.9, 0.7, 0.7, 0.6, 0.9], "does not hold here"),
        ([0.9, 0.7, math.nan, 0.7, 0.9], "n/a"),
    ],
)
def test_claim_over_thresholds_takes_its_range_alone(accuracy, outcome) -> None:
    curve = {"x": [0.01, 0.05, 0.2, 0.4, 0.45], "y": {MEAN: accuracy}}
    claim = "localisation above 0.6 at thresholds 0.05 to 0.4: "
    assert outcome_of(claim + MEAN, localization=curve) == outcome
    assert outcome_of(claim + SINGLE, localization=curve) == "n/a"


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ([0.1, 0.51, 0.5, 0.515, 0.1], "holds"),
        ([0.5, 0.51, 0.5, 0.53, 0.5], "does not hold here"),
    ],
)
def test_the_ratio_is_stable_over_a_range_of_channels(ratios, outcome) -> None:
    curve = {"x": [20, 50, 200, 1000, 2048]}
    curve["y"] = {name_transferred("gradcam", 1, "transferred"): ratios}
    claim = "the ratio stable from 32 to 1024 channels"
    assert outcome_of(claim, by_channels=curve) == outcome


def test_published_figures_stand_beside_rows_of_the_papers_alone() -> None:
    names = {name for table in list_tables(0.5).values() for name in table}
    assert set(PUBLISHED) <= names
    assert not any("-L" in x or x.startswith("preset") for x in PUBLISHED)
    assert not {x.name for x in make_direct_methods()} & set(PUBLISHED)


@pytest.mark.parametrize("name", ["mnv2_imagenet", "mnv2_inat_bird"])
def test_committed_tables_are_drawn_from_the_figures_beside_them(
    name, tmp_path
) -> None:
    committed = ROOT / "docs" / "papers" / name
    (tmp_path / "tables.json").write_bytes((committed / "tables.json").read_bytes())
    written = redraw_tables(tmp_path)
    assert {x.name for x in written} == {x.name for x in committed.iterdir()}
    for path in written[:2]:
        assert path.read_text() == (committed / path.name).read_text()


def test_the_command_takes_data_or_an_earlier_run(tmp_path, capsys) -> None:
    for arguments in ([], ["--data", "x", "--redraw", str(tmp_path)]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--data to measure, or --redraw" in capsys.readouterr().err


def test_central_box() -> None:
    """Worked by hand: a square of side s in one of side b has the IoU (s / b)^2."""
    boxes = np.float32([[0.1, 0.1, 0.9, 0.9]] * 3 + [[0.4, 0.4, 0.6, 0.6]])
    assert choose_central_box(boxes) == 0.6  # 0.55^2 < 0.8^2 / 2 < 0.6^2
    assert choose_central_box(boxes[3:]) == 0.2


def test_limit_takes_some_of_each_of_the_first_classes(birds) -> None:
    some = load_half(birds, "second_half", SIZE, "full_frame", limit=8)
    assert some["label"].tolist() == [2] * 4 + [3] * 4
    assert some["image"].shape == (8, SIZE, SIZE, 3)
    few = load_half(birds, "first_half", SIZE, "centre_crop", limit=4)
    assert few["label"].tolist() == [0, 0, 1, 1]


def test_no_active_triplet_at_all() -> None:
    """Classes that lie on two points: rows are left out, and it is said."""
    embeddings = np.repeat(np.eye(2, dtype="float32"), 3, axis=0)
    labels = np.repeat([0, 1], 3)
    nothing = np.zeros((6, SIZE, SIZE, 3), "float32")
    found, [note] = transferred_weights.fit_databases(
        make_network(width=2), nothing, labels, embeddings, seed=0
    )
    assert found == {}
    assert note.startswith("6 of 6 training images have no active triplet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": Path("none.h5")}, r"'none\.h5' \(`weights`\)"),
        ({"model": Path("none.keras")}, r"'none\.keras' \(`model`\)"),
        ({"runs": 0}, "`runs` must be at least 1. Received: 0"),
        ({"epochs": -1}, "`epochs` must be at least 0. Received: -1"),
        ({"limit": 3}, "`limit` must be at least 4. Received: 3"),
        ({"image_size": 8}, "`image_size` must be at least 32. Received: 8"),
        ({"framing": "none"}, "`framing` must be one of .* Received: 'none'"),
        ({"backbone": "LeNet"}, "`backbone` must be one of .* Received: 'LeNet'"),
    ],
)
def test_options_that_do_not_fit(birds, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Options(data=birds, **options)


@pytest.mark.slow
def test_a_model_is_measured_as_it_is(birds, saved) -> None:
    with pytest.raises(ValueError, match="leave out `weights` and `runs`.*runs=2"):
        Options(data=birds, model=saved, runs=2)


def test_a_half_with_one_class(birds) -> None:
    half = birds.parent / "half"
    half.mkdir()
    for path in birds.glob("*.txt"):
        lines = path.read_text().splitlines()
        kept = 2 if path.name == "classes.txt" else 2 * IMAGES_PER_CLASS
        (half / path.name).write_text("\n".join(lines[:kept]))
    (half / "images").symlink_to(birds / "images")
    message = "The first half of the classes must be at least two. Received 5 images"
    with pytest.raises(ValueError, match=message):
        load_half(half, "first_half", SIZE, "full_frame")


@pytest.mark.parametrize(
    "name",
    ["cub_halves", "options", "methods", "names", "tables", "transferred_weights"],
)
def test_doctests(name: str) -> None:
    module = importlib.import_module(f"benchmarks.papers.{name}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
