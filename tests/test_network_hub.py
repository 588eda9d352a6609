"""Which layers are explained by default in KerasHub's networks, with random weights."""

import keras
import pytest
from keras import layers

from keras_embcam.network.feature_maps import AllBranches, AttentionLayers
from keras_embcam.network.trial_run import enclosing_paths, list_operations
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
    """Return the image tower of a dual encoder with its pooler and projection."""
    vision = getattr(models, f"{name}VisionEncoder")(
        patch_size=8, intermediate_dim=32, image_shape=(SIZE, SIZE, 3), **SMALL
    )
    text = getattr(models, f"{name}TextEncoder")(
        vocabulary_size=8,
        embedding_dim=8,
        hidden_dim=8,
        num_layers=1,
        num_heads=1,
        intermediate_dim=8,
        max_sequence_length=4,
    )
    both = getattr(models, f"{name}Backbone")(vision, text, projection_dim=6)
    images = keras.Input((SIZE, SIZE, 3))
    return keras.Model(images, both.get_vision_embeddings(images))


def siglip() -> keras.Model:
    """Return the vision encoder of SigLIP and SigLIP 2, which pools by attention."""
    return models.SigLIPVisionEncoder(
        patch_size=8, intermediate_dim=32, image_shape=(SIZE, SIZE, 3), **SMALL
    )


def swin() -> keras.Model:
    """Return a Swin of two stages, the last one of 4 x 4 tokens."""
    backbone = models.SwinTransformerBackbone(
        image_shape=(SIZE, SIZE, 3),
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
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


# name: how it is made, the first and the last of the layers that are explained, how
# many they are, their grid, and the tokens before the patches
VIT = "vit_encoder/transformer_block_1/ln_1"
DINO = ("encoder/layers_0/norm1", "encoder/layers_2/norm1")
CLIP = ("encoder_block_0/layer_norm_1", "encoder_block_2/layer_norm_1")
DEIT = (
    "deit_encoder/transformer_block_1/ln_1",
    "deit_encoder/transformer_block_3/ln_1",
)
NETWORKS = {
    "ViT, class token": (vit, VIT, VIT.replace("1", "3", 1), 3, (4, 4), 1),
    "ViT, pooled": (lambda: vit("gap"), VIT, VIT.replace("1", "3", 1), 3, (4, 4), 1),
    "ViT, no class token": (pooled_vit, VIT, VIT.replace("1", "3", 1), 3, (4, 8), 0),
    "DeiT": (deit, *DEIT, 3, (4, 4), 2),
    "DINOv2": (lambda: dino(2), *DINO, 3, (4, 4), 1),
    "DINOv2, registers": (lambda: dino(2, 4), *DINO, 3, (4, 4), 5),
    "DINOv3": (lambda: dino(3, 4), *DINO, 3, (4, 4), 5),
    "CLIP": (lambda: clip("CLIP"), *CLIP, 3, (4, 4), 1),
    "MetaCLIP 2": (lambda: clip("MetaCLIP2"), *CLIP, 3, (4, 4), 1),
    "SigLIP": (siglip, "encoder_block_0/layer_norm1", "post_layer_norm", 4, (4, 4), 0),
    "Swin": (swin, "stage_1/blocks_0/norm1", "stage_1/blocks_1/norm1", 2, (4, 4), 0),
    "MiT": (mit, "encoder_1_0/", "encoder_1_1/", 2, (4, 4), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers(name: str) -> None:
    make, first, last, num_layers, grid, num_prefix = NETWORKS[name]
    keras.utils.set_random_seed(0)
    model = make()
    # As of `explain(model, images)`: what enters the attentions.
    view = ModelView(model, AllBranches(all_blocks=True))
    assert first in view.conv_layer[0] and last in view.conv_layer[-1]
    assert view.map_size == grid
    assert view.num_prefix_tokens == [num_prefix] * num_layers
    known = list_operations(model)
    for path in view.conv_layer:
        around = [type(known[x]).__name__ for x in (path, *enclosing_paths(path)) if x]
        assert not any("Attention" in name for name in around)


@pytest.mark.parametrize("name", ["DINOv2, registers", "SigLIP"])
def test_the_score_is_read_out_behind_each_block(name: str) -> None:
    keras.utils.set_random_seed(0)
    model, read_out = NETWORKS[name][0](), AttentionLayers(read_out=True)
    if name == "SigLIP":
        with pytest.raises(ValueError, match="'head/attention', pools the tokens"):
            ModelView(model, read_out)
    else:
        assert len(ModelView(model, read_out).conv_layer) == 3
