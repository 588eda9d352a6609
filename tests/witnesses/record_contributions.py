"""Record what captum says about a head that is not linear.

captum's LayerIntegratedGradients of each number of an embedding at the activations that
a head takes, from activations of zero, by the rule of Gauss and Legendre. The head has
a convolution, a ReLU and a tanh; its weights are drawn with numpy.
tests/test_retrieval_witnesses.py builds the twin in Keras. Computed in float64 and
stored in float32, channels last; kernels (height, width, in, out).

Run with ``make witnesses``.
"""

from importlib.metadata import version
from pathlib import Path

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

NUM_STEPS = 12
SHAPES = {"late": (3, 3, 4, 6), "hidden": (6, 8), "embedding": (8, 5)}


class Head(nn.Module):
    """From activations (n, 4, h, w) to embeddings (n, 5)."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.maps = nn.Identity()  # where captum integrates
        self.late = nn.Conv2d(4, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 8)
        self.embedding = nn.Linear(8, 5)
        for name in SHAPES:
            kernel = arrays[f"{name}/kernel"]
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer = getattr(self, name)
            layer.weight.data = torch.tensor(kernel.transpose(axes))
            layer.bias.data = torch.tensor(arrays[f"{name}/bias"])
        self.double()

    def forward(self, activations: Tensor) -> Tensor:
        maps = torch.relu(self.late(self.maps(activations)))
        return self.embedding(torch.tanh(self.hidden(maps.mean(dim=(2, 3)))))


def main() -> None:
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype("float32")

    arrays = {"activations": np.abs(draw(3, 5, 4, 4))}
    for name, shape in SHAPES.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        arrays[f"{name}/kernel"] = draw(*shape) * scale
        arrays[f"{name}/bias"] = draw(shape[-1]) * np.float32(0.3)
    head = Head(arrays).eval()
    activations = torch.tensor(
        arrays["activations"].transpose(0, 3, 1, 2), dtype=torch.float64
    )
    integrated = captum.attr.LayerIntegratedGradients(head, head.maps)
    found = [
        integrated.attribute(
            activations, target=number, n_steps=NUM_STEPS, method="gausslegendre"
        )
        .detach()
        .sum(dim=1)
        .numpy()
        for number in range(SHAPES["embedding"][1])
    ]
    arrays["contributions"] = np.stack(found, axis=-1)
    arrays["embeddings"] = head(activations).detach().numpy()
    arrays["rest"] = head(torch.zeros_like(activations)).detach().numpy()
    path = Path(__file__).with_name("contributions.npz")
    float32 = {name: array.astype("float32") for name, array in arrays.items()}
    np.savez_compressed(path, **float32)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")
    for name in ("torch", "captum", "numpy"):
        print(f"  {name} {version(name)}")


if __name__ == "__main__":
    main()
