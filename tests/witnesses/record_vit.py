"""Record what pytorch-grad-cam and torchcam say about a small vision transformer.

Its weights are drawn with numpy; tests/test_witnesses_vit.py builds its twin in Keras
from them and compares the maps. Everything is computed in float64 and stored in
float32, in the layouts of Keras.

Run with ``make witnesses``.
"""

import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from record_cams import import_grad_cam, to_numpy, to_torch
from torchcam.methods import LeGrad

WORKERS = Path(__file__).parents[2] / "benchmarks" / "cost" / "workers"
sys.path.append(str(WORKERS))

from torch_transformer import Transformer, to_grid  # noqa: E402

NUM_IMAGES, IMAGE_SIZE, PATCH, WIDTH, HEADS, HIDDEN, EMBEDDING = 3, 20, 4, 8, 2, 16, 6
NUM_BLOCKS = 2
CAMS = ["GradCAM", "LayerCAM", "HiResCAM"]
# No map may hang on rounding: of each, this share of the maximum is above zero.
MIN_SHARE = 0.1


def draw_arrays(seed: int) -> dict[str, np.ndarray]:
    """Draw weights, images and proxies."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype("float32")

    arrays = {
        "images": draw(NUM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3),
        "proxies": draw(NUM_IMAGES, EMBEDDING),
        "class_token": draw(1, 1, WIDTH),
        "positions": draw(1, (IMAGE_SIZE // PATCH) ** 2, WIDTH),
        "patches/kernel": draw(PATCH, PATCH, 3, WIDTH) / np.float32(7),
        "patches/bias": draw(WIDTH),
        "embedding/kernel": draw(WIDTH, EMBEDDING),
        "embedding/bias": draw(EMBEDDING),
    }
    split = (HEADS, WIDTH // HEADS)
    for number in range(NUM_BLOCKS):
        name = f"block_{number}"
        for part in ("query", "key", "value"):
            # Large, so that the attention is far from even.
            arrays[f"{name}/{part}/kernel"] = draw(WIDTH, *split) / np.float32(2)
            arrays[f"{name}/{part}/bias"] = draw(*split)
        arrays[f"{name}/output/kernel"] = draw(*split, WIDTH)
        arrays[f"{name}/hidden/kernel"] = draw(WIDTH, HIDDEN)
        arrays[f"{name}/last/kernel"] = draw(HIDDEN, WIDTH) / np.float32(4)
        for part, width in (("output", WIDTH), ("hidden", HIDDEN), ("last", WIDTH)):
            arrays[f"{name}/{part}/bias"] = draw(width)
    for norm in ("block_0/norm1", "block_0/norm2", "block_1/norm1", "block_1/norm2"):
        arrays[f"{norm}/gamma"], arrays[f"{norm}/beta"] = (
            1 + draw(WIDTH) / 4,
            draw(WIDTH),
        )
    arrays["final_norm/gamma"] = 1 + draw(WIDTH) / np.float32(4)
    arrays["final_norm/beta"] = draw(WIDTH)
    return arrays


def record(seed: int) -> dict[str, np.ndarray] | None:
    """Return all arrays of a seed, or None where a map is empty."""
    arrays = draw_arrays(seed)
    doubles = {name: array.astype("float64") for name, array in arrays.items()}
    network = Transformer(doubles).double().eval()
    images, proxies = to_torch(arrays["images"]), torch.tensor(doubles["proxies"])
    arrays["embeddings"] = network(images).detach().numpy()
    library, layer = import_grad_cam(), network.blocks[-1].norm1
    targets = [lambda y, p=proxy: y @ p for proxy in proxies]
    for name in CAMS:
        cam = getattr(library, name)(network, [layer], reshape_transform=to_grid)
        cam(images, targets)
        seen = cam.activations_and_grads
        activations, gradients = seen.activations[0], seen.gradients[0]
        # What the call itself made, before it scaled and resized it.
        arrays[f"grad_cam/{name}"] = cam.get_cam_image(
            images, layer, targets, activations.numpy(), gradients.numpy(), False
        )
        arrays["activations"] = to_numpy(activations)
        arrays["gradients"] = to_numpy(gradients)
        seen.release()
    # Each image has its own class, whose logit is the embedding times its proxy.
    with LeGrad(
        network,
        list(network.blocks),
        score_projection=lambda tokens: network.read_out(tokens) @ proxies.T,
    ) as legrad:
        network(images)
        [maps] = legrad(list(range(NUM_IMAGES)), normalized=False)
    # It takes the mean of the blocks, where the paper has their sum.
    arrays["torchcam/LeGrad"] = maps.detach().numpy() * NUM_BLOCKS
    for name in (*(f"grad_cam/{x}" for x in CAMS), "torchcam/LeGrad"):
        maps = arrays[name]
        if not (maps.max(axis=(1, 2)) > MIN_SHARE * np.abs(maps).max()).all():
            return None
    return arrays


def main() -> None:
    warnings.filterwarnings("ignore", message="(Setting backward hooks|Input Tensor)")
    arrays = next(x for x in map(record, range(1000)) if x is not None)
    path = Path(__file__).with_name("vit.npz")
    float32 = {name: array.astype("float32") for name, array in arrays.items()}
    np.savez_compressed(path, **float32)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")
    for name in ("torch", "grad-cam", "torchcam", "numpy"):
        print(f"  {name} {version(name)}")


if __name__ == "__main__":
    main()
