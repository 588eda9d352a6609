"""Read what the logger wrote for the tab, through any of TensorBoard's providers."""

from collections.abc import Collection
from typing import Any

from tensorboard import errors
from tensorboard.data import provider

from keras_embcam.tab_format import EXAMPLES_TAG, PARTS, PLUGIN_NAME, UPDATES_TAG

_ALL_STEPS = 1_000_000


def drop_overwritten(multiplexer: Any) -> None:
    """Keep the newest training where several wrote the same steps into one folder.

    What was written before a step that is not higher goes, as TensorBoard's data server
    drops it; the loader in Python hands out the oldest.

    Args:
        multiplexer: of TensorBoard's loader in Python, with what it has loaded.
    """
    for run, tags in multiplexer.PluginRunToTagToContent(PLUGIN_NAME).items():
        for tag in tags:
            lowest, kept = _ALL_STEPS * _ALL_STEPS, set()
            events = multiplexer.Tensors(run, tag)
            for event in sorted(events, key=lambda x: x.wall_time)[::-1]:
                if event.step < lowest:
                    lowest = event.step
                    kept.add(id(event))
            if len(kept) < len(events):
                series = multiplexer.GetAccumulator(run).tensors_by_tag[tag]
                series.FilterItems(lambda event, kept=kept: id(event) in kept)


class LogReader:
    """Runs, steps and blobs of the tab.

    Args:
        data_provider: of TensorBoard, with or without fast loading.
        context: of a request, or a new one.
        experiment: as a request names it; local logs have none.
    """

    def __init__(self, data_provider: Any, context: Any, experiment: str = "") -> None:
        self._provider = data_provider
        self._context = context
        self._experiment = experiment

    def list_runs(self) -> dict[str, dict[str, list]]:
        """Return for each run the steps of its examples and (step, time) of updates."""
        return {
            run: {
                "examples": [datum.step for datum in tags.get(EXAMPLES_TAG, [])],
                "updates": [
                    [datum.step, datum.wall_time] for datum in tags.get(UPDATES_TAG, [])
                ],
            }
            for run, tags in sorted(self._read(None, None).items())
        }

    def read(
        self, run: str, tag: str, part: str, steps: Collection[int] | None = None
    ) -> list[tuple[int, bytes]]:
        """Return (step, blob) of the steps that are there.

        Args:
            run: its name.
            tag: `EXAMPLES_TAG` or `UPDATES_TAG`.
            part: which of the tag's blobs, by name.
            steps: None for all.

        Raises:
            NotFoundError: for an unknown run, tag or part.
        """
        if part not in PARTS.get(tag, ()):
            raise errors.NotFoundError(f"There is no {part!r} in {tag!r}")
        series = self._read([run], [tag]).get(run, {}).get(tag)
        if series is None:
            raise errors.NotFoundError(f"There is no {tag!r} in the run {run!r}")
        number = PARTS[tag].index(part)
        return [
            (datum.step, self._read_blob(datum.values[number].blob_key))
            for datum in series
            if (steps is None or datum.step in steps) and len(datum.values) > number
        ]

    def _read(self, runs: Any, tags: Any) -> dict[str, dict[str, list]]:
        return self._provider.read_blob_sequences(
            self._context,
            experiment_id=self._experiment,
            plugin_name=PLUGIN_NAME,
            downsample=_ALL_STEPS,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=tags),
        )

    def _read_blob(self, blob_key: str) -> bytes:
        return bytes(self._provider.read_blob(self._context, blob_key=blob_key))
