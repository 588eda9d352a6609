"""Tests of keras_embcam.network on transformers written by hand: layer and geometry."""

import doctest
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_embcam.network import (
    attention,
    choose_maps,
    feature_maps,
    gradient_checks,
    layer_norms,
    locality,
    recording,
    tokens,
)
from keras_embcam.network.view import ModelView

PATCH = 8
WIDTH = 16
NUM_BLOCKS = 3


@pytest.mark.parametrize(
    "module",
    [
        attention,
        choose_maps,
        feature_maps,
        gradient_checks,
        layer_norms,
        locality,
        recording,
        tokens,
    ],
)
def test_the_examples_run(module: ModuleType) -> None:
    assert not doctest.testmod(module).failed


# Parts of transformers


class Tokens(layers.Layer):
    """Adds positions to patches, and tokens before or behind them."""

    def __init__(
        self,
        grid: tuple[int, int],
        before: int = 0,
        behind: int = 0,
        two_axes: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.grid, self.before, self.behind = grid, before, behind
        self.two_axes = two_axes

    def build(self, shape: Any) -> None:
        def add(name: str, *size: int) -> Any:
            return self.add_weight(
                shape=(1, *size, shape[-1]), initializer="random_normal", name=name
            )

        self.others = add("others", self.before + self.behind)
        if self.two_axes:
            self.rows = add("rows", self.grid[0], 1)
            self.columns = add("columns", 1, self.grid[1])
        else:
            self.positions = add("positions", shape[1])

    def call(self, x: Any) -> Any:
        if self.two_axes:
            positions = ops.reshape(self.rows + self.columns, (1, -1, x.shape[-1]))
        else:
            positions = self.positions
        x = x + positions
        others = ops.tile(self.others, (ops.shape(x)[0], 1, 1))
        return ops.concatenate(
            [others[:, : self.before], x, others[:, self.before :]], axis=1
        )


def attend(x: Any, number: int) -> Any:
    """Attend with Keras's layer."""
    return layers.MultiHeadAttention(2, 8, name=f"attention_{number}")(x, x)


def attend_by_hand(x: Any, number: int) -> Any:
    """Attend with layers and operations in the open, one head of its own axis each."""
    query, key, value = (
        layers.EinsumDense("btc,chd->bthd", (None, 2, 8), name=f"{kind}_{number}")(x)
        for kind in ("query", "key", "value")
    )
    query, key = layers.LayerNormalization()(query), layers.LayerNormalization()(key)
    logits = ops.einsum("bqhd,bkhd->bhqk", query, key) * 8**-0.5
    mixed = ops.einsum("bhqk,bkhd->bqhd", layers.Softmax()(logits), value)
    return layers.Dense(WIDTH)(layers.Reshape((x.shape[1], WIDTH))(mixed))


class Mixer(layers.Layer):
    """Attention whose name does not say so, with one head and normalised keys."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.query, self.key, self.value = (layers.Dense(WIDTH) for _ in range(3))
        self.query_norm = layers.LayerNormalization(name="query_norm")
        self.key_norm = layers.LayerNormalization(name="key_norm")

    def call(self, x: Any) -> Any:
        query, key = self.query_norm(self.query(x)), self.key_norm(self.key(x))
        weights = ops.softmax(query @ ops.transpose(key, (0, 2, 1)) / 4)
        return weights @ self.value(x)


def mix(x: Any, number: int) -> Any:
    """Attend with a layer of one's own."""
    return Mixer(name=f"mixer_{number}")(x)


class Block(layers.Layer):
    """A pre-norm block with its own code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.norm1 = layers.LayerNormalization(name="norm1")
        self.attention = layers.MultiHeadAttention(2, 8, name="attention")
        self.norm2 = layers.LayerNormalization(name="norm2")
        self.dense = layers.Dense(WIDTH, activation="gelu", name="dense")

    def call(self, x: Any) -> Any:
        normalized = self.norm1(x)
        x = x + self.attention(normalized, normalized)
        return x + self.dense(self.norm2(x))


def pre_norm(x: Any, number: int, attend: Callable = attend) -> Any:
    """Normalise, attend, add; normalise, transform, add."""
    x = x + attend(layers.LayerNormalization(name=f"norm1_{number}")(x), number)
    normalized = layers.LayerNormalization(name=f"norm2_{number}")(x)
    return x + layers.Dense(WIDTH, activation="gelu")(normalized)


def post_norm(x: Any, number: int) -> Any:
    """Attend, add, normalise; transform, add, normalise."""
    x = layers.LayerNormalization(name=f"norm1_{number}")(x + attend(x, number))
    dense = layers.Dense(WIDTH, activation="gelu")(x)
    return layers.LayerNormalization(name=f"norm2_{number}")(x + dense)


def without_norm(x: Any, number: int) -> Any:
    """Attend and add."""
    return layers.Add(name=f"add_{number}")([x, attend(x, number)])


def own_block(x: Any, number: int) -> Any:
    """Run a layer with the code of a block."""
    return Block(name=f"block_{number}")(x)


def by_convolution(x: Any) -> Any:
    """Embed patches with a convolution."""
    return layers.Conv2D(WIDTH, PATCH, PATCH, name="patches")(x)


def by_dense(x: Any) -> Any:
    """Embed patches with a Dense layer on their pixels."""
    rows, columns = x.shape[1] // PATCH, x.shape[2] // PATCH
    x = layers.Reshape((rows, PATCH, columns, PATCH * 3))(x)
    x = layers.Reshape((rows * columns, PATCH * PATCH * 3))(
        layers.Permute((1, 3, 2, 4))(x)
    )
    return layers.Dense(WIDTH)(x)


def by_extraction(x: Any) -> Any:
    """Embed what `extract_patches` makes."""
    return layers.Dense(WIDTH)(ops.image.extract_patches(x, PATCH))


def by_stem(x: Any, size: int = 2) -> Any:
    """Embed with a small convolutional network."""
    for number in range(3):
        x = layers.Conv2D(
            WIDTH,
            size,
            2,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"conv_{number}",
        )(x)
    return x


def by_overlapping_stem(x: Any) -> Any:
    """Embed with convolutions that see what is around a patch."""
    return by_stem(x, 3)


def first(x: Any) -> Any:
    """Take the first token."""
    return x[:, 0]


def last(x: Any) -> Any:
    """Take the last token."""
    return x[:, -1]


def mean(x: Any) -> Any:
    """Pool all tokens."""
    return ops.mean(x, axis=1)


def attention_pool(x: Any) -> Any:
    """Ask all tokens with one learned question."""
    query = layers.Dense(WIDTH)(ops.ones_like(x[:, :1]))
    pooled = layers.MultiHeadAttention(2, 8, name="pooler")(query, x)
    return layers.Flatten()(pooled)


def transformer(
    embed: Callable = by_convolution,
    before: int = 0,
    behind: int = 0,
    block: Callable | None = pre_norm,
    pool: Callable = mean,
    grid: tuple[int, int] = (4, 4),
    two_axes: bool = False,
    final_norm: bool = True,
) -> keras.Model:
    """Return a transformer of the parts above with an embedding of 5 values."""
    images = keras.Input((grid[0] * PATCH, grid[1] * PATCH, 3))
    x = embed(layers.Rescaling(1 / 64, -2)(images))
    if len(x.shape) == 4:
        x = layers.Reshape((-1, x.shape[-1]))(x)
    x = Tokens(grid, before, behind, two_axes)(x)
    for number in range(NUM_BLOCKS if block is not None else 0):
        x = block(x, number)
    if final_norm:
        x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(images, layers.Dense(5, name="embedding")(pool(x)))


def nested_twice() -> keras.Model:
    """Return a transformer in a model in a Sequential model."""
    inner = transformer(before=1, pool=first)
    images = keras.Input(inner.input_shape[1:])
    middle = keras.Model(images, layers.Dense(4)(inner(images)), name="middle")
    return keras.Sequential([keras.Input(inner.input_shape[1:]), middle])


class Subclassed(keras.Model):
    """A transformer in code, with no graph."""

    def __init__(self, before: int = 1) -> None:
        super().__init__()
        self.patches = layers.Conv2D(WIDTH, PATCH, PATCH)
        self.tokens = Tokens((4, 4), before)
        self.blocks = [Block(name=f"block_{i}") for i in range(NUM_BLOCKS)]
        self.norm = layers.LayerNormalization(name="final_norm")
        self.dense = layers.Dense(5)

    def call(self, x: Any) -> Any:
        x = self.patches(x / 255)
        x = self.tokens(ops.reshape(x, (-1, 16, WIDTH)))
        for block in self.blocks:
            x = block(x)
        return self.dense(self.norm(x)[:, 0])


class SubclassedByExtraction(Subclassed):
    """Pools its patches and has no convolution."""

    def __init__(self) -> None:
        super().__init__(before=0)
        self.patches = layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        x = self.patches(ops.image.extract_patches(x / 255, PATCH))
        x = self.tokens(ops.reshape(x, (-1, 16, WIDTH)))
        for block in self.blocks:
            x = block(x)
        return self.dense(ops.max(self.norm(x), axis=1))


def cnn_with_attention_pooling() -> keras.Model:
    """Return a convolutional network whose positions are pooled by attention."""
    return transformer(
        by_overlapping_stem, block=None, pool=attention_pool, final_norm=False
    )


def cnn_with_attention_by_hand() -> keras.Model:
    """Return one whose attention is operations in the open."""
    images = keras.Input((32, 32, 3))
    x = layers.Reshape((-1, WIDTH))(
        by_overlapping_stem(layers.Rescaling(1 / 64, -2)(images))
    )
    mixed = attend_by_hand(x, 0)
    return keras.Model(images, layers.Dense(5)(layers.GlobalAveragePooling1D()(mixed)))


# name: how it is made, the layer that is chosen, its grid, tokens before the patches
VARIANTS: dict[str, tuple] = {
    "class token in front": (
        lambda: transformer(before=1, pool=first),
        "norm1_2",
        (4, 4),
        1,
    ),
    "class token behind": (
        lambda: transformer(behind=1, pool=last),
        "norm1_2",
        (4, 4),
        0,
    ),
    "registers": (lambda: transformer(before=5, pool=first), "norm1_2", (4, 4), 5),
    "registers behind": (
        lambda: transformer(before=1, behind=3, pool=first),
        "norm1_2",
        (4, 4),
        1,
    ),
    "pooled": (transformer, "final_norm", (4, 4), 0),
    "pooled by maximum": (
        lambda: transformer(pool=layers.GlobalMaxPooling1D()),
        "final_norm",
        (4, 4),
        0,
    ),
    "pooled by attention": (
        lambda: transformer(pool=attention_pool),
        "final_norm",
        (4, 4),
        0,
    ),
    "positions of two axes": (
        lambda: transformer(before=1, pool=first, two_axes=True),
        "norm1_2",
        (4, 4),
        1,
    ),
    "patches by Dense": (
        lambda: transformer(by_dense, before=1, pool=first),
        "norm1_2",
        (4, 4),
        1,
    ),
    "patches by extraction": (
        lambda: transformer(by_extraction, before=1, pool=first),
        "norm1_2",
        (4, 4),
        1,
    ),
    "patches by a stem": (
        lambda: transformer(by_stem, before=1, pool=first),
        "norm1_2",
        (4, 4),
        1,
    ),
    "post-norm": (
        lambda: transformer(before=1, block=post_norm, pool=first, final_norm=False),
        "norm2_1",
        (4, 4),
        1,
    ),
    "post-norm, pooled": (
        lambda: transformer(block=post_norm, final_norm=False),
        "norm2_2",
        (4, 4),
        0,
    ),
    "not square": (
        lambda: transformer(before=1, pool=first, grid=(3, 6)),
        "norm1_2",
        (3, 6),
        1,
    ),
    "not square, by Dense": (
        lambda: transformer(by_dense, grid=(6, 2)),
        "final_norm",
        (6, 2),
        0,
    ),
    "attention by hand": (
        lambda: transformer(
            before=1, block=lambda x, i: pre_norm(x, i, attend_by_hand), pool=first
        ),
        "norm1_2",
        (4, 4),
        1,
    ),
    "attention of another name": (
        lambda: transformer(
            before=1, block=lambda x, i: pre_norm(x, i, mix), pool=first
        ),
        "norm1_2",
        (4, 4),
        1,
    ),
    "no normalisation": (
        lambda: transformer(before=1, block=without_norm, pool=first, final_norm=False),
        "add_1",
        (4, 4),
        1,
    ),
    "blocks in code": (
        lambda: transformer(before=1, block=own_block, pool=first),
        "block_2/norm1",
        (4, 4),
        1,
    ),
    "nested twice": (nested_twice, "norm1_2", (4, 4), 1),
    "subclassed": (Subclassed, "block_2/norm1", (4, 4), 1),
    "subclassed, no convolution": (SubclassedByExtraction, "final_norm", (4, 4), 0),
    "convolutions, pooled by attention": (
        cnn_with_attention_pooling,
        "conv_2",
        (4, 4),
        0,
    ),
    "convolutions, attention by hand": (
        cnn_with_attention_by_hand,
        "conv_2",
        (4, 4),
        0,
    ),
}


def image_size(grid: tuple[int, int]) -> tuple[int, int, int]:
    """Return the size of the images that have such a grid."""
    return grid[0] * PATCH, grid[1] * PATCH, 3


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> tuple:
    """Return a network, its view, and what is expected of it."""
    make, layer, grid, num_prefix = VARIANTS[request.param]
    keras.utils.set_random_seed(0)
    model = make()
    images = np.zeros((1, *image_size(grid)), "float32")
    return model, ModelView(model, images=images), layer, grid, num_prefix


def test_the_layer_and_its_tokens(variant: tuple) -> None:
    _, view, layer, grid, num_prefix = variant
    assert f"/{view.conv_layer}".endswith("/" + layer)
    assert view.map_size == grid
    assert view.num_prefix_tokens == num_prefix


def paste_squares(grid: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return 8 noise images, each without and with one of 4 squares, and their places.

    The images are (8, 1 + 4, H, W, 3); a square is as bright and as large as one patch.
    """
    rng = np.random.default_rng(0)
    places = [(0, 0), (0, grid[1] - 1), (grid[0] - 1, 0), (grid[0] // 2, 1)]
    shape = (8, 1 + len(places), *image_size(grid))
    pasted = np.broadcast_to(rng.uniform(60, 180, (8, 1, *shape[2:])), shape).copy()
    for number, (row, column) in enumerate(places, 1):
        rows = slice(row * PATCH, (row + 1) * PATCH)
        columns = slice(column * PATCH, (column + 1) * PATCH)
        pasted[:, number, rows, columns] = 255
    return pasted.astype("float32"), places


def kernel_sizes(model: keras.Model) -> set[tuple[int, int]]:
    """Return the sizes of the kernels of a model's convolutions."""
    return {x.kernel_size for x in model.layers if hasattr(x, "kernel_size")}


def check_places(model: keras.Model, changes: Any, places: list, grid: tuple) -> None:
    """Check that each square (m, h, w) changes its own place most."""
    reach = int((3, 3) in kernel_sizes(model))  # such a kernel sees what is around
    for change, place in zip(changes, places, strict=True):
        found = np.unravel_index(np.argmax(change), grid)
        assert np.max(np.abs(np.subtract(found, place))) <= reach


def test_a_square_on_one_patch_changes_the_tokens_most_there(variant: tuple) -> None:
    model, view, _, grid, _ = variant
    pasted, places = paste_squares(grid)
    run = view.record(pasted.reshape(-1, *pasted.shape[2:]))
    activations = np.asarray(run.activations).reshape(*pasted.shape[:2], *grid, -1)
    lengths = np.linalg.norm(activations[:, 1:] - activations[:, :1], axis=-1)
    check_places(model, lengths.mean(axis=0), places, grid)


def change_of_maps(view: ModelView, pasted: np.ndarray) -> np.ndarray:
    """Return how much each square changes signed maps of all directions, (4, h, w)."""
    run = view.record(pasted.reshape(-1, *pasted.shape[2:]))
    changes: Any = 0
    for proxy in np.eye(view.embedding_width, dtype="float32"):
        proxies = np.tile(proxy, (len(pasted) * len(pasted[0]), 1))
        gradients = run.pull_back(proxies)
        maps = np.sum(np.asarray(run.activations) * np.asarray(gradients), axis=-1)
        maps = maps.reshape(*pasted.shape[:2], *view.map_size)
        changes = changes + np.abs(maps[:, 1:] - maps[:, :1]).mean(axis=0)
    return changes


# A maximum reads one patch of each channel. What a square wins another patch loses, and
# a square that wins no channel changes no map at its place.
READS_WINNERS = "pooled by maximum"
# Of what was not trained, some patches are loud whatever the image: a pooler asks for
# them, a stem passes them on. Every square changes them.
HAS_LOUD_PATCHES = {
    "pooled by attention",
    "patches by a stem",
    "convolutions, pooled by attention",
    "convolutions, attention by hand",
}


def check_winners(model: keras.Model, view: ModelView, images: np.ndarray) -> None:
    """Check that the signed map of each patch is that of the channels it wins."""
    run = view.record(images)
    kernel = np.asarray(model.get_layer("embedding").kernel)
    tokens = np.asarray(run.activations).reshape(len(images), -1, WIDTH)
    for direction in range(kernel.shape[1]):
        proxies = np.tile(np.eye(5, dtype="float32")[direction], (len(images), 1))
        gradients = np.asarray(run.pull_back(proxies)).reshape(tokens.shape)
        expected = np.zeros(tokens.shape[:2])
        for image, values in enumerate(tokens):
            for channel, winner in enumerate(np.argmax(values, axis=0)):
                read = values[winner, channel] * kernel[channel, direction]
                expected[image, winner] += read
        found = np.sum(tokens * gradients, axis=2)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_square_on_one_patch_changes_the_map_most_there(
    variant: tuple, request: pytest.FixtureRequest
) -> None:
    model, view, _, grid, _ = variant
    name = request.node.callspec.params["variant"]
    pasted, places = paste_squares(grid)
    if name == READS_WINNERS:
        check_winners(model, view, pasted[0])
        return
    changes = change_of_maps(view, pasted)
    if name in HAS_LOUD_PATCHES:
        changes = changes / changes.mean(axis=0)
    check_places(model, changes, places, grid)


# What the user names and says


def test_what_is_inside_an_attention_is_refused() -> None:
    model = transformer(before=1, pool=first)
    for name in ("attention_2/value", "attention_0/query"):
        message = rf"'{name}' is part of an attention layer, whose tensors look like im"
        with pytest.raises(ValueError, match=message) as error:
            ModelView(model, name)
        assert "norm1_2 (None, 17, 16)" in str(error.value)
        assert "value" not in str(error.value).split("Candidates")[1]


def test_heads_of_an_attention_by_hand_are_no_map() -> None:
    model = transformer(block=lambda x, i: pre_norm(x, i, attend_by_hand))
    message = r"'value_1' is \(None, 16, 2, 8\), but it is no map of the image"
    with pytest.raises(ValueError, match=message):
        ModelView(model, "value_1")


def test_a_token_layer_by_name() -> None:
    model = transformer(before=2, pool=first)
    view = ModelView(model, ["norm1_0", "norm2_1"])
    assert view.conv_layer == ["norm1_0", "norm2_1"]
    assert view.num_prefix_tokens == [2, 2]
    run = view.record(np.zeros((2, 32, 32, 3), "float32"))
    assert [x.shape for x in run.activations] == [(2, 4, 4, WIDTH)] * 2
    gradients = run.pull_back(np.ones((2, 5), "float32"))
    assert [x.shape for x in gradients] == [(2, 4, 4, WIDTH)] * 2


def test_a_layer_whose_patches_do_not_reach_the_class_token() -> None:
    model = transformer(before=1, pool=first)
    message = "reaches the patches of 'final_norm' from the embedding: .* Pass as `conv"
    with pytest.raises(ValueError, match=message):
        ModelView(model, "final_norm")


def shuffled(order: list[int]) -> keras.Model:
    """Return a transformer whose patches stand in another order."""
    images = keras.Input((32, 32, 3))
    x = ops.take(by_dense(layers.Rescaling(1 / 255)(images)), np.array(order), axis=1)
    x = Tokens((4, 4))(x)
    for number in range(NUM_BLOCKS):
        x = pre_norm(x, number)
    x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(images, layers.Dense(5)(mean(x)))


WINDOWS = np.arange(16).reshape(2, 2, 2, 2).swapaxes(1, 2).ravel().tolist()
COLUMNS = np.arange(16).reshape(4, 4).T.ravel().tolist()


@pytest.mark.parametrize("order", [WINDOWS, COLUMNS])
def test_tokens_in_another_order_are_refused(order: list[int]) -> None:
    model = shuffled(order)
    message = (
        r"and no tokens in rows. Pass `conv_layer` and `embedding_layer`, "
        r"`token_grid=\(h, w\)`, or images"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model)
    message = (
        r"tokens of 'final_norm', \(None, 16, 16\), do not stand for parts of the "
        r"image row by row, .* pass `token_grid=\(h, w\)`, and `num_prefix_tokens`"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model, "final_norm")
    # Who knows better is believed.
    assert ModelView(model, token_grid=(8, 2)).map_size == (8, 2)


def snake(x: Any) -> Any:
    """Turn every second row round."""
    turned = ops.flip(x[:, 1::2], 2)
    return ops.reshape(ops.stack([x[:, ::2], turned], 2), (-1, *x.shape[1:]))


def windows_of_2(x: Any) -> Any:
    """Put 2 x 2 patches after each other."""
    _, rows, columns, width = x.shape
    x = ops.reshape(x, (-1, rows // 2, 2, columns // 2, 2, width))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows, columns, width))


REORDERED: dict[str, tuple[Callable, tuple[int, int]]] = {
    "columns": (lambda x: ops.transpose(x, (0, 2, 1, 3)), (8, 8)),
    "flipped": (lambda x: ops.flip(x, 2), (4, 8)),
    "by 90 degrees": (lambda x: ops.flip(ops.transpose(x, (0, 2, 1, 3)), 2), (8, 8)),
    "rolled": (lambda x: ops.roll(x, (2, 4), (1, 2)), (4, 8)),
    "snake": (snake, (8, 8)),
    "windows": (windows_of_2, (8, 8)),
}


@pytest.mark.parametrize("order", REORDERED)
def test_no_map_is_of_patches_in_another_order(order: str) -> None:
    """The convolution in front of them is, which is in order."""
    reorder, grid = REORDERED[order]

    def embed(x: Any) -> Any:
        return layers.Reshape((-1, WIDTH))(reorder(by_convolution(x)))

    model = transformer(embed, block=None, grid=grid, final_norm=False)
    view = ModelView(model)
    assert (view.conv_layer, view.map_size) == ("patches", grid)
    with pytest.raises(ValueError, match="do not stand for parts of the image row by"):
        ModelView(model, model.layers[-3].name)
    turned = next(x.name for x in model.operations if x.output is embedded_input(model))
    with pytest.raises(ValueError, match="is no map of the image|row by row"):
        ModelView(model, turned)


def embedded_input(model: keras.Model) -> Any:
    """Return what the tokens of a transformer are reshaped from."""
    return next(x for x in model.layers if isinstance(x, layers.Reshape)).input


def test_large_images_confirm_their_patches_in_a_graph() -> None:
    assert ModelView(transformer(block=None, grid=(17, 17))).map_size == (17, 17)
    model = transformer(
        lambda x: layers.Reshape((-1, WIDTH))(windows_of_2(by_convolution(x))),
        block=None,
        grid=(18, 18),
        final_norm=False,
    )
    assert ModelView(model).conv_layer == "patches"


def test_a_grid_and_prefix_that_are_said() -> None:
    model = transformer(before=1, pool=first)
    view = ModelView(model, token_grid=(2, 8))
    assert (view.map_size, view.num_prefix_tokens) == ((2, 8), 1)
    view = ModelView(model, token_grid=[4, 4], num_prefix_tokens=0)
    assert (view.map_size, view.num_prefix_tokens) == ((4, 4), 0)
    assert ModelView(model, num_prefix_tokens=1).map_size == (4, 4)


@pytest.mark.parametrize("grid", [4, (4,), (4, 0), (4, 2.0), "44", (True, 4)])
def test_a_grid_must_be_two_positive_integers(grid: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`token_grid` must be a pair \(h, w\) of pos"
    ):
        tokens.check_token_options(grid)


@pytest.mark.parametrize("number", [-1, 1.0, "1", True])
def test_prefix_tokens_must_be_a_number(number: Any) -> None:
    with pytest.raises(ValueError, match="`num_prefix_tokens` must be an integer >= 0"):
        tokens.check_token_options(None, number)


def test_images_of_another_size_have_another_grid() -> None:
    images = keras.Input((None, None, 3))
    x = layers.Reshape((-1, WIDTH))(by_convolution(images))
    model = keras.Model(images, mean(layers.LayerNormalization()(pre_norm(x, 0))))
    view = ModelView(model, images=np.zeros((1, 32, 40, 3)))
    assert view.map_size == (4, 5)
    run = view.record(np.ones((2, 48, 24, 3), "float32"))
    assert run.activations.shape == (2, 6, 3, WIDTH)
    with pytest.raises(ValueError, match=r"Images of \(48, 24\) have 17, which"):
        tokens.TokenLayout((4, 5), 0, 20, (32, 40)).at((48, 24), 17)
