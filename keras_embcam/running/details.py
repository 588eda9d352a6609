"""What an explanation tells beside its heatmaps."""

from typing import Any

from keras import ops

from keras_embcam.method import Method
from keras_embcam.network.recorded import Recording
from keras_embcam.network.view import ModelView
from keras_embcam.running.one_batch import compute_heatmaps, explain_images

Tensor = Any


def explain_in_detail(
    view: ModelView, images: Any, proxies: Any, method: Method
) -> tuple[Tensor, ...]:
    """Return what `explain_images` does and, for tokens, what no map shows.

    Returns:
        ``(embeddings, heatmaps, scores)``, and, where a transformer has tokens that are
        no patches, the share of the gradient on them, (n,) or (n, m) for m proxies.
    """
    shares = []

    def compute(recording: Recording, proxies: Tensor, *how: Any) -> Tensor:
        pull_back = recording.pull_back_and_share
        if pull_back is None:
            return compute_heatmaps(recording, proxies, *how)

        def explain_one(one: Tensor) -> tuple[Tensor, Tensor]:
            gradients, share = pull_back(one)
            run = recording._replace(pull_back=lambda _: gradients)
            return compute_heatmaps(run, one, *how), share

        if len(proxies.shape) == 2:
            heatmaps, share = explain_one(proxies)
        else:
            found = ops.map(explain_one, ops.swapaxes(proxies, 0, 1))
            heatmaps, share = (ops.swapaxes(x, 0, 1) for x in found)
        shares.append(share)
        return heatmaps

    explained = explain_images(view, images, proxies, method, compute)
    return (*explained, *shares)
