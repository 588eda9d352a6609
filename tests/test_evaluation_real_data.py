"""The harness on a few photographs and real weights: KERAS_EMBCAM_TEST_DATA.

CUB-200-2011 (Wah et al. 2011) and MobileNetV2; nothing of it is part of the project.
"""

import numpy as np
import pytest
from builders import BIRDS, make_bird_network, needs_birds

from keras_embcam import explain
from keras_embcam.datasets import cub200
from keras_embcam.evaluation import evaluate
from keras_embcam.metrics import heatmap_ratio_in_boxes, localization_accuracy
from keras_embcam.proxies import class_mean

NUM_PHOTOS = 12

pytestmark = needs_birds


def scale(images: np.ndarray) -> np.ndarray:
    return images / 127.5 - 1


def test_a_dozen_birds() -> None:
    """Figures are those of explain and the metrics; on birds the heat is on them."""
    network = make_bird_network()
    birds = cub200(BIRDS, split="second_half", image_size=224)
    birds = birds.shard(len(birds) // NUM_PHOTOS, 0).take(NUM_PHOTOS)
    names = ["uniform", "activation_sum", "single_point", "class_mean"]
    report = evaluate(
        network,
        birds,
        names,
        preprocessing_function=scale,
        batch_size=8,
        num_timings=0,
        framing="full frame",
    )
    print(report)
    rows = {row["method"]: row for row in report.rows}
    assert report.settings["images"] == NUM_PHOTOS
    examples = list(birds.as_numpy_iterator())
    images = scale(np.stack([x["image"] for x in examples]).astype("float32"))
    labels = np.array([x["label"] for x in examples])
    boxes = np.stack([x["bbox"] for x in examples])
    own = explain(network, images, details=True)
    means = class_mean(own.embeddings, labels)
    of_means = explain(network, images, labels=labels, class_proxies=means)
    for name, maps in (("single_point", own.heatmaps), ("class_mean", of_means)):
        ratio = np.asarray(heatmap_ratio_in_boxes(maps, boxes, "rel_yxyx")).mean()
        found = localization_accuracy(maps, boxes, "rel_yxyx", 0.15).mean()
        assert rows[name]["heatmap_ratio_bbox"] == pytest.approx(ratio, abs=1e-4)
        assert rows[name]["localization_accuracy_0.15"] == pytest.approx(found)
        assert (
            rows[name]["heatmap_ratio_bbox"]
            > rows[name]["heatmap_ratio_bbox_uniform"] + 0.2
        )
        # What the harness is for: this baseline has as much heat on the birds.
        difference = (
            rows[name]["heatmap_ratio_bbox"]
            - rows["activation_sum"]["heatmap_ratio_bbox"]
        )
        assert abs(difference) < 0.05
