"""TensorBoard event files with scalars, GIF videos and text; no TensorFlow needed."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from dreamerv2.common.logger.logger import Entry, Output
from dreamerv2.common.video import encode

EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoardOutput(Output):
    """Writes entries to an event file in ``logdir``.

    A directory that is full or cannot be written never stops training: the error is reported once,
    the entries are lost, and every later write tries again with a new file. TensorBoard hides
    events that an earlier process logged beyond `start_step` (in frames; None hides nothing).
    """

    def __init__(self, logdir: str | os.PathLike, start_step: int | None = None):
        self._logdir, self._start_step = Path(logdir), start_step
        self._path: Path | None = None
        self._reported = False
        self._thread = ThreadPoolExecutor(1)  # A GIF of 3,000 frames takes a second to encode.
        self._pending: list[Future] = []

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Append the entries of a step, in environment frames, soon after this returns."""
        self._pending.append(self._thread.submit(self._write, step, entries))

    def flush(self) -> None:
        """Return when all entries are in the file."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """Flush, and end the thread."""
        with self._thread:
            self.flush()

    def _write(self, step: int, entries: Sequence[Entry]) -> None:
        summary = summary_pb2.Summary(value=[_value(*entry) for entry in entries])
        try:
            if self._path is None:
                self._path = self._start_file()
            _append(self._path, event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
        except OSError as error:
            self._path = None
            if not self._reported:
                self._report(error)

    def _start_file(self) -> Path:
        self._logdir.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # Readers sort files by name, so numbers must grow even if the clock was set back.
        matches = [EVENT_FILE.match(path.name) for path in self._logdir.iterdir()]
        number = max([int(now), *(int(match[1]) + 1 for match in matches if match)])
        name = f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}"
        events = [event_pb2.Event(wall_time=now, file_version="brain.Event:2")]
        if self._start_step is not None:
            # TensorBoard hides events of earlier files from the step of this mark onwards.
            mark = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            events += [event_pb2.Event(wall_time=now, step=self._start_step + 1, session_log=mark)]
        _append(self._logdir / name, *events)
        self._start_step = None
        return self._logdir / name

    def _report(self, error: OSError) -> None:
        self._reported = True
        with contextlib.suppress(OSError):  # Standard output may be on the same full disk.
            print(
                f"Warning: cannot write TensorBoard events to {self._logdir} "
                f"({error.strerror or error}); training goes on without them.",
                flush=True,
            )


def _append(path: Path, *events: event_pb2.Event) -> None:
    """Write all records or none, since a reader stops at a partial record."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())
    except OSError:
        if size:
            os.truncate(path, size)
        else:  # Otherwise a full disk collects an empty file with every try.
            path.unlink(missing_ok=True)
        raise


def _value(kind: str, name: str, value: Any) -> summary_pb2.Summary.Value:
    if kind == "scalar":
        return summary_pb2.Summary.Value(tag=name, simple_value=float(value))
    if kind == "text":
        # The text tab renders Markdown; a fence keeps line breaks and indentation.
        return text_pb(name, f"```\n{value.rstrip()}\n```").value[0]
    size = dict(zip(("height", "width", "colorspace"), value.shape[-3:]))
    image = summary_pb2.Summary.Image(**size, encoded_image_string=encode.encode_gif(value))
    return summary_pb2.Summary.Value(tag=name, image=image)
