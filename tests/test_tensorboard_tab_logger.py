"""What EmbeddingCAMLogger writes for the tab of a real, small training."""

import cv2
import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from keras_embcam import explain, explain_pair, tab_format
from keras_embcam.callbacks import EmbeddingCAMLogger, tab_pairs
from keras_embcam.callbacks.update import shrink_heatmaps
from keras_embcam.heatmaps import find_boxes
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.metrics import heatmap_ratio_in_boxes

NUM = 12
BOX = np.float32([0.25, 0.125, 0.75, 0.5])  # rel_yxyx


def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, 4, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    model.compile("adam", TripletSemiHardLoss())
    return model


def make_examples():
    rng = np.random.default_rng(0)
    masks = np.zeros((NUM, 32, 32), bool)
    masks[:, 8:24, 4:16] = True
    return {
        "image": rng.random((NUM, 32, 32, 3), "float32"),
        "label": np.asarray(["wren", "finch", "<b>"])[np.arange(NUM) % 3],
        "bbox": np.tile(BOX, (NUM, 1)),
        "segmentation_mask": masks,
        "file_name": [f"bird {number}.jpg" for number in range(NUM)],
    }


def train(folder, epochs=2, examples=None, **options):
    images = make_examples()["image"]
    examples = examples or make_examples()
    model = make_model()
    numbers = np.arange(NUM) % 3
    options = {"num_images": 0, "strict": True, **options}
    logger = EmbeddingCAMLogger(folder, examples, **options)
    model.fit(images, numbers, epochs=epochs, verbose=0, callbacks=[logger])
    return model


def read(folder):
    """Return the records of both tags: {tag: {step: [record, ..]}}."""
    events = EventAccumulator(str(folder / "validation"), {"tensors": 0}).Reload()
    found = {}
    for tag in set(events.Tags()["tensors"]) & set(tab_format.PARTS):
        found[tag] = {
            event.step: [
                tab_format.unpack(bytes(x))
                for x in tensor_util.make_ndarray(event.tensor_proto)
            ]
            for event in events.Tensors(tag)
        }
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    return train(folder), read(folder)


def test_examples_are_written_once_and_updates_at_each_epoch(trained):
    _, found = trained
    assert list(found[tab_format.EXAMPLES_TAG]) == [0]
    assert list(found[tab_format.UPDATES_TAG]) == [0, 1]
    table, files = found[tab_format.EXAMPLES_TAG][0]
    assert table.meta["names"] == [f"bird {number}.jpg" for number in range(NUM)]
    assert table.meta["labels"][:3] == ["wren", "finch", "<b>"]
    boxes = tab_format.from_shares(table.arrays["boxes"])
    np.testing.assert_allclose(boxes, [[0.125, 0.25, 0.5, 0.75]] * NUM, atol=1e-4)
    assert table.arrays["outline_counts"].tolist() == [1] * NUM
    end = files.arrays["ends"][0]
    picture = cv2.imdecode(files.arrays["bytes"][:end], cv2.IMREAD_COLOR)[..., ::-1]
    expected = make_examples()["image"][0] * 255
    assert np.abs(picture - expected).max() <= 0.51
    for step in (0, 1):
        figures = found[tab_format.UPDATES_TAG][step][0]
        assert figures.meta["key"] == table.meta["key"]
        assert figures.meta["unit"] == "epoch"


def test_an_update_says_what_explain_says_of_the_same_weights(trained):
    model, found = trained
    figures, maps, pairs = found[tab_format.UPDATES_TAG][1]
    examples = make_examples()
    images = examples["image"]
    heatmaps = explain(model, images)
    ratios = np.asarray(heatmap_ratio_in_boxes(heatmaps, examples["bbox"], "rel_yxyx"))
    kept = tab_format.from_shares(figures.arrays["ratios"])
    np.testing.assert_allclose(kept, ratios, atol=1e-4)
    assert figures.meta["values"]["mean_ratio"] == pytest.approx(
        np.nanmean(ratios), abs=1e-4
    )
    assert figures.meta["values"]["uniform_ratio"] == pytest.approx(
        0.5 * 0.375, abs=1e-4
    )
    boxes = find_boxes(heatmaps, 0.2) / 32
    np.testing.assert_allclose(
        tab_format.from_shares(figures.arrays["found_boxes"]), boxes, atol=1e-4
    )
    units = np.array(model(images))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = units @ units.T - 2 * np.eye(NUM)
    first = np.argmax(cosines, 1)
    assert figures.arrays["neighbors"][:, 0].tolist() == first.tolist()
    np.testing.assert_allclose(
        figures.arrays["similarities"][:, 0] / 32767, cosines.max(1), atol=1e-4
    )
    # The maps are those of the feature map, at its size.
    coarse = explain(model, images, resize=False)
    assert maps.arrays["maps"].shape == (NUM, 8, 8)
    difference = maps.arrays["maps"] / 255 - coarse
    assert np.abs(difference).max() < 0.51 / 255
    # Of wrong first matches, the heat on both sides that explain_pair finds.
    wrong = [row for row in range(NUM) if row % 3 != first[row] % 3]
    rows = sorted(wrong, key=lambda row: -cosines[row, first[row]])
    assert len(rows) > 1
    assert pairs.arrays["examples"].tolist() == rows
    pair = explain_pair(model, images[rows], images[first[rows]], resize=False)
    expected = [pair.heatmaps_a, pair.heatmaps_b]
    assert np.abs(pairs.arrays["maps"] / 255 - expected).max() < 0.51 / 255


