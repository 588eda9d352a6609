"""Judge by its gradient whether a layer's activations make maps worth looking at."""

import numpy as np

# Gradients below this share of the largest are rounding noise.
ROUNDING = 1e-6
# Maps are noise where the cosine of activations and gradients is below this number
# over sqrt(k), for k channels; that of random vectors is about 0.67 / sqrt(k).
VANISHING = 0.1
# Softmax does not see a shift, so the gradients at the keys of an attention sum to zero
# over the tokens: to less than this share of their lengths.
KEY_SUM = 3e-3
# Layer normalisation does not see the length: what adds up to less is rounding.
LENGTH_SUM = 0.02


def length_gradient(
    embeddings: np.ndarray, along: np.ndarray, across: np.ndarray
) -> float:
    """Return ``|J^T y/|y|| / |J^T u|`` for a random unit vector u (trap 1).

    Infinite where no image tells, as with an embedding of zeros.

    Args:
        embeddings: y, (n, d).
        along: the length of the first gradient for each image, (n,).
        across: that of the second one.
    """
    is_informative = np.isfinite(along) & np.isfinite(across) & (across > 0)
    is_informative &= np.linalg.norm(embeddings, axis=1) > 0
    ratios = along[is_informative] / across[is_informative]
    return float(np.median(ratios)) if is_informative.any() else np.inf


def random_directions(shape: tuple[int, ...]) -> np.ndarray:
    """Return one random unit vector for each image, the same every time."""
    across = np.random.default_rng(0).normal(size=shape)
    return across / np.linalg.norm(across, axis=1, keepdims=True)


def reaches_positions(gradients: np.ndarray) -> bool:
    """Tell whether more than one position has a gradient, of any image.

    Args:
        gradients: (n, positions, k).

    Example: no patch of the last block, where the class token is the embedding.

    >>> reaches_positions(np.zeros((1, 4, 2))), reaches_positions(np.ones((1, 4, 2)))
    (False, True)
    """
    norms = _norms(gradients)
    largest = norms.max(axis=1, keepdims=True)
    return bool(((norms > ROUNDING * largest).sum(axis=1) > 1).any())


def is_worth_explaining(
    activations: np.ndarray, gradients: np.ndarray, patches: slice
) -> bool:
    """Tell whether a layer makes element-wise maps of more than rounding noise.

    It does not if fewer than two patches have a gradient; if a normalisation follows
    that does not see the length of a token, so that ``sum_k A_k G_k`` vanishes; or if
    it makes the keys of an attention, whose gradients sum to zero over the tokens.

    Args:
        activations: (n, positions, k).
        gradients: of a random direction of the embedding, the same shape.
        patches: those of the positions that belong to the image.

    Example: all tokens of an image are alike, and two of three gradients happen to be
    at right angles to them.

    >>> tokens = np.ones((3, 4, 2))
    >>> gradients = np.ones((3, 4, 1)) * [[[1, -1]], [[-1, 1]], [[1, 0]]]
    >>> is_worth_explaining(tokens, gradients, slice(None))
    True
    >>> is_worth_explaining(tokens[:2], gradients[:2], slice(None))
    False
    """
    usable = np.isfinite(activations).all(axis=(1, 2))
    usable &= np.isfinite(gradients).all(axis=(1, 2))
    activations, gradients = activations[usable], gradients[usable]
    if not usable.any():
        return True  # noise may overflow in float16 where images do not
    if not reaches_positions(gradients[:, patches]):
        return False
    norms = _norms(gradients)
    if (
        _norms(gradients.sum(axis=1, keepdims=True))[:, 0] < KEY_SUM * norms.sum(1)
    ).all():
        return False
    counts = norms[:, patches] > ROUNDING * norms.max(axis=1, keepdims=True)
    products = np.abs(np.sum(activations * gradients, axis=2))[:, patches]
    lengths = (_norms(activations) * norms)[:, patches]
    cosines = products / np.maximum(lengths, 1e-30)
    # Where the tokens of noise are alike, those of one image have about one cosine,
    # which may be small by chance. It vanishes for all images or for none.
    medians = [np.median(x[here]) for x, here in zip(cosines, counts, strict=True)]
    return bool(np.nanmax(medians) >= VANISHING / np.sqrt(activations.shape[2]))


def goes_into_softmax(activations: np.ndarray, gradients: np.ndarray) -> bool:
    """Tell by its gradients whether a map goes into a softmax over its channels only.

    That does not see a number added to all channels, so the gradients of a position
    sum to zero. Layer normalisation does not see one either, nor a factor: there the
    products with the activations sum to zero too.

    Args:
        activations: (n, h, w, k).
        gradients: of a random direction of the embedding, the same shape.

    Example:

    >>> activations = np.float32([[[[1, 0]]]])
    >>> goes_into_softmax(activations, np.float32([[[[3, -3]]]]))
    True
    >>> goes_into_softmax(activations, np.float32([[[[3, -1]]]]))
    False
    """
    if activations.shape[-1] < 2 or not gradients.any():
        return False
    sums = np.abs(gradients.sum(axis=-1, dtype="float64")).sum(axis=(1, 2))
    sizes = np.abs(gradients).sum(axis=(1, 2, 3), dtype="float64")
    if not np.all(sums <= KEY_SUM * sizes):  # also where they are not finite
        return False
    products = activations * gradients
    total = np.abs(products.sum(axis=(1, 2, 3), dtype="float64"))
    size = np.abs(products).sum(axis=(1, 2, 3), dtype="float64")
    return bool(np.any(total > LENGTH_SUM * size))


def is_of_one_position(gradients: np.ndarray) -> bool:
    """Tell whether one token comes from one position of an earlier map, of all images.

    Args:
        gradients: (n, positions, k) of the token at the map.
    """
    norms = _norms(gradients)
    counts = (norms > ROUNDING * norms.max(axis=1, keepdims=True)).sum(axis=1)
    return bool((counts <= 1).all())


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype("float64"), axis=-1)
