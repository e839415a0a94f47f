"""TensorBoard's events, written when they are made: its own writer does so in a thread, whose failure on a
full disk nobody but that thread would be told of."""

import os
import socket
import time
from pathlib import Path


class EventWriter:
    """A file of scalars in `folder`. What other files there say of later steps than `step` is withdrawn.

    Raises OSError where the disk refuses.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
