"""Which layer is explained by default in KerasHub's networks, with random weights."""

import keras
import pytest
from keras import layers

from keras_embcam.network.view import ModelView

models = pytest.importorskip("keras_hub").models

SIZE = 32
SMALL = {"num_layers": 3, "num_heads": 2, "hidden_dim": 16}


def vit(pooling: str = "token") -> keras.Model:
    """Return a ViT with patches of 8 pixels, 4 x 4 of them."""
    backbone = models.ViTBackbone(
        image_shape=(SIZE, SIZE, 3), patch_size=8, mlp_dim=32, **SMALL
    )
    return models.ViTImageClassifier(backbone, num_classes=5, pooling=pooling)


def pooled_vit() -> keras.Model:
    """Return a ViT without a class token, its patches pooled, twice as wide."""
    backbone = models.ViTBackbone(
        image_shape=(SIZE, 2 * SIZE, 3),
        patch_size=8,
        mlp_dim=32,
        use_class_token=False,
        **SMALL,
    )
    return models.ViTImageClassifier(backbone, num_classes=5, pooling="gap")


def deit() -> keras.Model:
    """Return a DeiT whose embedding is its class token."""
    backbone = models.DeiTBackbone(
        image_shape=(SIZE, SIZE, 3), patch_size=8, intermediate_dim=32, **SMALL
    )
    return keras.Model(backbone.inputs, backbone.output[:, 0])


def dino(version: int, num_registers: int = 0) -> keras.Model:
    """Return a DINO whose embedding is its class token."""
    options = {"position_embedding_shape": (SIZE, SIZE, 3)} if version == 2 else {}
    backbone = getattr(models, f"DINOV{version}Backbone")(
        patch_size=8,
        intermediate_dim=32,
        num_register_tokens=num_registers,
        image_shape=(SIZE, SIZE, 3),
        **SMALL,
        **options,
    )
    return keras.Model(backbone.inputs, backbone.output[:, 0])


def clip(name: str) -> keras.Model:
    """Return the vision encoder of a dual encoder with its projection."""
    encoder = getattr(models, name)(
        patch_size=8, intermediate_dim=32, image_shape=(SIZE, SIZE, 3), **SMALL
    )
    return keras.Model(
        encoder.inputs, layers.Dense(6, use_bias=False)(encoder.output[:, 0])
    )


def siglip() -> keras.Model:
    """Return the vision encoder, which pools by attention."""
    return models.SigLIPVisionEncoder(
        patch_size=8, intermediate_dim=32, image_shape=(SIZE, SIZE, 3), **SMALL
    )


def swin() -> keras.Model:
    """Return a Swin of three stages, the last one of 4 x 4 tokens."""
    backbone = models.SwinTransformerBackbone(
        image_shape=(64, 64, 3),
        embed_dim=8,
        depths=[2, 2, 2],
        num_heads=[2, 2, 2],
        window_size=2,
    )
    pooled = layers.GlobalAveragePooling1D()(backbone.output)
    return keras.Model(backbone.inputs, layers.Dense(5)(pooled))


def mit() -> keras.Model:
    """Return a MiT of two levels."""
    backbone = models.MiTBackbone(
        layerwise_depths=[1, 2],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(SIZE, SIZE, 3),
        hidden_dims=[8, 16],
    )
    pooled = layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.inputs, layers.Dense(5)(pooled))


# name: how it is made, the layer that is chosen, its grid, tokens before the patches
NETWORKS = {
    "ViT, class token": (vit, "vit_encoder/transformer_block_3/ln_1", (4, 4), 1),
    "ViT, pooled": (lambda: vit("gap"), "vit_encoder/ln", (4, 4), 1),
    "ViT, no class token": (pooled_vit, "vit_encoder/ln", (4, 8), 0),
    "DeiT": (deit, "deit_encoder/transformer_block_3/ln_1", (4, 4), 2),
    "DINOv2": (lambda: dino(2), "encoder/layers_2/norm1", (4, 4), 1),
    "DINOv2, registers": (lambda: dino(2, 4), "encoder/layers_2/norm1", (4, 4), 5),
    "DINOv3": (lambda: dino(3, 4), "encoder/layers_2/norm1", (4, 4), 5),
    "CLIP": (
        lambda: clip("CLIPVisionEncoder"),
        "encoder_block_2/layer_norm_1",
        (4, 4),
        1,
    ),
    "MetaCLIP 2": (
        lambda: clip("MetaCLIP2VisionEncoder"),
        "encoder_block_2/layer_norm_1",
        (4, 4),
        1,
    ),
    "SigLIP": (siglip, "post_layer_norm", (4, 4), 0),
    "Swin": (swin, "norm", (4, 4), 0),
    "MiT": (mit, "layer_normalization", (4, 4), 0),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple:
    make, *expected = NETWORKS[request.param]
    keras.utils.set_random_seed(0)
    return make(), *expected


def test_the_layer(network: tuple) -> None:
    model, layer, grid, num_prefix = network
    view = ModelView(model)
    assert layer in view.conv_layer
    assert view.map_size == grid
    assert view.num_prefix_tokens == num_prefix
