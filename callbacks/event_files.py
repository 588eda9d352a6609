"""The folder of the logs, and what an earlier, interrupted training left there."""

import os
import re
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

# The tag of the text that a logger writes first, in the run `validation`.
TEXT_TAG = "embedding_cam_logger"


def check_log_dir(log_dir: str | os.PathLike) -> str:
    """Return the folder of the logs as text.

    Raises:
        ValueError: for a `pathlib.Path` of an address such as "gs://bucket/logs", of
            which pathlib has dropped a slash.
    """
    text = os.fspath(log_dir)
    if isinstance(log_dir, Path) and re.match(r"\w{2,}:/", text):
        raise ValueError(
            "`log_dir` must be a string where it is no folder of this machine: pathlib "
            f"makes {text!r} of it. Received: {log_dir!r}"
        )
    return text


def holds_a_run(run_dir: str) -> bool:
    """Tell whether a logger wrote into the folder of a run before.

    Args:
        run_dir: any path that `tf.io.gfile` knows.
    """
    return any(
        value.tag == TEXT_TAG
        for path in tf.io.gfile.glob(tf.io.gfile.join(run_dir, "*tfevents*"))
        # The text is the first that a logger writes, behind the file's version.
        for record in tf.data.TFRecordDataset(path).take(2).ignore_errors()
        for value in Event.FromString(record.numpy()).summary.value
    )


def find_last_step(run_dir: str) -> int:
    """Return the last step that any event file of a run holds, -1 for none.

    A file whose end is torn off by an interruption is read up to there.

    Args:
        run_dir: any path that `tf.io.gfile` knows.
    """
    last = -1
    for path in sorted(tf.io.gfile.glob(tf.io.gfile.join(run_dir, "*tfevents*"))):
        try:
            for record in tf.data.TFRecordDataset(path):
                event = Event.FromString(record.numpy())
                if event.HasField("summary"):
                    last = max(last, event.step)
        except tf.errors.DataLossError:
            continue
    return last