def test_where_pairs_cannot_be_mapped_all_else_is_written(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("no layer")

    monkeypatch.setattr(tab_pairs, "map_known_pairs", fail)
    with pytest.warns(UserWarning, match="leaves out the heat of pairs.*no layer"):
        train(tmp_path, 2, strict=False)
    found = read(tmp_path)[tab_format.UPDATES_TAG]
    assert [bool(pairs.arrays) for _, _, pairs in found.values()] == [False, False]
    with pytest.raises(ValueError, match="no layer"):
        train(tmp_path / "strict", 1)


@pytest.mark.parametrize("side", [(7, 7), (14, 5), (28, 28), (1, 3)])
def test_the_map_that_a_heatmap_was_resized_from_is_found_again(side):
    rng = np.random.default_rng(0)
    coarse = rng.random((3, *side), "float32")
    coarse[2] = 0
    large = np.asarray(keras.ops.image.resize(coarse[..., None], (60, 224)))[..., 0]
    small = shrink_heatmaps(large, side, 28)
    np.testing.assert_array_equal(small, tab_format.to_bytes(coarse))


def test_fine_maps_are_averaged():
    fine = np.zeros((1, 64, 32), "float32")
    fine[:, 16:32] = 0.5
    small = shrink_heatmaps(fine, (64, 32), 28)
    assert small.shape == (1, 28, 14)
    assert set(small[0, 7:14].ravel()) == {255} and small.sum() == 255 * 7 * 14


def test_fewer_examples_and_pairs_are_shown_than_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(tab_pairs, "MAX_PAIRS", 2)
    train(tmp_path, 1, num_tab_examples=5)
    found = read(tmp_path)
    ((table, files),) = found[tab_format.EXAMPLES_TAG].values()
    assert len(table.meta["names"]) == 5 and table.meta["num_measured"] == NUM
    assert files.arrays["ends"].shape == (5,)
    ((figures, maps, pairs),) = found[tab_format.UPDATES_TAG].values()
    assert figures.arrays["ratios"].shape == (5,)
    assert maps.arrays["maps"].shape == (5, 8, 8)
    assert figures.arrays["neighbors"].max() < 5
    assert pairs.arrays["maps"].shape == (2, 2, 8, 8)
    similarities = figures.arrays["similarities"][:, 0]
    wrong = figures.arrays["neighbors"][:, 0] % 3 != np.arange(5) % 3
    assert wrong.sum() > 2
    kept = similarities[pairs.arrays["examples"]]
    assert kept.tolist() == sorted(similarities[wrong])[:-3:-1]


def test_0_switches_it_off(tmp_path):
    train(tmp_path, 1, num_tab_examples=0)
    assert read(tmp_path) == {}


def test_without_labels_boxes_and_masks_it_is_written_too(tmp_path):
    train(tmp_path, 1, {"image": make_examples()["image"]}, update_freq=1)
    found = read(tmp_path)
    ((table, _),) = found[tab_format.EXAMPLES_TAG].values()
    assert table.meta["labels"] is None
    assert table.meta["names"] == [str(number) for number in range(NUM)]
    ((figures, _, _),) = found[tab_format.UPDATES_TAG].values()
    assert figures.meta["unit"] == "step"
    assert np.isnan(tab_format.from_shares(figures.arrays["ratios"])).all()
    assert set(figures.meta["values"]) <= {"recall_at_1"}


def test_examples_from_a_folder_are_called_as_their_files(tmp_path):
    paths = [f"finch/{number}.png" for number in range(4)] + ["wren/0.png"]
    for path in paths:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.zeros((32, 32, 3), "uint8"))
    examples = keras.utils.image_dataset_from_directory(
        tmp_path / "images", image_size=(32, 32), shuffle=False, verbose=False
    )
    train(tmp_path / "logs", 1, examples, num_tab_examples=3)
    ((table, _),) = read(tmp_path / "logs")[tab_format.EXAMPLES_TAG].values()
    assert table.meta["names"] == paths[:3]


def test_each_box_is_found_once(tmp_path, monkeypatch):
    calls = []
    find = cv2.connectedComponentsWithStats

    def count(*arguments, **options):
        calls.append(1)
        return find(*arguments, **options)

    monkeypatch.setattr(cv2, "connectedComponentsWithStats", count)
    train(tmp_path, 1)
    (update,) = read(tmp_path)[tab_format.UPDATES_TAG].values()
    num_empty = update[0].arrays["empty"].sum()
    assert len(calls) == NUM - num_empty > 0


@pytest.mark.parametrize("count", [-1, 1.5, 65_536])
def test_counts_out_of_range_are_refused(tmp_path, count):
    with pytest.raises(ValueError, match=f"`num_tab_examples` must be .*{count}"):
        EmbeddingCAMLogger(tmp_path, make_examples(), num_tab_examples=count)
