"""Relevance by attention and its gradient, from what an attention layer's parts make.

Keras never shows the attention itself. With queries, keys and values (n, t, heads,
width) it is ``softmax(q k^T scale)``; with o = A v what goes into the output
projection, its gradient is ``dS/dA[h, i, j] = <dS/do[i, h], v[j, h]>``.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


def attention_matrix(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the attention (n, heads, t, t), whose rows sum to one.

    Args:
        queries: (n, t, heads, width) float32.
        keys: the same shape.
    """
    logits = ops.einsum("nqhd,nkhd->nhqk", queries, keys)
    return ops.softmax(logits / ops.sqrt(ops.cast(queries.shape[-1], logits.dtype)))


def attention_slope(values: Tensor, gradients: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of the score by the attention (n, heads, t, t).

    Args:
        values: (n, t, heads, width) float32.
        gradients: of the score by the layer's output (n, t, k).
        kernel: of the output projection (heads, width, k).
    """
    mixed = ops.einsum("ntk,hdk->nthd", gradients, kernel)
    return ops.einsum("nqhd,nkhd->nhqk", mixed, values)


def attention_gradient(
    attentions: Sequence[Tensor], slopes: Sequence[Tensor]
) -> Tensor:
    """Accumulate attention times gradient over blocks (Chefer et al., ICCV 2021).

    ``R <- R + mean over heads of relu(A * dS/dA) @ R`` from the identity, which is
    taken off at the end: what a token takes from itself without any attention.

    Args:
        attentions: of each block, the first one first, (n, heads, t, t).
        slopes: of each block.

    Returns:
        (n, t, t): what each token takes from each patch.
    """
    identity = ops.eye(attentions[0].shape[-1])
    relevance = identity[None]
    for attention, slope in zip(attentions, slopes, strict=True):
        taken = ops.mean(ops.relu(attention * slope), axis=1)
        relevance = relevance + ops.matmul(taken, relevance)
    return relevance - identity


def legrad(slopes: Sequence[Tensor]) -> Tensor:
    """Return the positive gradient by the attention, summed over blocks, (n, t).

    LeGrad (Bousselham et al., ICCV 2025): the mean of ``relu(dS/dA)`` over heads and
    queries. The authors read the score out at each block: pass the gradient of that.
    """
    return sum(ops.mean(ops.relu(slope), axis=(1, 2)) for slope in slopes)


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Multiply the attentions, half identity (Abnar and Zuidema, 2020): (n, t, t).

    It does not see the score: a baseline.
    """
    rolled: Any = None
    for attention in attentions:
        half = (ops.mean(attention, axis=1) + ops.eye(attention.shape[-1])) / 2
        rolled = half if rolled is None else ops.matmul(half, rolled)
    return rolled
