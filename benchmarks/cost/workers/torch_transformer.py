"""A vision transformer in torch with the weights of its twin in Keras."""

import numpy as np
import torch
from torch import Tensor, nn

# Keras's, for a layer normalisation.
EPSILON = 1e-3


class Block(nn.Module):
    """Attention and a hidden layer, each behind a normalisation."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str) -> None:
        super().__init__()
        width, num_heads, _ = arrays[f"{name}/query/kernel"].shape
        self.norm1 = make_norm(arrays, f"{name}/norm1")
        # The name by which torchvision and torchcam know it.
        self.self_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        parts = [f"{name}/{x}" for x in ("query", "key", "value")]
        kernels = [arrays[f"{x}/kernel"].reshape(width, width).T for x in parts]
        biases = [arrays[f"{x}/bias"].ravel() for x in parts]
        attention = self.self_attention
        set_weight(attention.in_proj_weight, np.concatenate(kernels))
        set_weight(attention.in_proj_bias, np.concatenate(biases))
        kernel = arrays[f"{name}/output/kernel"].reshape(width, width)
        set_weight(attention.out_proj.weight, kernel.T)
        set_weight(attention.out_proj.bias, arrays[f"{name}/output/bias"])
        self.norm2 = make_norm(arrays, f"{name}/norm2")
        self.hidden = make_linear(arrays, f"{name}/hidden")
        self.last = make_linear(arrays, f"{name}/last")

    def forward(self, tokens: Tensor) -> Tensor:
        normalized = self.norm1(tokens)
        attention = self.self_attention
        mixed, _ = attention(normalized, normalized, normalized, need_weights=False)
        tokens = tokens + mixed
        hidden = nn.functional.gelu(self.hidden(self.norm2(tokens)))
        return tokens + self.last(hidden)


class Transformer(nn.Module):
    """From images (n, c, H, W) to embeddings (n, d).

    Args:
        arrays: weights in the layout of Keras: "patches", a convolution that stands
            side by side; "class_token" and "positions" of the patches; "block_0" and
            so on; "final_norm"; "embedding".
        pooling: "token", or "mean" of the patches.
    """

    def __init__(self, arrays: dict[str, np.ndarray], pooling: str = "token") -> None:
        super().__init__()
        kernel = arrays["patches/kernel"].transpose(3, 2, 0, 1)
        self.patches = nn.Conv2d(
            *kernel.shape[1::-1], kernel.shape[2:], kernel.shape[2:]
        )
        set_weight(self.patches.weight, kernel)
        set_weight(self.patches.bias, arrays["patches/bias"])
        self.class_token = nn.Parameter(torch.tensor(arrays["class_token"]))
        self.positions = nn.Parameter(torch.tensor(arrays["positions"]))
        names = {x.split("/")[0] for x in arrays if x.startswith("block_")}
        self.blocks = nn.Sequential(*[Block(arrays, x) for x in sorted(names)])
        self.norm = make_norm(arrays, "final_norm")
        self.embedding = make_linear(arrays, "embedding")
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        first = self.class_token.expand(len(images), -1, -1)
        return self.read_out(self.blocks(torch.cat([first, patches], dim=1)))

    def read_out(self, tokens: Tensor) -> Tensor:
        """Return what the part behind the last block makes of tokens."""
        tokens = self.norm(tokens)
        pooled = tokens[:, 0] if self.pooling == "token" else tokens[:, 1:].mean(dim=1)
        return self.embedding(pooled)


def make_norm(arrays: dict[str, np.ndarray], name: str) -> nn.LayerNorm:
    """Return a layer normalisation."""
    norm = nn.LayerNorm(len(arrays[f"{name}/gamma"]), EPSILON)
    set_weight(norm.weight, arrays[f"{name}/gamma"])
    set_weight(norm.bias, arrays[f"{name}/beta"])
    return norm


def make_linear(arrays: dict[str, np.ndarray], name: str) -> nn.Linear:
    """Return a dense layer."""
    kernel = arrays[f"{name}/kernel"]
    linear = nn.Linear(*kernel.shape)
    set_weight(linear.weight, kernel.T)
    set_weight(linear.bias, arrays[f"{name}/bias"])
    return linear


def set_weight(tensor: Tensor, array: np.ndarray) -> None:
    """Copy an array into a tensor of the same shape."""
    with torch.no_grad():
        tensor.copy_(torch.tensor(np.ascontiguousarray(array)).reshape(tensor.shape))


def to_grid(tokens: Tensor) -> Tensor:
    """Return the patches behind a class token as a map: pytorch-grad-cam's recipe."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    maps = tokens[:, 1:].reshape(len(tokens), side, side, tokens.shape[2])
    return maps.transpose(2, 3).transpose(1, 2)
