"""Grad-CAM of y.p by other libraries for torch, on the same ResNet-50.

A program for the environment of the witnesses; see `serving`.
"""

import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from serving import Job, serve
from torch import Tensor, nn

LIBRARIES = ["torch", "grad-cam", "captum"]
# Keras's, for this network.
EPSILON = 1.001e-5
BLOCKS = {2: (3, 1), 3: (4, 2), 4: (6, 2), 5: (3, 2)}


class Convolution(nn.Module):
    """A convolution and its batch normalisation, with Keras's weights."""

    def __init__(
        self, arrays: dict[str, np.ndarray], name: str, stride: int = 1
    ) -> None:
        super().__init__()
        kernel = arrays[f"{name}_conv/kernel"]
        height, _, num_in, num_out = kernel.shape
        self.convolution = nn.Conv2d(num_in, num_out, height, stride, height // 2)
        self.norm = nn.BatchNorm2d(num_out, EPSILON)
        set_weights(
            {
                self.convolution.weight: kernel.transpose(3, 2, 0, 1),
                self.convolution.bias: arrays[f"{name}_conv/bias"],
                self.norm.weight: arrays[f"{name}_bn/gamma"],
                self.norm.bias: arrays[f"{name}_bn/beta"],
                self.norm.running_mean: arrays[f"{name}_bn/moving_mean"],
                self.norm.running_var: arrays[f"{name}_bn/moving_variance"],
            }
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.convolution(maps))


class Block(nn.Module):
    """Three convolutions and the way around them."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str, stride: int) -> None:
        super().__init__()
        self.first = Convolution(arrays, f"{name}_1", stride)
        self.second = Convolution(arrays, f"{name}_2")
        self.third = Convolution(arrays, f"{name}_3")
        has_shortcut = f"{name}_0_conv/kernel" in arrays
        self.shortcut = (
            Convolution(arrays, f"{name}_0", stride) if has_shortcut else nn.Identity()
        )
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.second(torch.relu(self.first(maps))))
        return self.relu(self.shortcut(maps) + self.third(inner))


class Network(nn.Module):
    """ResNet-50 as Keras has it, average pooling and a Dense layer."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.stem = Convolution(arrays, "conv1", stride=2)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.blocks = nn.Sequential(
            *[
                Block(arrays, f"conv{level}_block{index}", stride if index == 1 else 1)
                for level, (num_blocks, stride) in BLOCKS.items()
                for index in range(1, num_blocks + 1)
            ]
        )
        kernel = arrays["embedding/kernel"]
        self.embedding = nn.Linear(*kernel.shape)
        set_weights(
            {
                self.embedding.weight: kernel.T,
                self.embedding.bias: arrays["embedding/bias"],
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(self.pool(torch.relu(self.stem(images))))
        return self.embedding(maps.mean(dim=(2, 3)))


class Score(nn.Module):
    """The score of each image, embedding times proxy."""

    def __init__(self, network: Network, proxy: np.ndarray) -> None:
        super().__init__()
        self.network, self.proxy = network, torch.tensor(proxy)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) @ self.proxy


def set_weights(weights: dict[Tensor, np.ndarray]) -> None:
    """Copy the arrays into the tensors."""
    with torch.no_grad():
        for tensor, array in weights.items():
            tensor.copy_(torch.tensor(np.ascontiguousarray(array)))


def make_jobs(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], Job]]:
    """Return what makes the job of each library."""
    network, proxy = Network(arrays).eval(), arrays["proxy"]
    return {
        "forward": lambda: make_forward(network, arrays["images"]),
        "grad-cam": lambda: make_grad_cam(network, proxy),
        "captum": lambda: make_captum(network, proxy),
    }


def to_torch(images: np.ndarray) -> Tensor:
    """Return the images in torch's layout."""
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def make_forward(network: Network, images: np.ndarray) -> Job:
    """Return the forward pass, compiled as torch does it without a C++ compiler."""
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(network, to_torch(images[:1])))

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return traced(to_torch(batch)).numpy()

    return run


def import_grad_cam() -> ModuleType:
    """Import pytorch-grad-cam without torchvision, which its maps do not use."""
    names: dict[str, list[str]] = {
        "torchvision": [],
        "torchvision.transforms": ["Compose", "Normalize", "ToTensor"],
        "torchvision.transforms.functional": ["resize"],
    }
    for name, attributes in names.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(dict.fromkeys(attributes))
    import pytorch_grad_cam

    return pytorch_grad_cam


def make_grad_cam(network: Network, proxy: np.ndarray) -> Job:
    """Return pytorch-grad-cam's Grad-CAM."""
    cam = import_grad_cam().GradCAM(network, [network.blocks[-1]])
    vector = torch.tensor(proxy)

    def run(images: np.ndarray) -> np.ndarray:
        targets = [lambda embedding: embedding @ vector] * len(images)
        return cam(to_torch(images), targets)

    return run


def make_captum(network: Network, proxy: np.ndarray) -> Job:
    """Return captum's Grad-CAM, resized by it."""
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(Score(network, proxy), network.blocks[-1])

    def run(images: np.ndarray) -> np.ndarray:
        maps = cam.attribute(to_torch(images), relu_attributions=True)
        size = images.shape[1:3]
        resized = LayerAttribution.interpolate(maps, size, "bilinear")
        return resized.detach().numpy()[:, 0]

    return run


if __name__ == "__main__":
    serve(make_jobs, LIBRARIES)
