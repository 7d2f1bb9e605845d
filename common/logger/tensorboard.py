"""TensorBoard event files with scalars, GIF videos and text; no TensorFlow needed."""

import contextlib
import io
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from dreamerv2.common.logger.logger import Entry
from dreamerv2.common.video import encode

EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoardOutput:
    """Writes entries to an event file in ``logdir``, in a background thread.

    Encoding a video takes tens of milliseconds, so training does not wait for it. Entries keep
    their order; ``flush`` and ``close`` wait until all are on file. A directory that is full or
    cannot be written never stops training: the error is reported once, the entries are lost, and
    every later write tries again with a new file.

    Args:
        logdir: folder of the event files; created on the first write.
        start_step: frames at which the run (re)starts. TensorBoard then hides what an earlier
            process logged beyond it. None hides nothing.
    """

    def __init__(self, logdir: str | os.PathLike, start_step: int | None = None):
        self._logdir = Path(logdir)
        self._start_step = start_step
        self._file: BinaryIO | None = None
        self._reported = False
        self._failure: BaseException | None = None
        # Bounded: if the disk is slower than training, training waits and memory does not grow.
        self._queue: queue.Queue = queue.Queue(maxsize=16)
        self._thread = threading.Thread(target=self._work, name="tensorboard", daemon=True)
        self._thread.start()

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Queue entries for ``step``, in environment frames.

        Raises the error of an earlier write in the thread, unless it was an error of the disk.
        """
        self._raise_failure()
        self._queue.put((step, time.time(), list(entries)))

    def flush(self) -> None:
        """Wait until all queued entries are on file."""
        self._queue.join()
        self._raise_failure()

    def close(self) -> None:
        """Write queued entries, end the thread, close the file; may be called twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        file, self._file = self._file, None
        if file:
            file.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._write(*job)
            except OSError as error:
                self._report(error)
            except Exception as error:  # A bug: raised again in the caller's thread.
                self._failure = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, step: int, wall_time: float, entries: Sequence[Entry]) -> None:
        values = [_value(*entry) for entry in entries]
        summary = summary_pb2.Summary(value=values)
        event = event_pb2.Event(step=step, wall_time=wall_time, summary=summary)
        if self._file is None:
            self._open_file(wall_time)
        self._append([event])

    def _open_file(self, wall_time: float) -> None:
        self._logdir.mkdir(parents=True, exist_ok=True)
        # Readers sort files by name, so numbers must grow even if the clock was set back.
        number = max(int(wall_time), _newest(self._logdir) + 1)
        name = f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}"
        path = self._logdir / name
        self._file = open(path, "xb", buffering=0)
        events = [event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2")]
        if self._start_step is not None:
            # TensorBoard hides events of earlier files from the step of this mark onwards.
            mark = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            step = self._start_step + 1
            events.append(event_pb2.Event(wall_time=wall_time, step=step, session_log=mark))
        try:
            self._append(events)
        except OSError:
            path.unlink()  # Otherwise a full disk collects an empty file with every try.
            raise
        self._start_step = None

    def _append(self, events: Sequence[event_pb2.Event]) -> None:
        """Write all records or none, since a reader stops at a partial record."""
        buffer = io.BytesIO()
        for event in events:
            RecordWriter(buffer).write(event.SerializeToString())
        start = self._file.tell()
        rest = memoryview(buffer.getvalue())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.closing(self._file):
                file, self._file = self._file, None
                file.truncate(start)
            raise

    def _report(self, error: OSError) -> None:
        reported, self._reported = self._reported, True
        if reported:
            return
        with contextlib.suppress(OSError):  # Standard output may be on the same full disk.
            print(
                f"Warning: cannot write TensorBoard events to {self._logdir} "
                f"({error.strerror or error}); training goes on without them.",
                flush=True,
            )


def _newest(logdir: Path) -> int:
    """Return the largest number of an event file; -1 if there is none."""
    matches = [EVENT_FILE.match(path.name) for path in logdir.iterdir()]
    return max((int(match[1]) for match in matches if match), default=-1)


def _value(kind: str, name: str, value: Any) -> summary_pb2.Summary.Value:
    if kind == "scalar":
        return summary_pb2.Summary.Value(tag=name, simple_value=float(value))
    if kind == "text":
        return _text(name, value)
    height, width, channels = value.shape[-3:]
    gif = encode.encode_gif(value)
    image = summary_pb2.Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=gif
    )
    return summary_pb2.Summary.Value(tag=name, image=image)


def _text(name: str, text: str) -> summary_pb2.Summary.Value:
    # The text tab renders Markdown; a fence keeps line breaks and indentation.
    fenced = f"```\n{text.rstrip()}\n```"
    shape = tensor_shape_pb2.TensorShapeProto()
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=[fenced.encode()]
    )
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    return summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=metadata)
