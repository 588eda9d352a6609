"""explain_catalogue(): any number of images, on any number of machines, on Ray Data."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from keras_embcam._version import __version__
from keras_embcam.catalogue.actor import PartExplainer, Settings
from keras_embcam.catalogue.manifest import (
    hash_file,
    part_path,
    plan_parts,
    remove_unfinished,
)
from keras_embcam.catalogue.source import Part, Source, open_source
from keras_embcam.extras import import_extra
from keras_embcam.method import Method
from keras_embcam.running.image_files import check_image_size
from keras_embcam.running.preprocessing import get_preprocessing
from keras_embcam.weightings import WEIGHTINGS
from keras_embcam.whole_numbers import check_integer

# Retries for a part whose actor dies.
MAX_RETRIES = 3


class CatalogueCounts(NamedTuple):
    """What a finished catalogue holds.

    Attributes:
        num_images: rows, one for each image of the source.
        num_errors: rows with an `error`.
    """

    num_images: int
    num_errors: int


def explain_catalogue(
    model_path: str | Path,
    source: str | Path,
    output_folder: str | Path,
    *,
    format: Literal["images", "parquet", "tfrecord"] | None = None,
    num_actors: int = 1,
    num_gpus: float = 0,
    batch_size: int = 32,
    images_per_part: int = 256,
    conv_layer: str | None = None,
    embedding_layer: str | None = None,
    weighting: str = "auto",
    top_channels: int | None = None,
    preset: str | None = None,
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    preprocessing_function: str | Callable | None = None,
    image_size: tuple[int, int] | None = None,
    image_column: str = "image",
    id_column: str | None = None,
    box_column: str | None = None,
    bounding_box_format: str = "rel_yxyx",
) -> CatalogueCounts:
    """Explain a catalogue of images with a saved model, into a folder of Parquet files.

    Ray Data runs it, on the cluster that `ray.init` was called for, else on all cores
    of this machine: it hands the parts of the catalogue to actors, which each load the
    model once, and starts those that die again. On several machines the three paths
    must lie in a file system that all of them see.

    The folder can be read as one table (`pandas.read_parquet`, `ray.data`), with the
    columns

    =============  =============================================================
    ``id``         path of the image in `source`, its `id_column`, or
                   "FILE:NUMBER"
    ``embedding``  list of float32, raw
    ``box``        4 float32, "rel_xyxy": around the largest region above a fifth
                   of the maximum (`find_boxes`), in shares of the image, so also
                   of the original one; null for an empty map
    ``ratio``      share of the heat in the boxes of `box_column`; null without
    ``heatmap``    PNG, 8 bits, as large as the activations (larger where these
                   show a part of the image), divided by its maximum (some 100
                   bytes); `resize_heatmaps` brings it to the size of the image.
                   Box and ratio come from the exact map.
    ``error``      null, or why there is nothing else: one damaged image does not
                   end the run (in TFRecord, a damaged record hides all records
                   behind it in the file)
    =============  =============================================================

    A run that was killed goes on where it stopped when it is called again: the parts
    are listed in ``_manifest.json`` first, each is written under another name and
    renamed when it is complete, and those that are there are not touched again. One run
    at a time: what a second one in the same folder has begun would be removed.

    Args:
        model_path: a ``.keras`` file.
        source: a folder, searched through, or a file: images (JPEG, PNG, WebP, TIFF,
            ...), Parquet with encoded images in a binary column, or uncompressed
            TFRecord files of `tf.train.Example`. Large row groups in Parquet are read
            once for each part in them.
        output_folder: empty, or that of an earlier run of the same options.
        format: of `source`; None to tell from the names of the files.
        num_actors: how many processes explain at once; Ray reserves a core for each.
        num_gpus: how many GPUs each of them takes; at 0 Ray hides them all. Below 1,
            set TF_FORCE_GPU_ALLOW_GROWTH, or the first process takes all the memory.
        batch_size: images at a time, >= 1. May change from run to run.
        images_per_part: images in a file of the output, >= 1; what is lost of an
            actor's work when it dies. A TFRecord file is one part, however large.
        conv_layer: name or path of the layer to explain; None for the last convolution.
        embedding_layer: name or path of the layer that makes the embedding; None for
            the model's output.
        weighting: a name, such as "auto" or "layercam".
        top_channels: how many channels to keep; None for all.
        preset: a name that stands for layers and weighting, such as "localize"; boxes
            are then found by its rule.
        token_grid: (h, w) of the patches among a transformer's tokens; None to find it.
        num_prefix_tokens: tokens before the patches; None to find it.
        preprocessing_function: applied to images before the model: a name, such as
            "resnet50", "imagenet" or "0,1", or a function at the top of a module that
            the actors can import.
        image_size: (height, width) for a model of images of any size.
        image_column: of Parquet and TFRecord.
        id_column: strings or integers, in Parquet and TFRecord; null counts as
            "FILE:NUMBER".
        box_column: 4 numbers a box, in one list.
        bounding_box_format: of the boxes, as Keras names it; pixels are those of the
            image as viewers show it, turned by its EXIF data.

    Returns:
        A `CatalogueCounts`: how many images were explained, and how many not.

    Raises:
        ImportError: where Ray is missing.
        RuntimeError: for parts in which the process of an actor ends again and again;
            all others are finished first.
        ValueError: for paths, columns and options that do not fit, and for a folder
            whose catalogue has other options or inputs.

    Example (needs the extra `[ray]`)::

        explain_catalogue("birds.keras", "photographs", "explained", num_actors=4)
    """
    import_extra("ray.data", "ray", "explain_catalogue needs Ray Data")
    import ray

    model_path, folder = Path(model_path).absolute(), Path(output_folder).absolute()
    for name, value in (
        ("num_actors", num_actors),
        ("batch_size", batch_size),
        ("images_per_part", images_per_part),
    ):
        check_integer(name, value, 1)
    images_per_part = int(images_per_part)  # numpy's integers are not JSON
    if not model_path.is_file():
        raise ValueError(
            f"`model_path` must be a .keras file. Received: {str(model_path)!r}"
        )
    if not isinstance(weighting, str):  # written down, to be compared
        raise ValueError(
            f'`weighting` must be "auto" or one of {sorted(WEIGHTINGS)}. Received: '
            f"{weighting!r}"
        )
    method = Method(
        weighting=weighting,
        top_channels=top_channels,
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        preset=preset,
        resize=False,
        normalize=False,
        token_grid=token_grid,
        num_prefix_tokens=num_prefix_tokens,
    )
    image_size = check_image_size(image_size)
    root = Path(source).absolute()
    if folder.is_relative_to(root):
        raise ValueError(
            f"`output_folder` must not lie in `source`. Received: {str(folder)!r}"
        )
    opened = open_source(root, format, image_column, id_column, box_column)
    # All that the results depend on: a catalogue is only continued with the same.
    options = {
        "model": hash_file(model_path),
        "conv_layer": conv_layer,
        "embedding_layer": embedding_layer,
        "weighting": weighting,
        "top_channels": None if top_channels is None else int(top_channels),
        "preset": preset,
        "token_grid": method.token_grid,
        "num_prefix_tokens": method.num_prefix_tokens,
        "preprocessing_function": _name_function(preprocessing_function),
        "image_size": image_size,
        "bounding_box_format": bounding_box_format,
        "keras_embcam": __version__,
    }
    parts = plan_parts(folder, opened, options, images_per_part)
    settings = Settings(
        model_path,
        folder,
        batch_size,
        method,
        preprocessing_function,
        image_size,
        bounding_box_format,
    )
    missing = _find_missing(dict(enumerate(parts)), folder)
    if missing:
        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False)
        try:
            _explain_parts(missing, opened, settings, num_actors, num_gpus)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("The finished parts are kept: call it again to go on.")
            raise
        finally:
            if started:
                ray.shutdown()
    remove_unfinished(folder)
    return _count(folder)


def _explain_parts(
    parts: dict[int, Part],
    source: Source,
    settings: Settings,
    num_actors: int,
    num_gpus: float,
) -> None:
    import ray.data

    rows = [{"number": number, **part._asdict()} for number, part in parts.items()]
    # -1: all other parts are finished, however many fail.
    context = ray.data.DataContext.get_current()
    allowed, context.max_errored_blocks = context.max_errored_blocks, -1
    try:
        # Actors read the images themselves. A separate stage for reading would send all
        # images through Ray's memory, and never get a core where the actors hold all.
        reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartExplainer,
            fn_constructor_args=(source, settings),
            batch_size=1,
            batch_format="pyarrow",
            # One part at a time: one that ends the process takes those that wait there
            # with it.
            compute=ray.data.ActorPoolStrategy(
                size=num_actors, max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
            num_gpus=num_gpus,
            # Ray's default is to retry for ever a part that kills its process.
            max_task_retries=MAX_RETRIES,
        )
        for report in reports.iter_rows():
            if report["problem"] is not None:
                raise ValueError(report["problem"])
    finally:
        context.max_errored_blocks = allowed
    missing = list(_find_missing(parts, settings.output_folder))
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(parts)} parts could not be finished: the process "
            f"of their actor ended {1 + MAX_RETRIES} times. Memory may be short (lower "
            "`batch_size`, `num_actors` or `images_per_part`), or an image damages it; "
            f"the first of these parts is of {parts[missing[0]].files[:10]}. The "
            "others are there, and another call tries the missing ones again."
        )


def _find_missing(parts: dict[int, Part], folder: Path) -> dict[int, Part]:
    """Return the parts that have no file yet."""
    return {x: part for x, part in parts.items() if not part_path(folder, x).exists()}


def _count(folder: Path) -> CatalogueCounts:
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(folder, format="parquet")
    if not table.count_rows():
        raise ValueError("`source` must hold images. It holds none.")
    failed = pyarrow.dataset.field("error").is_valid()
    return CatalogueCounts(table.count_rows(), table.count_rows(filter=failed))


def _name_function(function: str | Callable | None) -> str | None:
    """Return the name that the manifest knows a function by."""
    if function is None or isinstance(function, str):
        get_preprocessing(function)  # raises for an unknown name
        return function
    name = getattr(function, "__qualname__", "<>")
    if "<" in name:  # "<lambda>", "make.<locals>.function"
        raise ValueError(
            "`preprocessing_function` must be a function at the top of a module: the "
            "manifest knows it by its name, and a lambda, partial or inner function "
            f"has none. Received: {function!r}"
        )
    return f"{function.__module__}.{name}"
