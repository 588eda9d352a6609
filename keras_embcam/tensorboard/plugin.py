"""The server part of the tab: lists runs, hands out blobs and the page's files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from keras_embcam.tab_format import PLUGIN_NAME, VERSION, join
from keras_embcam.tensorboard.log_reader import LogReader, drop_overwritten

STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


class EmbCAMPlugin(base_plugin.TBPlugin):
    """Serve the tab under ``/data/plugin/embcam``.

    ==================  ================================================================
    route               answer
    ==================  ================================================================
    ``/runs``           JSON: the version, and the steps of each run
    ``/blobs``          blobs of `run`, `tag` and `part`, as `tab_format.join` puts
                        them together, at the `steps` "0,1,2", or at all
    ``/index.js`` ..    the files of the page, by name
    ==================  ================================================================

    Args:
        context: of TensorBoard.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._data_provider = context.data_provider
        self._multiplexer = context.multiplexer  # None with fast loading

    def get_plugin_apps(self) -> dict[str, Callable]:
        """Return the routes. Files are listed, not looked up by a path from outside."""
        files = sorted(x for x in STATIC.iterdir() if x.suffix in _TYPES)
        answers: dict[str, Callable[[wrappers.Request], Any]] = {
            "/runs": self.serve_runs,
            "/blobs": self.serve_blobs,
            **{f"/{file.name}": partial(_serve_file, file) for file in files},
        }
        wrap = wrappers.Request.application
        return {route: wrap(answer) for route, answer in answers.items()}

    def is_active(self) -> bool:
        """Tell that there is no data: TensorBoard asks only where it found none."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return how the tab is shown."""
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="EmbeddingCAM"
        )

    def serve_runs(self, request: wrappers.Request) -> wrappers.Response:
        """Serve what there is."""
        if self._multiplexer is not None:
            drop_overwritten(self._multiplexer)
        runs = self._open(request).list_runs()
        content = {"version": VERSION, "runs": runs}
        return http_util.Respond(request, content, "application/json")

    def serve_blobs(self, request: wrappers.Request) -> wrappers.Response:
        """Serve blobs, or say in plain text why not."""
        try:
            run, tag, part = (request.args[key] for key in ("run", "tag", "part"))
            steps = request.args.get("steps")
            numbers = None if steps is None else {int(x) for x in steps.split(",")}
        except (KeyError, ValueError):
            rule = 'Pass run, tag and part; steps as "0,1,2" or not at all.'
            return http_util.Respond(request, rule, "text/plain", code=400)
        try:
            found = self._open(request).read(run, tag, part, numbers)
        except (errors.NotFoundError, KeyError, IndexError) as error:
            return http_util.Respond(request, str(error), "text/plain", code=404)
        return http_util.Respond(request, join(found), "application/octet-stream")

    def _open(self, request: wrappers.Request) -> LogReader:
        return LogReader(
            self._data_provider,
            plugin_util.context(request.environ),
            plugin_util.experiment_id(request.environ),
        )


def _serve_file(file: Path, request: wrappers.Request) -> wrappers.Response:
    return http_util.Respond(request, file.read_bytes(), _TYPES[file.suffix])


class EmbCAMLoader(base_plugin.TBLoader):
    """Loads the plugin, and makes TensorBoard keep all steps of its data."""

    def fix_flags(self, flags: Any) -> None:
        """Keep all steps, unless the user asks for a number of them."""
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(PLUGIN_NAME, 0)

    def load(self, context: base_plugin.TBContext) -> EmbCAMPlugin:
        """Return the plugin."""
        return EmbCAMPlugin(context)
