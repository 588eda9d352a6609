"""Pictures worked by hand, pixel by pixel, and against slow loops and TensorFlow."""

import doctest

import cv2
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import drawing
from keras_embcam.drawing import (
    COLORMAPS,
    GAP,
    add_caption,
    draw_boxes,
    make_grid,
    overlay_heatmap,
    to_uint8,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def photograph():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is missing")
    return datasets.load_sample_image("china.jpg")[100:300, 50:350]


def black(height, width):
    return np.zeros((height, width, 3), np.uint8)


def grey_levels(picture):
    """One channel of a grey RGB picture, as lists."""
    assert (picture == picture[..., :1]).all()
    return picture[..., 0].tolist()


def test_docstring_examples():
    results = doctest.testmod(drawing)
    assert results.attempted > 0 and results.failed == 0


# ------------------------------------------------------------------ to_uint8


@pytest.mark.parametrize(
    "row, expected",
    [
        (np.uint8([0, 1, 200]), [0, 1, 200]),
        (np.array([False, True]), [0, 255]),
        (np.int64([0, 1, 255]), [0, 1, 255]),
        (np.uint16([0, 500, 1000]), [0, 128, 255]),  # 127.5 to even
        (np.int32([-1, 0, 1]), [0, 128, 255]),
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([-1.0, 0.2, 1.0], [0, 153, 255]),
        (np.float16([0, 0.5, 1]), [0, 128, 255]),
        (tf.constant([0, 0.5, 1], tf.bfloat16), [0, 128, 255]),
        (tf.constant([0, 0.2, 1]), [0, 51, 255]),
        # Overshoot of a cubic resize is clipped, not stretched.
        ([-0.04, 0.2, 1.04], [0, 51, 255]),
        ([-12.0, 51.0, 260.0], [0, 51, 255]),
        ([-1.04, 0.2, 1.04], [0, 153, 255]),
        # Noise was added to 0..1, or 0..255 was divided by 127.5: not black.
        ([0.0, 0.22, 1.1], [0, 51, 255]),
        ([0.0, 0.4, 2.0], [0, 51, 255]),
        ([0.0, 1.0, 3.0], [0, 1, 3]),
        (np.int64([0, 1, 2]), [0, 1, 2]),
        # A mean subtracted, with and without division by the deviation.
        ([-124.0, 26.0, 151.0], [0, 139, 255]),
        ([-2.0, 0.0, 2.0], [0, 128, 255]),
        ([0.0, 1.0, 2000.0], [0, 0, 255]),
        # Constant images.
        ([0.0, 0.0], [0, 0]),
        ([1.0, 1.0], [255, 255]),
        ([-1.0, -1.0], [0, 0]),
        ([7.0, 7.0], [7, 7]),
        ([999.0, 999.0], [0, 0]),
    ],
)
def test_usual_ranges(row, expected):
    assert grey_levels(to_uint8(np.asarray(row)[None])) == [expected]


@pytest.mark.parametrize(
    "value_range, expected",
    [
        ((0, 1), [0, 51]),
        ((0, 255), [0, 0]),
        ((-1, 1), [128, 153]),
        ((0, 0.1), [0, 255]),
    ],
)
def test_value_range_overrides_the_rules(value_range, expected):
    assert grey_levels(to_uint8([[0.0, 0.2]], value_range)) == [expected]


def test_value_range_applies_to_uint8():
    assert grey_levels(to_uint8(np.uint8([[0, 1]]), (0, 1))) == [[0, 255]]


def test_range_is_judged_on_the_whole_batch():
    dark, light = np.full((1, 1, 1), 0.9), np.full((1, 1, 1), 200.0)
    assert to_uint8(np.stack([dark, light]))[:, 0, 0, 0].tolist() == [1, 200]
    assert to_uint8(dark)[0, 0, 0] == 230  # alone it counts as 0..1


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((4, 5), (4, 5, 3)),
        ((4, 5, 1), (4, 5, 3)),
        ((4, 5, 3), (4, 5, 3)),
        ((2, 4, 5, 1), (2, 4, 5, 3)),
        ((2, 4, 5, 3), (2, 4, 5, 3)),
    ],
)
def test_shapes(shape, expected):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    result = to_uint8(values)
    assert result.shape == expected and result.dtype == np.uint8
    grey = values if shape[-1] in (1, 3) else values[..., None]
    assert np.array_equal(result, np.broadcast_to(grey, expected))


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_channels_of_a_batch_are_averaged(channels):
    values = np.random.default_rng(0).integers(0, 9, (2, 4, 5, channels), dtype="uint8")
    grey = np.rint(values.mean(axis=-1)).astype("uint8")
    for levels in np.moveaxis(to_uint8(values), -1, 0):
        assert np.array_equal(levels, grey)
    fractions = to_uint8(values / 8)
    assert np.array_equal(fractions[..., 0], np.rint(values.mean(-1) * 255 / 8))


