"""Tests of keras_embcam.running.image_files, against Pillow and OpenCV."""

import io
import warnings
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, features

from keras_embcam.running import image_files
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.image_files import decode_image, list_files, read_image
from keras_embcam.running.picture_reader import has_transparent_parts


def make_picture(height: int = 24, width: int = 32) -> np.ndarray:
    """Return colours that differ in all corners, smooth enough for lossy formats."""
    rows, columns = np.mgrid[:height, :width]
    channels = (255 * rows / height, 255 * columns / width, 128 + 0 * rows)
    return np.stack(channels, axis=-1).astype("uint8")


def encode(picture: np.ndarray, format: str, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    if orientation != 1:
        options["exif"] = exif
    Image.fromarray(picture).save(buffer, format, **options)
    return buffer.getvalue()


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def test_transparent_parts_are_said(tmp_path) -> None:
    """Their hidden colours are what a network sees that Keras loads images for."""
    alpha = np.full((24, 32, 1), 255, "uint8")
    clear = np.concatenate([make_picture(), alpha], axis=-1)
    alpha[12:] = 0
    hidden = np.concatenate([make_picture(), alpha], axis=-1)
    paths = [tmp_path / f"{name}.png" for name in ("clear", "hidden", "palette")]
    paths[0].write_bytes(encode(clear, "PNG"))
    paths[1].write_bytes(encode(hidden, "PNG"))
    Image.new("P", (8, 8), 0).save(paths[2], transparency=0)
    grey = Image.new("L", (8, 8))
    pictures = [*paths, Image.fromarray(hidden), grey]
    assert list(map(has_transparent_parts, pictures)) == [
        False,
        True,
        True,
        True,
        False,
    ]
    inputs = keras.Input((8, 8, 3))
    source = ImageSource(pictures, keras.Model(inputs, inputs), 2)
    with pytest.warns(UserWarning, match="3 of 5 images .*hidden.png; .*; RGBA image"):
        (*_, last) = source
    assert last.start == 4
    model = keras.Model(four := keras.Input((8, 8, 4)), four)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(ImageSource(pictures[:1] + pictures[3:4], model, 1))) == 2


# Formats


