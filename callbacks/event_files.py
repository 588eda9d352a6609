"""Read back the event files of an earlier, interrupted training."""

from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event


def find_last_step(run_dir: Path) -> int:
    """Return the last step that any event file of a run holds, -1 for none.

    A file whose end is torn off by an interruption is read up to there.
    """
    last = -1
    for path in sorted(run_dir.glob("*tfevents*")):
        try:
            for record in tf.data.TFRecordDataset(str(path)):
                event = Event.FromString(record.numpy())
                if event.HasField("summary"):
                    last = max(last, event.step)
        except tf.errors.DataLossError:
            continue
    return last
