"""Record what captum and pytorch-grad-cam say about a small network.

The network has fixed weights, drawn with numpy. tests/test_witnesses.py builds its
twin in Keras from the same weights and compares the maps. Everything is computed in
float64 and stored in float32, in the layouts of Keras: images and maps are
channels-last, kernels (height, width, in, out).

Run with ``make witnesses``.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

NUM_IMAGES, IMAGE_SIZE, EMBEDDING_SIZE = 3, 16, 8
KERNEL_SHAPES = {
    "first": (3, 3, 3, 6),
    "second": (3, 3, 6, 8),
    "strided": (3, 3, 8, 8),
    "last": (3, 3, 8, 8),
    "hidden": (8, 12),
    "embedding": (12, EMBEDDING_SIZE),
}
# The twins differ by rounding alone: about 1e-6. A unit nearer to a kink than
# this could fall on its other side in one of them.
MARGIN = 2e-5
CAMS = ["GradCAM", "GradCAMPlusPlus", "LayerCAM", "HiResCAM", "XGradCAM"]


class Network(nn.Module):
    """Two sizes of convolution, a skip around the last one, a head with a ReLU."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.first_relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.middle = nn.ReLU()  # the first layer that is explained, 8x8
        self.strided = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.strided_relu = nn.ReLU()
        self.last = nn.Conv2d(8, 8, 3, padding=1)  # the other one, 4x4 and signed
        self.last_relu = nn.ReLU()
        self.hidden = nn.Linear(8, 12)
        self.hidden_relu = nn.ReLU()
        self.embedding = nn.Linear(12, EMBEDDING_SIZE)
        for name in KERNEL_SHAPES:
            kernel = weights[f"{name}/kernel"]
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer = getattr(self, name)
            layer.weight.data = torch.tensor(kernel.transpose(axes))
            layer.bias.data = torch.tensor(weights[f"{name}/bias"])
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.first_relu(self.first(images)))
        maps = self.strided_relu(self.strided(self.middle(self.second(maps))))
        maps = self.last_relu(self.last(maps) + maps)
        features = self.hidden_relu(self.hidden(maps.mean(dim=(2, 3))))
        return self.embedding(features)


class Score(nn.Module):
    """The score of each image, embedding times proxy."""

    def __init__(self, network: Network, proxies: Tensor) -> None:
        super().__init__()
        self.network, self.proxies = network, proxies

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images) * self.proxies).sum(dim=1)


def draw_arrays(seed: int) -> dict[str, np.ndarray]:
    """Draw weights, images and proxies."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype("float32")

    arrays = {
        "images": draw(NUM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3),
        # Large, so that some denominators of Grad-CAM++ are negative.
        "proxies": 3 * draw(NUM_IMAGES, EMBEDDING_SIZE),
    }
    for name, shape in KERNEL_SHAPES.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        arrays[f"{name}/kernel"] = draw(*shape) * scale
        arrays[f"{name}/bias"] = draw(shape[-1]) * np.float32(0.1)
    # A dead channel of the middle layer: its activations sum to zero.
    arrays["second/bias"][0] = -20
    return arrays


def to_torch(images: np.ndarray) -> Tensor:
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float64)


def to_numpy(maps: Tensor) -> np.ndarray:
    return maps.detach().numpy().transpose(0, 2, 3, 1)


def measure_margin(network: Network, images: Tensor) -> float:
    """Return how near any ReLU or maximum pooling comes to a kink."""
    distances = []

    def watch_relu(module: nn.Module, inputs: tuple[Tensor]) -> None:
        distances.append(inputs[0].abs().min().item())

    def watch_pool(module: nn.Module, inputs: tuple[Tensor]) -> None:
        cells = nn.functional.unfold(inputs[0].flatten(0, 1)[:, None], 2, stride=2)
        highest, second = cells.topk(2, dim=1).values.unbind(dim=1)
        # In an all-zero cell either choice passes nothing: the ReLU is shut.
        distances.append((highest - second)[highest > 0].min().item())

    handles = [
        module.register_forward_pre_hook(
            watch_relu if isinstance(module, nn.ReLU) else watch_pool
        )
        for module in network.modules()
        if isinstance(module, nn.ReLU | nn.MaxPool2d)
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return min(distances)


def record_captum(
    network: Network, images: Tensor, proxies: Tensor
) -> dict[str, np.ndarray]:
    """Return captum's maps at the explained layers and in input space."""
    score = Score(network, proxies)
    recorded = {
        f"captum/{name}": to_numpy(getattr(captum.attr, name)(score).attribute(images))
        for name in ("Saliency", "GuidedBackprop", "Deconvolution")
    }
    for layer_name in ("middle", "last"):
        layer = getattr(network, layer_name)
        cam = captum.attr.LayerGradCam(score, layer)
        signed = cam.attribute(images)
        positive = cam.attribute(images, relu_attributions=True)
        guided = captum.attr.GuidedGradCam(score, layer).attribute(images)
        recorded[f"captum/LayerGradCam/signed/{layer_name}"] = to_numpy(signed)[..., 0]
        recorded[f"captum/LayerGradCam/{layer_name}"] = to_numpy(positive)[..., 0]
        recorded[f"captum/GuidedGradCam/{layer_name}"] = to_numpy(guided)
    return recorded