@pytest.mark.parametrize(
    "format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP", "AVIF", "JPEG2000", "PPM"]
)
def test_formats_are_read_alone_and_in_folders(tmp_path, format) -> None:
    """Failed before for WebP, TIFF and AVIF: folders passed them over in silence."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    suffix = {"JPEG": "jpg", "JPEG2000": "jp2"}.get(format, format.lower())
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if format == "WEBP" else {}
    path.write_bytes(encode(make_picture(), format, **options))
    assert list_files(tmp_path) == [path]
    image = read_image(path)
    assert image.shape == (24, 32, 3) and image.dtype == "float32"
    tolerance = {"GIF": 40, "JPEG": 12, "AVIF": 12}.get(format, 0)
    assert np.abs(image - make_picture()).max() <= tolerance
    grey = read_image(path, channels=1)
    luma = np.asarray(Image.fromarray(make_picture()).convert("L"), "float32")
    assert grey.shape == (24, 32, 1)
    assert np.abs(grey[..., 0] - luma).max() <= max(tolerance, 2)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_what_tensorflow_reads_has_its_pixels(format) -> None:
    """To the last digit: models are trained with them."""
    encoded = encode(make_picture(), format, quality=60)
    expected = tf.io.decode_image(encoded, 3, expand_animations=False).numpy()
    np.testing.assert_array_equal(decode_image(encoded), expected)


def test_grey_and_transparent_pictures_and_those_with_a_palette() -> None:
    grey = make_picture()[..., 0]
    for format in ("TIFF", "WEBP"):
        encoded = encode(
            grey, format, **({"lossless": True} if format == "WEBP" else {})
        )
        expected = np.repeat(grey[..., None], 3, axis=-1)
        np.testing.assert_array_equal(decode_image(encoded), expected)
    clear = np.dstack([make_picture(), grey])
    np.testing.assert_array_equal(decode_image(encode(clear, "TIFF")), clear[..., :3])
    palette = Image.fromarray(make_picture()).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "TIFF")
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


def test_transparency_is_kept_for_models_that_take_it() -> None:
    clear = np.dstack([make_picture(), make_picture()[..., 0]])
    for format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(encode(clear, format), 4), clear)
    with pytest.raises(ValueError, match="with 1, 3 or 4 .* model takes 5. Pass array"):
        decode_image(encode(clear, "PNG"), 5)


def test_sixteen_bits_keep_the_higher_byte() -> None:
    deep = (make_picture()[..., 0].astype("uint16") << 8) + 77
    for suffix in (".tiff", ".png"):
        encoded = cv2.imencode(suffix, deep)[1].tobytes()
        assert (decode_image(encoded)[..., 1] == deep >> 8).all()
    # Pillow does not know TIFF of three channels of 16 bits, OpenCV does.
    colours = make_picture().astype("uint16") << 8
    encoded = cv2.imencode(".tiff", colours[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(encoded), make_picture())
    with pytest.raises(ValueError, match="must have 8 or 16 bits. .* mode 'F'"):
        decode_image(cv2.imencode(".tiff", deep.astype("float32"))[1].tobytes())


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_viewers_show_them(format, orientation) -> None:
    """Failed before: maps lay over photographs on their side."""
    options = {"lossless": True} if format == "WEBP" else {}
    encoded = encode(make_picture(), format, orientation, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    found = decode_image(encoded)
    assert found.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    tolerance = 4 if format == "JPEG" else 0
    difference = np.abs(found.astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= tolerance
    if format == "JPEG":  # a second witness
        seen = cv2.imdecode(np.frombuffer(encoded, "uint8"), cv2.IMREAD_COLOR)
        assert np.abs(seen[..., ::-1].astype(int) - found.astype(int)).max() <= 8


def test_damaged_exif_data_do_not_hide_the_picture() -> None:
    encoded = encode(make_picture(), "JPEG", 6)
    position = encoded.index(b"Exif") + 6
    damaged = encoded[:position] + b"\xff" * 8 + encoded[position + 8 :]
    assert decode_image(damaged).shape == (24, 32, 3)


# What cannot be read


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff", ".avif"]
)
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_truncated_files_are_named(tmp_path, suffix, share) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype("uint8")
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = write_image(tmp_path / f"image{suffix}", image)
    assert read_image(path).shape == (32, 32, 3)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=rf"Cannot read the image '.*image\{suffix}': "
    ):
        read_image(path)


def test_unreadable_files_are_named(tmp_path) -> None:
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b.png': it is empty, or in no format that"):
        read_image(tmp_path / "b.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    with pytest.raises(ValueError, match=r"Cannot read .*b.jpg': ") as error:
        read_image(tmp_path / "b.jpg")
    assert "{{" not in str(error.value) and "[Op:" not in str(error.value)
    with pytest.raises(ValueError, match=r"c.png': .*No such file"):
        read_image(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"': .*directory"):
        read_image(tmp_path)


def test_too_large_a_picture_is_named(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="Cannot read the image: Image size"):
        decode_image(encode(make_picture(), "TIFF"))


def test_pictures_from_phones_are_not_passed_over(tmp_path) -> None:
    """HEIC needs a plugin of Pillow: it is found, so that it can be reported."""
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert list_files(tmp_path) == [tmp_path / "a.HEIC"]
    with pytest.raises(ValueError, match="a.HEIC': "):
        read_image(tmp_path / "a.HEIC")


def test_a_folder_without_images_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"has no images \(.avif, .bmp, .gif, .heic"):
        list_files(tmp_path)
    with pytest.raises(ValueError, match="`images` must exist. Received: '.*missing'"):
        list_files(tmp_path / "missing")
    assert image_files.SUFFIXES == sorted(image_files.SUFFIXES)
