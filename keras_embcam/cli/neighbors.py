"""The command ``embcam neighbors``: why a search returned what it did."""

import argparse
from pathlib import Path
from typing import Any

from keras_embcam.cli.model_file import check_model_file, load_model
from keras_embcam.cli.preprocessing_options import add_preprocessing, preprocessing_of
from keras_embcam.cli.token_options import add_token_options, token_options_of


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    neighbors = commands.add_parser(
        "neighbors",
        help="show why a search returned what it did",
        description="Search a folder of images with a saved model, and write a picture "
        "for each query: its matches, the heat on both sides, and which part matched "
        "which. Where the gallery has a folder for each class, right matches are "
        "framed green and wrong ones red.",
    )
    neighbors.set_defaults(check=check, run=run)
    neighbors.add_argument("model", metavar="MODEL.keras", type=Path)
    neighbors.add_argument(
        "gallery", metavar="GALLERY", type=Path, help="a folder that is searched"
    )
    neighbors.add_argument(
        "--query",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="files or folders; default: each image of the gallery",
    )
    neighbors.add_argument("--k", type=int, default=5, help="matches to show")
    neighbors.add_argument(
        "--only-errors",
        action="store_true",
        help="only queries whose first match is wrong",
    )
    neighbors.add_argument(
        "--search", choices=("exact", "faiss"), default="exact", help="default: exact"
    )
    neighbors.add_argument("--conv-layer", help="default: the last convolution")
    neighbors.add_argument("--embedding-layer", help="default: the model's output")
    add_token_options(neighbors)
    add_preprocessing(neighbors)
    neighbors.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for a model of images of any size",
    )
    neighbors.add_argument("--batch-size", type=int, default=32)
    neighbors.add_argument(
        "--strict", action="store_true", help="stop at an image that cannot be read"
    )
    neighbors.add_argument(
        "--out", type=Path, default=Path("neighbors"), metavar="FOLDER"
    )


def check(options: argparse.Namespace) -> None:
    """Check that the files are there."""
    check_model_file(options.model)
    for path in (options.gallery, *(options.query or ())):
        if not path.exists():
            raise ValueError(f"`images` must exist. Received: {str(path)!r}")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import tensorflow as tf

    from keras_embcam.retrieval import explain_neighbors
    from keras_embcam.running.image_files import list_files

    gallery = list_files(options.gallery)
    queries = gallery
    if options.query is not None:
        queries = [path for given in options.query for path in list_files(given)]
    labels, gallery_labels, reason = _read_labels(options.gallery, queries, gallery)
    if reason:
        print(f"Without classes: {reason}")
    if options.only_errors and labels is None:
        raise ValueError(
            "--only-errors needs classes: a gallery with a folder for each, and "
            f"queries in folders of the same names. {reason}".rstrip()
        )
    model = load_model(options.model)
    found = explain_neighbors(
        model,
        queries,
        gallery,
        k=options.k,
        labels=labels,
        gallery_labels=gallery_labels,
        search=options.search,
        only_errors=options.only_errors,
        conv_layer=options.conv_layer,
        embedding_layer=options.embedding_layer,
        **token_options_of(options),
        preprocessing_function=preprocessing_of(options),
        image_size=options.image_size,
        strict=options.strict,
        batch_size=options.batch_size,
        verbose=1,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    captions = [
        [_name(gallery[i], gallery_labels) for i in row] for row in found.indices
    ]
    for row, picture in enumerate(found.draw(captions=captions)):
        query = int(found.queries[row])
        path = options.out / f"{query:04d}_{queries[query].stem}_neighbors.png"
        tf.io.write_file(str(path), tf.io.encode_png(picture))
        print(f"{path}: {_describe(found, row)}")
    print(_summarize(found, options))


def _read_labels(
    folder: Path, queries: list[Path], gallery: list[Path]
) -> tuple[list[str] | None, list[str] | None, str]:
    """Return the names of the folders of queries and gallery where they are classes.

    Else why they are not, for a gallery that has folders.
    """
    classes = {path.parent.name for path in gallery}
    stray = [path for path in gallery if path.parent == folder]
    others = [path for path in queries if path.parent.name not in classes]
    reason = ""
    if stray and len(stray) < len(gallery):
        reason = (
            f"images must lie in folders, one for each class, and {len(stray)} of "
            f"{len(gallery)} lie beside these ({stray[0]}). Move them."
        )
    elif stray:
        return None, None, ""
    elif len(classes) == 1:
        reason = (
            "images must lie directly in folders named by their classes, and all lie "
            f"in folders of the name {classes.pop()!r} ({gallery[0]}). Move them."
        )
    elif others:
        reason = (
            "queries must lie in folders named like the gallery's, and "
            f"{others[0].parent.name!r} is none of them ({others[0]})."
        )
    if reason:
        return None, None, reason
    return [x.parent.name for x in queries], [x.parent.name for x in gallery], ""


def _name(path: Path, labels: list[str] | None) -> str:
    return path.stem if labels is None else path.parent.name


def _summarize(found: Any, options: argparse.Namespace) -> str:
    """Say how many pictures were written, and how many first matches are right."""
    num_queries = len(found.queries)
    if options.only_errors:
        return f"{num_queries} queries with a wrong first match: see {options.out}"
    right = ""
    if found.is_right is not None:
        # Like Recall@1: who has nothing to find is no query.
        can_be_right = found.best_right >= 0
        num_right = found.is_right[can_be_right, 0].sum()
        right = (
            f", the first match right for {num_right} of the {can_be_right.sum()} "
            "whose class has another image (copies of a query do not count)"
        )
    return f"{num_queries} queries{right}: see {options.out}"


def _describe(found: Any, row: int) -> str:
    """Return the similarities of a query's matches, and which of them are right."""
    words = []
    for number, similarity in enumerate(found.similarities[row]):
        mark = ""
        if found.is_right is not None:
            mark = " right" if found.is_right[row, number] else " wrong"
        words.append(f"{similarity:.2f}{mark}")
    return ", ".join(words)
