"""Relevance of tokens by the attention of transformers and its gradient.

Each takes the attention A of each block, (n, heads, t, t) with rows that sum to one,
the first block first, and its gradient ``dS/dA`` of the same shape, and returns what
the embedding takes from each token, (n, t). The last block may have fewer rows, as
where tokens are pooled by attention.

The tokens that the embedding is made of are those whose attention in the last block
has a gradient: the class token, or all patches where they are pooled.

Example: of two tokens the first one makes the embedding and attends to the second one,
which speaks for the proxy.

>>> import numpy as np
>>> attention = np.float32([[[[0.5, 0.5], [0, 1]]]])
>>> slope = np.float32([[[[0, 2], [0, 0]]]])
>>> for function in (attention_gradient, last_attention, legrad, rollout):
...     print(function.__name__, np.asarray(function([attention], [slope])).tolist())
attention_gradient [[0.0, 1.0]]
last_attention [[0.5, 0.5]]
legrad [[0.0, 1.0]]
rollout [[0.75, 0.25]]
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


def attention_gradient(
    attentions: Sequence[Tensor], slopes: Sequence[Tensor]
) -> Tensor:
    """Accumulate attention times gradient over blocks (Chefer et al., ICCV 2021).

    ``R <- R + mean over heads of relu(A * dS/dA) @ R`` from the identity, which is
    taken off at the end: what a token keeps of itself without any attention. The
    authors differentiate the score of a class; here it is ``y . p``.
    """
    identity = ops.eye(attentions[0].shape[-1])
    relevance: Any = 0.0
    for attention, slope in zip(attentions, slopes, strict=True):
        taken = ops.mean(ops.relu(attention * slope), axis=1)
        gained = ops.matmul(taken, identity + relevance)
        # Tokens that are pooled by attention keep nothing.
        keeps = attention.shape[-2] == attention.shape[-1]
        relevance = relevance + gained if keeps else gained
    return _read(relevance, slopes)


def legrad(attentions: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """Add up the positive gradients of all blocks (Bousselham et al., ICCV 2025).

    LeGrad: ``R_j = sum over blocks of the mean over heads and queries i of
    relu(dS_l/dA_l[h, i, j])``. The score ``S_l = y_l . p`` of block l is read out
    behind it: y_l is what the part of the network behind the last block, such as the
    final normalisation, the pooling and a dense layer, makes of the tokens of block l.
    As in the paper all blocks count; the authors' code takes the last two, the mean of
    the tokens whatever the network pools, and y_l divided by its length.
    """
    return sum(ops.mean(ops.relu(slope), axis=(1, 2)) for slope in slopes)


def rollout(attentions: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """Multiply the attentions, half identity (Abnar and Zuidema, ACL 2020).

    It does not see the proxy: a baseline.
    """
    identity = ops.eye(attentions[0].shape[-1])
    rolled: Any = identity
    for attention in attentions:
        mean = ops.mean(attention, axis=1)
        keeps = attention.shape[-2] == attention.shape[-1]
        rolled = ops.matmul((mean + identity) / 2 if keeps else mean, rolled)
    return _read(rolled, slopes)


def last_attention(attentions: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """Return the attention of the last block, the mean of its heads.

    It does not see the proxy: a baseline.
    """
    return _read(ops.mean(attentions[-1], axis=1), slopes)


def _read(relevance: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """Return the mean row (n, t) of those tokens that make the embedding."""
    makes = ops.any(slopes[-1] != 0, axis=(1, 3))
    makes = ops.cast(makes, relevance.dtype)[..., None]
    number = ops.maximum(ops.sum(makes, axis=1), 1.0)
    return ops.sum(relevance * makes, axis=1) / number
