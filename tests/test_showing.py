"""Results show themselves in notebooks and on matplotlib's axes."""

import base64
import re
import sys
from html.parser import HTMLParser

import cv2
import keras
import numpy as np
import pytest

from keras_embcam import Explanation, explain, explain_neighbors, explain_pair
from keras_embcam.drawing import overlay_heatmap
from keras_embcam.showing import overlay_all

RNG = np.random.default_rng(0)
IMAGES = RNG.random((10, 16, 12, 3), "float32")


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input((16, 12, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture(scope="module")
def results(model):
    labels = np.arange(10) % 2
    return {
        "explanation": explain(model, IMAGES, details=True),
        "pairs": explain_pair(model, IMAGES, IMAGES[::-1]),
        "neighbors": explain_neighbors(
            model, IMAGES, IMAGES, k=2, labels=labels, gallery_labels=labels
        ),
    }


def pictures_in(html):
    """Decode all pictures of a piece of HTML, which must be well formed."""
    parser, open_tags = HTMLParser(), []
    parser.handle_starttag = lambda tag, _: open_tags.append(tag)
    parser.handle_endtag = lambda tag: open_tags.remove(tag)
    parser.handle_startendtag = lambda tag, _: None
    parser.feed(html)
    assert not open_tags
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(codes) == html.count("<img")
    data = [np.frombuffer(base64.b64decode(code), np.uint8) for code in codes]
    return [cv2.imdecode(x, cv2.IMREAD_COLOR)[..., ::-1] for x in data]


@pytest.mark.parametrize("name", ["explanation", "pairs", "neighbors"])
def test_a_notebook_shows_the_first_eight_and_says_so(results, name):
    html = results[name]._repr_html_()
    assert len(pictures_in(html)) == 8
    assert "The first 8 of 10." in html


def test_what_is_shown_is_the_heat_over_the_image(results):
    found = results["explanation"]
    shown = pictures_in(found._repr_html_())[3]
    large = cv2.resize(
        np.rint(IMAGES[3] * 255).astype(np.uint8),
        shown.shape[1::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    expected = overlay_heatmap(large, found.heatmaps[3]).astype(float)
    # JPEG loses the finest detail, which noise images have most of.
    correlation = np.corrcoef(shown.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.97
    assert f"image 3, score {found.scores[3]:.3g}" in found._repr_html_()


def test_pairs_and_neighbors_show_what_they_draw(results):
    for name in ("pairs", "neighbors"):
        shown = pictures_in(results[name]._repr_html_())[1]
        drawn = results[name].draw()[1]
        assert shown.shape == drawn.shape
        assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", ["explanation", "pairs", "neighbors"])
def test_plot_draws_on_the_axes_that_are_given(results, name):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert results[name].plot(ax, indices=[9, 1]) is ax
    (shown,) = ax.get_images()
    if name != "explanation":
        first = results[name].draw()[9]
        left = shown.get_array()[-len(first) :, : first.shape[1]]
        np.testing.assert_array_equal(left, first)


def test_plot_makes_axes_where_none_are_given(results):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ax = results["explanation"].plot()
    assert ax.get_images()
    pyplot.close(ax.figure)


@pytest.mark.parametrize("indices", [[10], -1, [0.5], "a"])
def test_indices_that_are_not_there(results, indices):
    with pytest.raises(ValueError, match="integers from 0 to 9"):
        results["explanation"].plot(indices=indices)


def test_without_matplotlib_the_extra_is_named(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[evaluation\]"'):
        results["pairs"].plot()


def test_several_maps_of_an_image_stand_side_by_side(model):
    proxies = RNG.normal(size=(2, 6, 4)).astype("float32")
    found = explain(model, IMAGES[:2], proxies=proxies, details=True)
    assert len(pictures_in(found._repr_html_())) == 2 * 4


def test_images_of_several_sizes_and_many_channels_and_maps_that_are_not_scaled():
    images = [np.full((8, 9, 5), 0.5), np.full((700, 6, 5), 0.5)]
    maps = [np.full((8, 9), 3.0), np.zeros((700, 6))]
    for shown, size in zip(overlay_all(images, maps, [0, 1]), (192, 384), strict=True):
        assert shown[0].shape[0] == size
    found = Explanation(maps, np.zeros((2, 4)), np.zeros(2), images)
    assert len(pictures_in(found._repr_html_())) == 2


def test_names_are_escaped(tmp_path):
    found = Explanation(
        np.ones((1, 8, 8)),
        np.ones((1, 2)),
        np.ones(1),
        np.ones((1, 8, 8, 3)),
        [tmp_path / "<b>&.png"],
    )
    assert "&lt;b&gt;&amp;.png" in found._repr_html_()


def test_a_gallery_without_images_has_no_pictures(model):
    embeddings = RNG.normal(size=(5, 4)).astype("float32")
    found = explain_neighbors(model, IMAGES[:1], gallery_embeddings=embeddings, k=2)
    assert found._repr_html_() is None


def test_an_explanation_prints_its_shapes(results):
    assert repr(results["explanation"]) == (
        "<Explanation of 10 images: heatmaps (10, 16, 12), embeddings (10, 4), "
        "scores (10,), images (10, 16, 12, 3)>"
    )


def test_results_of_a_search_print_one_line(results):
    assert repr(results["pairs"]) == (
        "<PairExplanation of 10 pairs: heatmaps (10, 16, 12)>"
    )
    num_wrong = np.count_nonzero(~results["neighbors"].is_right[:, 0])
    assert 0 < num_wrong < 10
    assert repr(results["neighbors"]) == (
        "<NeighborExplanation of 10 queries: 2 matches each, first match wrong for "
        f"{num_wrong}>"
    )
