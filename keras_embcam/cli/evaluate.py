"""The command ``embcam evaluate``: which explanation of a saved model to trust."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from keras_embcam.cli.model_file import check_model_file, load_model
from keras_embcam.cli.preprocessing_options import add_preprocessing, preprocessing_of
from keras_embcam.cli.token_options import add_token_options, token_options_of

SPLITS = ("all", "first_half", "second_half", "official_train", "official_test")
DISJOINT_SPLITS = (
    {"first_half", "second_half"},
    {"official_train", "official_test"},
)
FRAMINGS = {
    "full_frame": "full frame",
    "centre_crop": "resize and centre crop",
}


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    evaluate = commands.add_parser(
        "evaluate",
        help="compare methods of explanation on labelled images",
        description="Compare methods of explanation of a saved model on a set of "
        "images: where the heat is, localisation, faithfulness and cost.",
    )
    evaluate.set_defaults(run=run)
    evaluate.add_argument(
        "models",
        metavar="MODEL.keras",
        type=Path,
        nargs="+",
        help="several: a row for each model and method",
    )
    evaluate.add_argument(
        "--average",
        action="store_true",
        help="means and deviations over the models, which must be trainings of one "
        "architecture, such as with other seeds",
    )
    images = evaluate.add_mutually_exclusive_group(required=True)
    images.add_argument(
        "--cub",
        type=Path,
        metavar="FOLDER",
        help="in the layout of CUB-200-2011, with boxes and perhaps segmentations",
    )
    images.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="files or folders, whose folders are their classes; needs --faithfulness",
    )
    evaluate.add_argument("--split", choices=SPLITS, default="second_half")
    evaluate.add_argument(
        "--calibration-split",
        choices=SPLITS,
        help="choose the thresholds of MaxBoxAcc there; default: on the set itself",
    )
    evaluate.add_argument(
        "--methods", metavar="NAME,NAME", help="default: a few, and baselines"
    )
    evaluate.add_argument("--framing", choices=FRAMINGS, default="full_frame")
    evaluate.add_argument(
        "--image-size", type=int, help="default: what the model states, else 224"
    )
    evaluate.add_argument(
        "--faithfulness",
        type=int,
        default=0,
        metavar="N",
        help="measure faithfulness on N images; hundreds of runs of the model for each",
    )
    evaluate.add_argument(
        "--sensitivity",
        action="store_true",
        help="draw the heatmap ratio by the number of top channels too",
    )
    evaluate.add_argument(
        "--context-ratio",
        action="store_true",
        help="measure Recall@1 with the object and with everything else covered too",
    )
    evaluate.add_argument("--conv-layer", help="default: the last convolution")
    evaluate.add_argument("--embedding-layer", help="default: the model's output")
    add_token_options(evaluate)
    add_preprocessing(evaluate)
    evaluate.add_argument("--batch-size", type=int, default=32)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--strict", action="store_true", help="stop at an image that cannot be read"
    )
    evaluate.add_argument("--out", type=Path, metavar="FOLDER", help="for the files")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.evaluation import (
        DEFAULT_METHODS,
        average_reports,
        get_methods,
        join_reports,
    )
    from keras_embcam.evaluation.correlation import check_scipy
    from keras_embcam.evaluation.several_models import (
        check_architectures,
        describe_architecture,
    )
    from keras_embcam.showing import check_matplotlib

    for path in options.models:
        check_model_file(path)
    needs_boxes = {
        "--calibration-split": options.calibration_split,
        "--sensitivity": options.sensitivity,
        "--context-ratio": options.context_ratio,
    }
    if options.cub is None and any(needs_boxes.values()):
        given = [name for name, value in needs_boxes.items() if value]
        raise ValueError(
            "--calibration-split, --sensitivity and --context-ratio are for --cub, "
            f"which has boxes. Received --images together with {', '.join(given)}"
        )
    splits = {options.split, options.calibration_split}
    if options.calibration_split and splits not in DISJOINT_SPLITS:
        raise ValueError(
            "--calibration-split must have no images of --split: take the two halves, "
            "or the two official ones. Received: "
            f"{options.calibration_split!r} for {options.split!r}"
        )
    methods: Any = DEFAULT_METHODS
    if options.methods is not None:
        methods = [name.strip() for name in options.methods.split(",")]
    found = get_methods(methods)  # for its errors, before models are loaded
    tokens = token_options_of(options)
    if any(x is not None for x in tokens.values()):
        methods = [dataclasses.replace(x, **tokens) for x in found]
    if options.sensitivity and not _list_channel_weightings(methods):
        raise ValueError("--sensitivity needs a method that weighs channels.")
    if options.faithfulness:
        check_scipy()
    if options.out is not None:
        check_matplotlib()
    names = [path.name for path in options.models]
    if len(set(names)) < len(names):
        names = [str(path) for path in options.models]
    if len(set(names)) < len(names):
        raise ValueError(f"Each model must be named once. Received: {names}")
    if options.average:
        loaded = (load_model(x) for x in options.models)
        check_architectures(names, [describe_architecture(x) for x in loaded])
    reports = [
        _evaluate(load_model(path), name, methods, options)
        for path, name in zip(options.models, names, strict=True)
    ]
    if len(reports) == 1:
        [report] = reports
    else:
        report = average_reports(reports) if options.average else join_reports(reports)
    print(report)
    if options.out is not None:
        for path in report.save(options.out):
            print(path)


def _evaluate(model: Any, name: str, methods: Any, options: argparse.Namespace) -> Any:
    """Return the report on one model."""
    from keras_embcam.evaluation import evaluate, sensitivity_to_channels

    common = {
        "conv_layer": options.conv_layer,
        "embedding_layer": options.embedding_layer,
        "preprocessing_function": preprocessing_of(options),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "strict": options.strict,
    }
    examples = _open(options, model, options.split)
    calibration = None
    if options.calibration_split:
        calibration = _open(options, model, options.calibration_split)
    report = evaluate(
        model,
        examples,
        methods,
        calibration_examples=calibration,
        faithfulness_images=options.faithfulness,
        context_ratio=options.context_ratio,
        name=name,
        framing=FRAMINGS[options.framing],
        **common,
    )
    report.settings["images from"] = _describe(options)
    if options.sensitivity:
        names = _list_channel_weightings(methods)
        report.curves |= sensitivity_to_channels(model, examples, names, **common)
    return report


def _list_channel_weightings(methods: Any) -> list[str]:
    from keras_embcam.evaluation import get_methods

    # The activation sum, which has no proxy, weighs all channels alike.
    return [x.name for x in get_methods(methods) if x.has_proxy and not x.preset]


def _open(options: argparse.Namespace, model: Any, split: str) -> Any:
    """Return the examples as a `tf.data.Dataset`, not batched."""
    from keras_embcam.datasets import cub200
    from keras_embcam.running.image_files import list_files

    size = _image_size(options, model)
    if options.cub is not None:
        return cub200(
            options.cub,
            split=split,
            image_size=size,
            framing=options.framing,
            segmentations=(options.cub / "segmentations").is_dir(),
        )
    paths = [path for given in options.images for path in list_files(given)]
    return _read_files(paths, size, options.framing)


def _image_size(options: argparse.Namespace, model: Any) -> Any:
    from keras_embcam.network.inputs import declared_images

    if options.image_size is not None:
        return options.image_size
    declared = declared_images(model)
    size = (None, None) if declared is None else tuple(declared.shape[1:3])
    return 224 if None in size else size


def _read_files(paths: list[Path], size: Any, framing: str) -> Any:
    """Return a dataset of image files, labelled by their folders if there are two."""
    import numpy as np
    import tensorflow as tf

    from keras_embcam.datasets.framing import check_frame, frame_example
    from keras_embcam.running.image_files import read_image

    folders = sorted({path.parent for path in paths})
    table: dict[str, Any] = {"path": [str(path) for path in paths]}
    if len(folders) > 1:
        labels = [folders.index(path.parent) for path in paths]
        table["label"] = np.array(labels, "int32")
    frame = check_frame(size, framing)

    def read(path: Any) -> Any:
        return read_image(Path(path.numpy().decode())).astype("uint8")

    def load(row: dict[str, Any]) -> dict[str, Any]:
        image = tf.py_function(read, [row.pop("path")], tf.uint8)
        image.set_shape((None, None, 3))
        return frame_example({"image": image, **row}, frame, framing)

    dataset = tf.data.Dataset.from_tensor_slices(table)
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def _describe(options: argparse.Namespace) -> str:
    if options.cub is not None:
        return f"{options.cub.name}, split {options.split}"
    return ", ".join(path.name for path in options.images)
