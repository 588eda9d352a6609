"""Maps of y.p by other libraries for torch, on the same transformer.

A program for the environment of the witnesses; see `serving`. Each library is called
as its documentation says for a vision transformer with a class token.
"""

from collections.abc import Callable

import numpy as np
import torch
from serving import Job, serve
from torch import Tensor
from torch_peers import import_grad_cam, to_torch
from torch_transformer import Transformer, to_grid

LIBRARIES = ["torch", "grad-cam", "torchcam"]
# As in pytorch-grad-cam's documentation, "any layer before the final attention block".
METHODS = ("GradCAM", "LayerCAM", "HiResCAM")


def make_jobs(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], Job]]:
    """Return what makes the job of each method of each library."""
    network = Transformer(arrays, str(arrays["pooling"])).eval()
    proxies = torch.tensor(arrays["proxies"])
    makers: dict[str, Callable[[], Job]] = {
        f"grad-cam {name}": lambda name=name: make_grad_cam(network, proxies, name)
        for name in METHODS
    }
    makers["torchcam GradCAM"] = lambda: make_torchcam(network, proxies)
    makers["torchcam LeGrad"] = lambda: make_legrad(network, proxies)
    makers["forward"] = lambda: make_forward(network)
    return makers


def make_forward(network: Transformer) -> Job:
    """Return the embeddings alone."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(to_torch(images)).numpy()

    return run


def make_targets(proxies: Tensor, number: int) -> list[Callable[[Tensor], Tensor]]:
    """Return the score of each image."""
    return [lambda y, p=proxy: y @ p for proxy in proxies[:number]]


def make_grad_cam(network: Transformer, proxies: Tensor, name: str) -> Job:
    """Return a method of pytorch-grad-cam."""
    method = getattr(import_grad_cam(), name)
    layers = [network.blocks[-1].norm1]
    cam = method(network, layers, reshape_transform=to_grid)
    return lambda images: cam(to_torch(images), make_targets(proxies, len(images)))


def make_torchcam(network: Transformer, proxies: Tensor) -> Job:
    """Return torchcam's Grad-CAM."""
    from torchcam.methods import GradCAM

    cam = GradCAM(network, network.blocks[-1].norm1, reshape_transform=to_grid)

    def run(images: np.ndarray) -> np.ndarray:
        scores = network(to_torch(images))
        [maps] = cam(scores=scores, targets=make_targets(proxies, len(images)))
        return maps.numpy()

    return run


def make_legrad(network: Transformer, proxies: Tensor) -> Job:
    """Return torchcam's LeGrad of all blocks; each image has a class of its own."""
    from torchcam.methods import LeGrad

    legrad = LeGrad(
        network,
        list(network.blocks),
        score_projection=lambda tokens: (
            network.read_out(tokens) @ proxies[: len(tokens)].T
        ),
    )

    def run(images: np.ndarray) -> np.ndarray:
        network(to_torch(images))
        return legrad(list(range(len(images))))[0].numpy()

    return run


if __name__ == "__main__":
    serve(make_jobs, LIBRARIES)