def import_grad_cam() -> ModuleType:
    """Import pytorch-grad-cam without torchvision, which its maps do not use."""
    names: dict[str, list[str]] = {
        "torchvision": [],
        "torchvision.transforms": ["Compose", "Normalize", "ToTensor"],
        "torchvision.transforms.functional": ["resize"],
    }
    for name, attributes in names.items():
        sys.modules[name] = ModuleType(name)
        # None, so that a use of one of them would fail and not go unnoticed.
        vars(sys.modules[name]).update(dict.fromkeys(attributes))
    import pytorch_grad_cam

    return pytorch_grad_cam


def record_grad_cam(
    network: Network, images: Tensor, proxies: Tensor
) -> dict[str, np.ndarray]:
    """Return the raw maps, signed, of pytorch-grad-cam and what it made them from."""
    library = import_grad_cam()
    recorded = {}

    def score_with(proxy: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda embedding: embedding @ proxy

    targets = [score_with(proxy) for proxy in proxies]
    for cam_name in CAMS:
        for layer_name in ("middle", "last"):
            layer = getattr(network, layer_name)
            cam = getattr(library, cam_name)(network, [layer])
            cam(images, targets)
            seen = cam.activations_and_grads
            activations = seen.activations[0].numpy()
            gradients = seen.gradients[0].numpy()
            # What the call itself made, before it scaled and resized it.
            raw = cam.get_cam_image(
                images, layer, targets, activations, gradients, eigen_smooth=False
            )
            recorded[f"grad_cam/{cam_name}/{layer_name}"] = raw
            recorded[f"activations/{layer_name}"] = activations.transpose(0, 2, 3, 1)
            recorded[f"gradients/{layer_name}"] = gradients.transpose(0, 2, 3, 1)
            seen.release()
    return recorded


def record(seed: int) -> dict[str, np.ndarray] | None:
    """Return all arrays of a seed, or None where they would make a poor witness."""
    arrays = draw_arrays(seed)
    network = Network(arrays).eval()
    images, proxies = to_torch(arrays["images"]), torch.tensor(arrays["proxies"])
    proxies = proxies.double()
    if measure_margin(network, images) < MARGIN:
        return None
    arrays["embeddings"] = network(images).detach().numpy()
    arrays |= record_captum(network, images, proxies)
    arrays |= record_grad_cam(network, images, proxies)
    for layer_name in ("middle", "last"):
        activations = arrays[f"activations/{layer_name}"]
        gradients = arrays[f"gradients/{layer_name}"]
        total = activations.sum(axis=(1, 2), keepdims=True)
        # Neither Grad-CAM++ nor XGrad-CAM may stand next to a division by zero.
        denominator = (2 + gradients * total)[gradients > 0]
        if min(np.abs(denominator).min(), np.abs(total[total != 0]).min()) < 0.1:
            return None
        if layer_name == "last" and not (denominator < 0).any():
            return None
        for cam_name in CAMS:
            maps = arrays[f"grad_cam/{cam_name}/{layer_name}"]
            if not (maps.max(axis=(1, 2)) > 0).all():
                return None
    return arrays


def main() -> None:
    warnings.filterwarnings("ignore", message="(Setting backward hooks|Input Tensor)")
    for seed in range(1000):
        arrays = record(seed)
        if arrays is not None:
            break
    else:
        raise RuntimeError("No seed below 1000 gives maps that are fit to be compared.")
    path = Path(__file__).with_name("cams.npz")
    float32 = {name: array.astype("float32") for name, array in arrays.items()}
    np.savez_compressed(path, **float32)
    print(
        f"{path.name}: seed {seed}, {len(arrays)} arrays, {path.stat().st_size} bytes"
    )
    for name in ("torch", "captum", "grad-cam", "numpy"):
        print(f"  {name} {version(name)}")


if __name__ == "__main__":
    main()