def test_photograph_survives_every_usual_range(photograph):
    values = photograph.astype(np.float32)
    assert to_uint8(photograph) is photograph
    for same in (values, values / 255, values / 127.5 - 1, values.astype(np.int64)):
        assert np.array_equal(to_uint8(same), photograph)


# ----------------------------------------------------------- overlay_heatmap


def test_no_heat_leaves_the_image_untouched(photograph):
    before = photograph.copy()
    heat = np.random.default_rng(0).random(photograph.shape[:2])
    cold = np.random.default_rng(1).random(heat.shape) < 0.5
    result = overlay_heatmap(photograph, np.where(cold, 0, heat), opacity=1)
    assert np.array_equal(result[cold], photograph[cold])
    assert (result[~cold & (heat > 0.5)] != photograph[~cold & (heat > 0.5)]).any()
    assert np.array_equal(photograph, before)


@pytest.mark.parametrize(
    "colormap, rgb",  # the upper ends of MATLAB's maps of these names
    [
        ("jet", (128, 0, 0)),
        ("autumn", (255, 255, 0)),
        ("winter", (0, 255, 128)),
        ("cool", (255, 0, 255)),
    ],
)
def test_full_heat_is_the_colour_of_the_map_in_rgb(colormap, rgb):
    grey = np.full((2, 2), 100, np.uint8)
    full = overlay_heatmap(grey, np.ones((2, 2)), colormap=colormap, opacity=1)
    assert full.reshape(-1, 3).tolist() == [list(rgb)] * 4
    half = overlay_heatmap(grey, np.ones((2, 2)), colormap=colormap, opacity=0.5)
    # Halves to even, as np.rint: (100 + 255) / 2 = 177.5 -> 178.
    by_hand = {0: 50, 128: 114, 255: 178}
    assert half[0, 0].tolist() == [by_hand[part] for part in rgb]


def test_colour_fades_in_proportion_to_the_heat():
    # autumn is (255, 255 h, 0). Heat 1/2 covers 0.8 / 2 = 0.4 of a black pixel with
    # (255, 128, 0), which gives (102, 51.2, 0); heat 1/5 covers 0.16 with (255, 51, 0).
    result = overlay_heatmap(
        black(1, 3), [[0, 0.5, 0.2]], colormap="autumn", opacity=0.8
    )
    assert result[0].tolist() == [[0, 0, 0], [102, 51, 0], [41, 8, 0]]


@pytest.mark.parametrize("colormap", ["turbo", "jet", "viridis", "inferno"])
def test_against_a_loop_over_pixels(colormap):
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (4, 5, 3), np.uint8)
    heat = rng.random((4, 5)).astype(np.float32)
    expected = np.zeros((4, 5, 3))
    for row in range(4):
        for column in range(5):
            level = np.uint8([[round(float(heat[row, column]) * 255)]])
            blue, green, red = cv2.applyColorMap(level, COLORMAPS[colormap])[0, 0]
            alpha = 0.6 * float(heat[row, column])
            for part, colour in enumerate((red, green, blue)):
                old = float(image[row, column, part])
                expected[row, column, part] = (1 - alpha) * old + alpha * float(colour)
    result = overlay_heatmap(image, heat, colormap=colormap, opacity=0.6)
    assert np.abs(result - expected).max() <= 0.5 + 1e-4  # rounding to whole levels


