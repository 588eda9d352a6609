"""Tokens as feature maps: which token belongs to which part of the image."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_embcam.network.locality import MIN_AGREEMENT, Locality, agreement
from keras_embcam.network.trial_run import TrialRun

Tensor = Any

# Where the layout has to be guessed: how many tokens may be no patches, and how much
# longer or shorter than the images the grid may be in proportion.
MAX_OTHER_TOKENS = 16
MAX_ASPECT = 4


class TokenLayout(NamedTuple):
    """Where the patches of an image stand in a sequence of tokens.

    Attributes:
        grid: (h, w) patches, row by row.
        num_prefix: the tokens before them: class, distillation and register tokens.
        num_tokens: t, with those behind the patches.
        image_size: (H, W) of images with this grid.
    """

    grid: tuple[int, int]
    num_prefix: int
    num_tokens: int
    image_size: tuple[int, int]

    @property
    def patches(self) -> slice:
        """The patches among the tokens."""
        return slice(self.num_prefix, self.num_prefix + math.prod(self.grid))

    def at(self, image_size: Any, num_tokens: int | None) -> "TokenLayout":
        """Return the layout for images of another size, patches as large as before.

        Raises:
            ValueError: where the number of tokens does not fit.

        Example:

        >>> TokenLayout((2, 2), 1, 5, (32, 32)).at((32, 48), 7).grid
        (2, 3)
        """
        if num_tokens in (None, self.num_tokens) and None in image_size:
            return self
        others = self.num_tokens - math.prod(self.grid)
        grid = self.grid
        if None not in image_size:
            scaled = [
                size * new / old
                for size, new, old in zip(
                    grid, image_size, self.image_size, strict=True
                )
            ]
            grid = (round(scaled[0]), round(scaled[1]))
        if num_tokens not in (None, others + math.prod(grid)):
            raise ValueError(
                f"Images of {self.image_size} have {self.num_tokens} tokens here, "
                f"{self.grid} patches among them. Images of {tuple(image_size)} have "
                f"{num_tokens}, which fit no grid of patches of the same size. Pass "
                "images of one size, or `token_grid=(h, w)`."
            )
        return TokenLayout(
            grid, self.num_prefix, others + math.prod(grid), tuple(image_size)
        )

    def arrange(self, tokens: Tensor) -> Tensor:
        """Return the patches (n, h, w, k) among the tokens (n, t, k).

        Example:

        >>> layout = TokenLayout((1, 2), 1, 4, (16, 32))
        >>> layout.arrange(np.float32([[[9], [1], [2], [8]]])).numpy().ravel()
        array([1., 2.], dtype=float32)
        """
        return ops.reshape(tokens[:, self.patches], (-1, *self.grid, tokens.shape[-1]))


class TokenOptions(NamedTuple):
    """What the user says about tokens.

    Attributes:
        grid: (h, w) of the patches, or None where they are to be found.
        num_prefix: tokens before them, or None.
    """

    grid: tuple[int, int] | None = None
    num_prefix: int | None = None

    def check_used(self, layouts: list[TokenLayout | None], path: str) -> None:
        """Check that something is said only where tokens are explained.

        Raises:
            ValueError: where none of the explained layers makes tokens.
        """
        if self != TokenOptions() and not any(layouts):
            raise ValueError(
                "`token_grid` and `num_prefix_tokens` say where patches stand among "
                f"tokens, and {path!r}, which is explained, makes none. Leave them "
                "out, or pass a `conv_layer` that makes tokens."
            )


def check_token_options(
    token_grid: Any = None, num_prefix_tokens: Any = None
) -> TokenOptions:
    """Check what the user says about tokens.

    Raises:
        ValueError: for a grid that is no pair of positive integers, or a negative
            number of tokens.

    Example:

    >>> check_token_options([14, 14])
    TokenOptions(grid=(14, 14), num_prefix=None)
    """
    if token_grid is not None:
        is_pair = isinstance(token_grid, list | tuple) and len(token_grid) == 2
        if not is_pair or not all(_is_integer(x) and x > 0 for x in token_grid):
            raise ValueError(
                "`token_grid` must be a pair (h, w) of positive integers, the rows and "
                f"columns of patches. Received: {token_grid!r}"
            )
        token_grid = (int(token_grid[0]), int(token_grid[1]))
    if num_prefix_tokens is not None:
        if not _is_integer(num_prefix_tokens) or num_prefix_tokens < 0:
            raise ValueError(
                "`num_prefix_tokens` must be an integer >= 0, the number of tokens "
                f"before the patches. Received: {num_prefix_tokens!r}"
            )
        num_prefix_tokens = int(num_prefix_tokens)
    return TokenOptions(token_grid, num_prefix_tokens)


def _is_integer(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


class TokenFinder:
    """Finds the patches among the tokens of a tried model.

    Args:
        trial: of the model.
        locality: of the same model.
        options: what the user says.
    """

    def __init__(
        self, trial: TrialRun, locality: Locality, options: TokenOptions
    ) -> None:
        self._trial = trial
        self._locality = locality
        self._options = options
        self._layouts: dict[int, TokenLayout | None] = {}

    def find(self, operation: Any) -> TokenLayout | None:
        """Return the layout of the output (n, t, k) of a layer, None if it has none.

        Patches are the tokens that differ between images, in the first layer with as
        many tokens; other numbers are tried if these make no grid. A grid has the size
        of an earlier map, or about the proportions of the image. In any case single
        patches must move that token of the first layer, and parts of the image those
        of this one.
        """
        shape = self._trial.first_call(operation).shape or ()
        if len(shape) != 3:
            return None
        num_tokens = shape[1]
        stated = self._stated(num_tokens)
        if stated is not None:
            return stated
        if num_tokens not in self._layouts:
            self._layouts[num_tokens] = self._guess(num_tokens)
        layout = self._layouts[num_tokens]
        if layout is None or self._score(operation, layout) < MIN_AGREEMENT:
            return None
        return layout

    def _stated(self, num_tokens: int) -> TokenLayout | None:
        grid, num_prefix = self._options
        if grid is None:
            return None
        if num_prefix is None:
            num_prefix = num_tokens - math.prod(grid)
        if num_prefix < 0 or num_prefix + math.prod(grid) > num_tokens:
            return None
        return TokenLayout(grid, num_prefix, num_tokens, self._locality.image_size)

    def _guess(self, num_tokens: int) -> TokenLayout | None:
        """Return the layout that fits best where this many tokens are first seen."""
        first = next(
            (
                call.operation
                for call in self._trial.calls
                if call.shape is not None
                and len(call.shape) == 3
                and call.shape[1] == num_tokens
                and self._locality.knows(call.operation)
                and self._locality.varies(call.operation).any()
            ),
            None,
        )
        if first is None:
            return None
        constant = ~self._locality.varies(first)
        before = int(np.argmin(constant))
        behind = int(np.argmin(constant[::-1]))
        best: tuple[float, TokenLayout | None] = (MIN_AGREEMENT, None)
        for start, stop in self._splits(num_tokens, before, behind):
            if self._options.num_prefix not in (None, start):
                continue
            for grid in self._grids(num_tokens - start - stop):
                size = self._locality.image_size
                layout = TokenLayout(grid, start, num_tokens, size)
                score = self._score(first, layout)
                if score >= best[0] and (best[1] is None or score > best[0]):
                    best = (score, layout)
            if (start, stop) == (before, behind) and best[1] is not None:
                break  # found by the tokens that are the same for all images
        found = best[1]
        if found is None or not self._locality.confirms(
            first, found.grid, found.patches
        ):
            return None
        return found

    def _splits(
        self, num_tokens: int, before: int, behind: int
    ) -> Iterator[tuple[int, int]]:
        """Yield numbers of tokens before and behind the patches, likely ones first.

        Guessed ones leave half of the tokens to the patches: among tokens in any order,
        some three that follow each other look like a small grid.
        """
        yield before, behind
        for others in range(min(MAX_OTHER_TOKENS, num_tokens // 2) + 1):
            for start in dict.fromkeys((others, 0)):
                if (start, others - start) != (before, behind):
                    yield start, others - start

    def _grids(self, num_patches: int) -> list[tuple[int, int]]:
        """Return the grids of so many patches, maps seen in the model first."""
        seen = [
            (call.shape[1], call.shape[2])
            for call in self._trial.calls
            if call.shape is not None
            and len(call.shape) == 4
            and call.shape[1] * call.shape[2] == num_patches
        ]
        height, width = self._locality.image_size
        grids = [
            (rows, num_patches // rows)
            for rows in range(1, num_patches + 1)
            if num_patches % rows == 0
            and 1 / MAX_ASPECT
            <= rows * width / (height * (num_patches // rows))
            <= MAX_ASPECT
        ]
        return list(dict.fromkeys((*seen, *grids)))

    def _score(self, operation: Any, layout: TokenLayout) -> float:
        if not self._locality.knows(operation):
            return 0.0
        moved = self._locality.moved(operation)[:, :, layout.patches]
        return agreement(moved.reshape(*moved.shape[:2], *layout.grid))
