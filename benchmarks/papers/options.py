"""What a run of the benchmark is asked to do."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.papers.training import check_backbone

FRAMINGS = ("full_frame", "centre_crop")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``python -m benchmarks.papers``.

    Args:
        data: folder in the layout of CUB-200-2011, see `keras_embcam.datasets.cub200`.
        out: folder for the tables, plots and trained models.
        weights: of the backbone without top, to start from; None for random ones.
        backbone: name of a function of `keras.applications`.
        model: a saved model to measure, in place of a training.
        epochs: to train, >= 0.
        runs: trainings, each with a seed of its own, >= 1.
        seed: of the first run, >= 0.
        limit: images of each half, >= 4, for a trial; None for all.
        framing: "full_frame" or "centre_crop".
        image_size: height and width, >= 32.
        faithfulness_images: to measure faithfulness on, >= 0.

    Raises:
        ValueError: for what does not fit, or files that are not there.

    Example:

    >>> Options(data=Path("nowhere"))
    Traceback (most recent call last):
    ValueError: There is no file or folder 'nowhere' (`data`). Pass one that exists.
    """

    data: Path
    out: Path = Path("embcam_benchmark")
    weights: Path | None = None
    backbone: str = "ResNet50"
    model: Path | None = None
    epochs: int = 8
    runs: int = 1
    seed: int = 0
    limit: int | None = None
    framing: str = "full_frame"
    image_size: int = 224
    faithfulness_images: int = 8

    def __post_init__(self) -> None:
        for name in ("data", "weights", "model"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise ValueError(
                    f"There is no file or folder {str(path)!r} (`{name}`). Pass one "
                    "that exists."
                )
        least = {"epochs": 0, "runs": 1, "seed": 0, "limit": 4, "image_size": 32}
        for name, bound in (least | {"faithfulness_images": 0}).items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(
                    f"`{name}` must be at least {bound}. Received: {value!r}"
                )
        if self.framing not in FRAMINGS:
            raise ValueError(
                f"`framing` must be one of {FRAMINGS}. Received: {self.framing!r}"
            )
        if self.model is None:
            check_backbone(self.backbone)
        elif self.weights is not None or self.runs > 1:
            raise ValueError(
                "`model` is measured as it is: leave out `weights` and `runs`, which "
                f"are for trainings. Received: weights={self.weights}, runs={self.runs}"
            )

    def describe(self) -> dict[str, Any]:
        """Return the options for a table: files by their name alone."""
        found = asdict(self)
        del found["out"]
        return {k: v.name if isinstance(v, Path) else v for k, v in found.items()}

    def command(self) -> str:
        """Return the command line, files by their name alone."""
        words = ["python -m benchmarks.papers"]
        for name, value in self.describe().items():
            default = type(self).__dataclass_fields__[name].default
            if name == "data" or value != default:
                words.append(f"--{name.replace('_', '-')} {value}")
        return " ".join(words)