def test_half_pixel_centres_by_hand():
    # Centres 0.5 ... 3.5 of four pixels lie at -0.25, 0.25, 0.75, 1.25 of two, so the
    # heat is 0, 1/4, 3/4, 1; autumn's red is 255 h on black.
    result = overlay_heatmap(black(1, 4), [[0, 1]], colormap="autumn", opacity=1)
    assert result[0, :, 0].tolist() == [0, 64, 191, 255]


@pytest.mark.parametrize("size", [(224, 224), (50, 83), (7, 7), (5, 6)])
def test_resize_is_that_of_tensorflow(size):
    heat = np.random.default_rng(3).random((7, 7)).astype(np.float32)
    expected = 255 * tf.image.resize(heat[..., None], size).numpy()[..., 0]
    result = overlay_heatmap(black(*size), heat, colormap="autumn", opacity=1)
    assert np.abs(result[..., 0] - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("row, column", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_a_hot_corner_is_in_that_corner(row, column):
    heat = np.zeros((4, 4))
    heat[row, column] = 1
    result = overlay_heatmap(black(32, 48), heat, colormap="autumn", opacity=1)
    rows, columns = np.nonzero(result[..., 0])
    assert rows.min() // 16 == rows.max() // 16 == row // 2
    assert columns.min() // 24 == columns.max() // 24 == column // 2
    assert result[31 * (row // 3), 47 * (column // 3)].tolist() == [255, 255, 0]


def test_every_colormap_of_opencv_is_known_by_name():
    assert {"turbo", "jet", "viridis", "inferno", "hot"} <= set(COLORMAPS)
    for name in COLORMAPS:
        assert overlay_heatmap(black(2, 2), np.ones((2, 2)), colormap=name).any()


def test_overlay_takes_the_ranges_of_to_uint8():
    heat, dark = np.zeros((1, 2)), np.array([[0.0, 0.2]])
    assert grey_levels(overlay_heatmap(dark, heat)) == [[0, 51]]
    assert grey_levels(overlay_heatmap(dark, heat, value_range=(-1, 1))) == [[128, 153]]
    rounded = overlay_heatmap(dark, [[-1e-5, 1 + 1e-5]], colormap="autumn", opacity=1)
    assert rounded[0].tolist() == [[0, 0, 0], [255, 255, 0]]


# ---------------------------------------------------------------- draw_boxes


def test_outline_lies_inside_the_box_by_hand():
    image = black(4, 6)
    result = draw_boxes(image, (1, 0, 5, 3), RED, thickness=1)
    assert (result[..., 0] // 255).tolist() == [
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert not result[..., 1:].any()  # red is the first channel
    assert not image.any()  # the input is not drawn into


@pytest.mark.parametrize("thickness", [1, 2, 3, 9])
def test_boxes_against_a_loop_over_pixels(thickness):
    rng = np.random.default_rng(thickness)
    corners = np.sort(rng.uniform(-4, 16, (20, 2, 2)), axis=1)  # 20 boxes, 12 x 9 image
    for (x1, y1), (x2, y2) in corners:
        x1, x2 = np.clip([x1, x2], 0, 12)
        y1, y2 = np.clip([y1, y2], 0, 9)
        expected = np.zeros((9, 12))
        covered = [
            (row, column)
            for row in range(9)
            for column in range(12)
            if min(row + 1, y2) > max(row, y1) and min(column + 1, x2) > max(column, x1)
        ]
        for row, column in covered:
            # A pixel is part of the outline if the box ends within `thickness` of it.
            for step_y, step_x in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                beyond = (row + step_y * thickness, column + step_x * thickness)
                if beyond not in covered:
                    expected[row, column] = 1
        result = draw_boxes(black(9, 12), (x1, y1, x2, y2), WHITE, thickness)
        assert np.array_equal(result[..., 0] / 255, expected)


def test_a_box_at_or_beyond_the_border_is_visible():
    frame = draw_boxes(black(5, 7), (0, 0, 7, 5), RED, thickness=1)
    assert (frame[..., 0] > 0).sum() == 2 * 7 + 2 * 5 - 4
    for box in [(-3, -3, 99, 99), (-np.inf, -np.inf, np.inf, np.inf), (0.4, 0, 6.6, 5)]:
        assert np.array_equal(draw_boxes(black(5, 7), box, RED, thickness=1), frame)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        np.zeros((0, 4)),
        (0, 0, 0, 0),
        (2.5, 1, 2.5, 4),
        (7, 0, 9, 5),
        (-5, -5, 0, 5),
        (20, 20, 30, 30),
    ],
)
def test_nothing_is_drawn_for_empty_boxes_and_outside(boxes):
    assert not draw_boxes(black(5, 7), boxes).any()


def test_several_boxes_are_drawn_in_turn():
    boxes = np.array([[0, 0, 3, 3], [2, 2, 5, 5]])
    one_by_one = draw_boxes(draw_boxes(black(6, 6), boxes[0]), boxes[1])
    assert np.array_equal(draw_boxes(black(6, 6), boxes), one_by_one)
    assert one_by_one[0, 0].tolist() == [0, 255, 0] == one_by_one[4, 4].tolist()


# --------------------------------------------------------------- add_caption


def strip_of(text, width=120):
    return add_caption(black(10, width), text)[10:]


def test_caption_stands_below_the_untouched_picture(photograph):
    result = add_caption(photograph, "Cardinal, 0.61")
    assert np.array_equal(result[: len(photograph)], photograph)
    strip = result[len(photograph) :]
    assert strip.shape == (18, 300, 3)
    assert strip.min() < 100 and (strip == 255).mean() > 0.7  # dark ink on white
    columns = np.flatnonzero((strip < 255).any(axis=(0, 2)))
    assert abs((columns.min() + columns.max()) / 2 - 149.5) <= 3  # centred


def test_strip_grows_with_wide_images():
    assert [len(strip_of("x", width)) for width in (1, 432, 480, 2400)] == [
        *(18, 18, 20, 100)
    ]


def test_a_strip_of_another_height_has_larger_letters():
    small, large = (add_caption(black(10, 300), "Wren", x)[10:] for x in (18, 36))
    heights = [np.ptp(np.flatnonzero(x.min(axis=(1, 2)) < 128)) for x in (small, large)]
    assert len(large) == 36 and heights[1] > 1.5 * heights[0]


def test_empty_text_gives_a_white_strip():
    assert (strip_of("") == 255).all()


@pytest.mark.parametrize("width", [1, 5, 12, 30, 64, 120, 600])
@pytest.mark.parametrize("text", ["Cardinal, ratio 0.61 " * 40, "i" * 5000, "W" * 5000])
def test_long_text_is_cut_to_the_width(text, width):
    strip = strip_of(text, width)
    assert (strip[:, [0, -1]] == 255).all()
    ink = np.flatnonzero((strip < 255).any(axis=(0, 2)))
    if width >= 30:
        assert len(ink) and ink.max() - ink.min() > width - 4 - 20  # no room wasted


def test_cut_text_keeps_its_beginning():
    text = "Yellow_headed_Blackbird, ratio 0.61"
    cut = [
        n
        for n in range(len(text))
        if (strip_of(text[:n] + "..") == strip_of(text)).all()
    ]
    # Every longer beginning is cut to the same line, too.
    assert cut and 5 < min(cut) < len(text) - 2


@pytest.mark.parametrize(
    "text, same",
    [
        ("Köln Ångström", "Koln Angstrom"),
        ("鳥 0.5", "? 0.5"),
        ("ﬁne … ½", "fine ... 1?2"),
        ("one\n two\tthree ", "one two three"),
        ("a\x00b\x7f", "a?b?"),
    ],
)
def test_signs_that_opencv_cannot_draw(text, same):
    assert np.array_equal(strip_of(text), strip_of(same))
    assert (strip_of(same) < 255).any()


# ----------------------------------------------------------------- make_grid


def test_grid_by_hand():
    sizes = [(2, 3), (1, 1), (2, 2)]
    grid = make_grid([black(*size) for size in sizes], num_columns=2)
    expected = np.full((2 + GAP + 2, 3 + GAP + 3), 255)
    expected[:2, :3] = 0  # fills its cell
    expected[1, 3 + GAP + 1] = 0  # at the bottom, in the middle
    expected[2 + GAP :, :2] = 0  # one column too narrow: the spare one is at the right
    assert grey_levels(grid) == expected.tolist()


@pytest.mark.parametrize(
    "num_images, num_columns, rows, columns",
    [(1, None, 1, 1), (2, None, 1, 2), (4, None, 2, 2), (5, None, 2, 3)]
    + [(16, None, 4, 4), (3, 3, 1, 3), (3, 1, 3, 1), (2, 5, 1, 5)],
)
def test_numbers_of_rows_and_columns(num_images, num_columns, rows, columns):
    grid = make_grid(np.zeros((num_images, 6, 8, 1)), num_columns=num_columns)
    assert grid.shape == (rows * (6 + GAP) - GAP, columns * (8 + GAP) - GAP, 3)
    assert (grid == 0).all(axis=2).sum() == num_images * 6 * 8
    assert grid.dtype == np.uint8


def test_images_run_row_by_row():
    levels = np.arange(6, dtype=np.uint8) * 10
    grid = make_grid(levels[:, None, None, None], num_columns=3)
    assert grey_levels(grid[:: 1 + GAP, :: 1 + GAP]) == [[0, 10, 20], [30, 40, 50]]


def test_captions_stand_below_their_images(photograph):
    left, right = photograph, photograph[:, ::-1]
    grid = make_grid([left, right], ["left", "right"])
    gap = np.full((218, GAP, 3), 255, np.uint8)
    by_hand = [add_caption(left, "left"), gap, add_caption(right, "right")]
    assert np.array_equal(grid, np.hstack(by_hand))


def test_range_of_a_batch_is_judged_as_a_whole_and_of_a_list_one_by_one():
    batch = np.array([0.9, 200.0])[:, None, None, None]
    assert grey_levels(make_grid(batch)[:, :: 1 + GAP]) == [[1, 200]]
    assert grey_levels(make_grid(tf.constant(batch))[:, :: 1 + GAP]) == [[1, 200]]
    assert grey_levels(make_grid(list(batch))[:, :: 1 + GAP]) == [[230, 200]]
    assert grey_levels(make_grid(iter(batch))[:, :: 1 + GAP]) == [[230, 200]]


def test_one_image_makes_a_grid_of_one(photograph):
    assert np.array_equal(make_grid(photograph), photograph)
    assert np.array_equal(make_grid([photograph]), photograph)


# -------------------------------------------------------------------- errors

ZEROS, MAP, BATCH = np.zeros, np.zeros((4, 5)), np.zeros((2, 4, 5, 3))


@pytest.mark.parametrize(
    "message, function, arguments",
    [
        (r"\(H, W\), .*but their shape is \(5,\)", to_uint8, [ZEROS(5)]),
        (r"RGBA as images\[..., :3\]", to_uint8, [ZEROS((4, 5, 4))]),
        (r"grey batches as images\[..., None\]", to_uint8, [ZEROS((9, 4, 5))]),
        (r"shape is \(1, 2, 4, 5, 3\)", to_uint8, [BATCH[None]]),
        (r"not empty, but their shape is \(0, 4, 5, 3\)", to_uint8, [BATCH[:0]]),
        ("must be finite.*np.nan_to_num", to_uint8, [[[0, np.nan]]]),
        ("must be finite", to_uint8, [[[0, np.inf]], (0, 1)]),
        (r"black < white, but it is \(1, 0\)", to_uint8, [MAP, (1, 0)]),
        (r"black < white, but it is \(1, 1\)", to_uint8, [MAP, (1, 1)]),
        (r"black < white, but it is \(0, nan\)", to_uint8, [MAP, (0, np.nan)]),
        (r"one image, not a batch.*\(2, 4, 5, 3\)", overlay_heatmap, [BATCH, MAP]),
        (r"\(h, w\).*shape is \(4,\)", overlay_heatmap, [MAP, ZEROS(4)]),
        (r"shape is \(1, 4, 5\).* one map", overlay_heatmap, [MAP, MAP[None]]),
        (r"shape is \(0, 5\)", overlay_heatmap, [MAP, MAP[:0]]),
        (
            r"lie in \[0, 1\].*spans 0 to 255.*maximum",
            overlay_heatmap,
            [MAP, [[0, 255]]],
        ),
        ("spans 0 to 1.01. Pass", overlay_heatmap, [MAP, [[0, 1.01]]]),
        ("spans -0.01 to 1. Pass", overlay_heatmap, [MAP, [[-0.01, 1]]]),
        ("spans nan to nan", overlay_heatmap, [MAP, [[0, np.nan]]]),
        ("spans 0 to inf", overlay_heatmap, [MAP, [[0, np.inf]]]),
        (r"boxes must be \(4,\) or \(n, 4\)", draw_boxes, [MAP, (1, 2, 3)]),
        (r"they are \[\[5.0\]\]", draw_boxes, [MAP, 5.0]),
        (r"boxes must be \(4,\) or \(n, 4\)", draw_boxes, [MAP, ZEROS((1, 2, 4))]),
        ("boxes must be.*nan", draw_boxes, [MAP, (0, 0, np.nan, 4)]),
        (
            r"x1 <= x2.*\[\[4.0, 3.0, 2.0, 5.0\]\].*Convert",
            draw_boxes,
            [MAP, (4, 3, 2, 5)],
        ),
        (r"x1 <= x2 and y1 <= y2", draw_boxes, [MAP, (0, 3, 2, 2)]),
        ("at least 1 pixel, but it is 0", draw_boxes, [MAP, (0, 0, 2, 2), RED, 0]),
        ("one image, not a batch", draw_boxes, [BATCH, (0, 0, 2, 2)]),
        ("one image, not a batch", add_caption, [BATCH, "two"]),
        ("must be at least one.*there are 0 images", make_grid, [[]]),
        (r"one text for each.*are 2 images.*\['a'\]", make_grid, [BATCH, ["a"]]),
        (r"one text for each.*are 2 images.*\[\]", make_grid, [BATCH, []]),
        ("one image, not a batch", make_grid, [[BATCH]]),
        ("at least 1, but it is 0", make_grid, [BATCH, None, 0]),
    ],
)
def test_errors(message, function, arguments):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    "message, options",
    [
        ("but it is 'rainbows'.*inferno, jet.*turbo", {"colormap": "rainbows"}),
        (r"opacity must lie in \[0, 1\], but it is -0.1", {"opacity": -0.1}),
        (r"opacity must lie in \[0, 1\], but it is nan", {"opacity": np.nan}),
        ("Pass 1 to hide the image", {"opacity": 1.1}),
        ("value_range must be", {"value_range": (1, 0)}),
    ],
)
def test_errors_of_options(message, options):
    with pytest.raises(ValueError, match=message):
        overlay_heatmap(MAP, MAP, **options)
