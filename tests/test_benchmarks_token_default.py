"""The candidates for transformers: the one that was chosen is what `explain` gives."""

import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

# Behind everything else, so that the package still comes from where it is installed.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.papers import choose_token_default as choice
from benchmarks.papers import hybrids, token_bounds, token_peers
from keras_embcam.network.feature_maps import AttentionLayers
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.recording import run_and_record
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.view import ModelView
from keras_embcam.presets import PRESETS
from keras_embcam.running.one_batch import compute_heatmaps

ROWS = {
    "localize": "localize",
    "tokens": "geometric mean of E^3 x L (the default)",
    "gradient_length": "length of the gradient, mean of all (L)",
    "attention_gradient": "attention x gradient, accumulated (C)",
    "rollout": "rollout",
    "last_attention": "attention, last block",
}


@pytest.mark.parametrize("pooling", hybrids.POOLINGS)
def test_candidates_are_the_presets_of_their_names(pooling: str) -> None:
    keras.utils.set_random_seed(0)
    head = hybrids.make_head(pooling)
    for weight in head.weights:
        if "attention" in weight.path and "kernel" in weight.path:
            weight.assign(weight * 2)  # far from an even attention
    maps = np.random.default_rng(0).normal(size=(2, *hybrids.GRID, 96))
    maps = 4 * maps.astype("float32")
    proxies = np.random.default_rng(1).normal(size=(2, hybrids.EMBEDDING_WIDTH))
    proxies = proxies.astype("float32")
    parts = choice.collect(head, maps, proxies)
    recordings = {
        layers: ModelView(head, layers).record(maps)
        for layers in (PRESETS["tokens"].conv_layer, AttentionLayers())
    }
    recordings[PRESETS["localize"].conv_layer] = recordings[
        PRESETS["tokens"].conv_layer
    ]
    for name, row in ROWS.items():
        preset = PRESETS[name]
        recording = recordings[preset.conv_layer]
        weighting = preset.of_tokens or preset.weighting
        found = compute_heatmaps(recording, proxies, weighting)
        expected = choice.scale(choice.CANDIDATES[row](parts))
        np.testing.assert_allclose(
            choice.scale(np.asarray(found)), expected, rtol=1e-2, atol=1e-4
        )


def test_grad_eclip_is_the_formula_of_its_authors() -> None:
    """Values times gradients of the class token, times a cosine, in a loop."""
    keras.utils.set_random_seed(0)
    head = hybrids.make_head("token")
    maps = np.random.default_rng(0).normal(size=(2, *hybrids.GRID, 96))
    maps = 4 * maps.astype("float32")
    proxies = np.ones((2, hybrids.EMBEDDING_WIDTH), "float32")
    found = choice.collect(head, maps, proxies)["grad_eclip"]
    trial = TrialRun(head)
    names = [f"block_2_attention/{x}" for x in ("query", "key", "value")]
    names.append("block_2_attention/attention_output")
    parts = [trial.find_operation(x, "conv_layer", 3) for x in names]
    source = find_embedding(trial)
    run = run_and_record(head, maps, parts, names, source, None, parts[3:])
    query, key, value = (np.reshape(x, (2, 197, -1)) for x in run.outputs[:3])
    gradient = np.reshape(run.pull_back(proxies)[3], (2, 197, -1))[:, 0]
    for image in range(2):
        cosines = [
            query[image, 0] @ x / np.linalg.norm(query[image, 0]) / np.linalg.norm(x)
            for x in key[image, 1:]
        ]
        least, most = min(cosines), max(cosines)
        expected = [
            max(gradient[image] @ x * (cosine - least) / (most - least), 0)
            for x, cosine in zip(value[image, 1:], cosines, strict=True)
        ]
        np.testing.assert_allclose(
            found[image].ravel(), expected, atol=1e-4 * max(expected)
        )


def test_what_hiding_patches_says() -> None:
    """The score is one pixel of patch (2, 12): only hiding near it makes it fall."""
    images = np.random.default_rng(0).uniform(0, 100, (1, 28, 28, 3)).astype("float32")
    images[0, 4, 25] = 255
    eye = SimpleNamespace(predict=lambda x, **options: x)
    pixel = SimpleNamespace(predict=lambda x, **options: x[:, 4, 25])
    hidden = token_bounds.hide_patches(eye, images)
    assert hidden.shape == (1, 196, 28, 28, 3)
    one = np.float32([[1, 0, 0]])
    [falls] = token_bounds.map_falls(pixel, images, hidden, one)
    expected = np.zeros((14, 14))
    expected[1:4, 11:14] = 255 - token_bounds.blur(images)[0, 4, 25, 0]
    np.testing.assert_allclose(falls, expected, rtol=1e-5)


def test_peers_that_are_not_installed_are_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    group = token_peers.GROUP._replace(environment="no-such-environment")
    monkeypatch.setattr(token_peers, "GROUP", group)
    monkeypatch.setattr(hybrids, "NUM_BLOCKS", 1)  # faster
    keras.utils.set_random_seed(0)
    maps = np.random.default_rng(0).normal(size=(2, *hybrids.GRID, 96))
    found = token_peers.explain_with_all(hybrids.make_head("token"), maps, None)
    assert list(found) == ["uniform", *token_peers.OURS]
    assert all(x.shape == (2, *hybrids.GRID) for x in found.values())
    assert "the peers are absent: there is no no-such-environment" in (
        capsys.readouterr().out
    )
