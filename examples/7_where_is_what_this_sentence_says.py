"""Where is what this sentence says: a dual encoder, its text embedding as the proxy.

    pip install "keras-embcam[hub]"
    python examples/7_where_is_what_this_sentence_says.py

A dual encoder such as CLIP puts images and sentences into one space. Any vector of this
space can be explained, so the embedding of a sentence takes the place of an image's
own: the heat is on what makes the image agree with the sentence. The difference of two
sentences shows what speaks for the one rather than the other.

The network here is small and has random weights: none that were trained are shipped,
so the pictures show that it runs, not where anything is. With trained ones, which
`keras_hub` downloads, replace `make_clip` and `tokenize` by

    clip = keras_hub.models.CLIPBackbone.from_preset("clip_vit_base_patch32")
    tokenizer = keras_hub.models.CLIPTokenizer.from_preset("clip_vit_base_patch32")

and pad the tokens as its `CLIPPreprocessor` does, which also says what range the pixels
have. Writes `logs/sentences.png`.
"""

from pathlib import Path

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_embcam import explain
from keras_embcam.datasets import digit_scenes
from keras_embcam.drawing import make_grid, overlay_heatmap

SENTENCES = ["a handwritten seven", "leaves of a flower"]
LENGTH = 24  # tokens of a sentence


def make_clip() -> keras.Model:
    """Return a CLIP of two small towers with random weights."""
    keras.utils.set_random_seed(0)
    tower = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    return keras_hub.models.CLIPBackbone(
        vision_encoder=keras_hub.models.CLIPVisionEncoder(
            patch_size=8, image_shape=(64, 64, 3), **tower
        ),
        text_encoder=keras_hub.models.CLIPTextEncoder(
            vocabulary_size=257, embedding_dim=32, max_sequence_length=LENGTH, **tower
        ),
        projection_dim=16,
    )


def tokenize(sentence: str) -> list[int]:
    """Return a number for each letter, and a last one where the sentence ends."""
    letters = list(sentence.encode())[: LENGTH - 1]
    return letters + [256] * (LENGTH - len(letters))


clip = make_clip()
# The image tower as a model of its own: it shares the weights of the whole.
images = keras.Input(clip.vision_encoder.image_shape, name="images")
image_tower = keras.Model(images, clip.get_vision_embeddings(images))
sentences = clip.get_text_embeddings(
    np.array([tokenize(x) for x in SENTENCES], "int32")
)
sentences = keras.ops.convert_to_numpy(keras.ops.normalize(sentences, axis=-1))

scenes = digit_scenes(4, split="evaluation")["image"]
pixels = scenes / 127.5 - 1
one, other = sentences
proxies = np.stack([one, other, one - other])
explanation = explain(
    image_tower, pixels, proxies=np.tile(proxies, (len(pixels), 1, 1)), details=True
)

unit_embeddings = keras.ops.normalize(explanation.embeddings, axis=-1)
cosines = keras.ops.convert_to_numpy(unit_embeddings) @ sentences.T
captions = [*SENTENCES, f"{SENTENCES[0]} rather than {SENTENCES[1]}"]
rows = [
    make_grid(
        [
            overlay_heatmap(scene, heatmap)
            for scene, heatmap in zip(scenes, maps, strict=True)
        ],
        num_columns=len(scenes),
    )
    for maps in explanation.heatmaps.swapaxes(0, 1)
]
for sentence, row in zip(SENTENCES, cosines.T, strict=True):
    print(f"cosine with {sentence!r}: {', '.join(f'{x:.2f}' for x in row)}")
shares = explanation.prefix_shares.mean(axis=0)
print(f"of the gradient on the class token: {', '.join(f'{x:.2f}' for x in shares)}")
Path("logs").mkdir(exist_ok=True)
picture = make_grid(rows, captions, num_columns=1)
tf.io.write_file("logs/sentences.png", tf.io.encode_png(picture))
print("logs/sentences.png")
