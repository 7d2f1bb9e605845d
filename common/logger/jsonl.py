"""metrics.jsonl: one JSON object a line and a line a step, also after a crash."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.errors import cannot_write
from dreamerv2.common.files import replacing
from dreamerv2.common.logger.logger import Entry

FILENAME = "metrics.jsonl"


class JSONLOutput:
    """Writes ``{"step": frames, name: value, ...}`` to ``LOGDIR/metrics.jsonl``.

    A step has one line, which is replaced when the step is written again; a name logged several
    times at one step (the returns of several episodes) becomes the mean. Every line is in the file
    when ``write`` returns. NaN and infinity are written as null, which pandas reads as NaN.

    The constructor repairs the file: it drops lines that are no JSON object with a step (a process
    was killed, a disk was full), and values at steps that do not increase.

    Args:
        logdir: folder of the file; created if missing.
        start_step: environment frames of the checkpoint the run continues from (0 for none);
            later lines are cut, because the run will write them again. None keeps them.

    Raises:
        UserError: the file cannot be read or written, now or in a later call.
    """

    def __init__(self, logdir: str | os.PathLike, start_step: int | None = None):
        self._path = Path(logdir) / FILENAME
        self._fd: int | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            repair(self._path, start_step)
            # Not in append mode, because the last line is replaced in place.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            self._line = _last_line(self._fd)
        except OSError as error:
            self.close()
            raise cannot_write(self._path, error) from error
        self._offset = os.fstat(self._fd).st_size - len(self._line)
        self._step, self._values = _parse_values(self._line)

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Write the scalars among the entries."""
        scalars = [(name, value) for kind, name, value in entries if kind == "scalar"]
        if not scalars:
            return
        if step != self._step:
            self._offset += len(self._line)
            self._step, self._values, self._line = step, {}, b""
        for name, value in scalars:
            self._values.setdefault(name, []).append(value)
        line = _dump({"step": step} | {name: _mean(x) for name, x in self._values.items()})
        try:
            self._replace(line)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def flush(self) -> None:
        """Return when the lines are safe from a power failure."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _replace(self, line: bytes) -> None:
        """Write ``line`` over the last one."""
        try:
            _pwrite(self._fd, line, self._offset)
            if len(line) < len(self._line):
                os.ftruncate(self._fd, self._offset + len(line))
        except OSError:
            os.ftruncate(self._fd, self._offset)
            _pwrite(self._fd, self._line, self._offset)  # There is room: it was there before.
            raise
        self._line = line


def repair(path: Path, start_step: int | None = None) -> None:
    """Replace a metrics file by its valid lines, and print which others were dropped.

    Raises UserError if it cannot be written, OSError if it cannot be read.
    """
    if not path.exists():
        return
    counts = {"damaged": 0, "cut": 0, "repeated": 0}
    with path.open("rb") as source:
        for _ in _valid_lines(source, start_step, counts):
            pass
    if not any(counts.values()):  # Nothing to repair: leave the file untouched.
        return
    with path.open("rb") as source, replacing(path) as target:
        target.writelines(_valid_lines(source, start_step, dict(counts)))
    _report(path, counts, start_step)


def _valid_lines(
    lines: Iterable[bytes], start_step: int | None, counts: dict[str, int]
) -> Iterator[bytes]:
    """Yield the lines to keep, and count the others by reason."""
    last: dict[str, int] = {}
    for line in lines:
        entry = _parse(line)
        if entry is None:
            counts["damaged"] += 1
            continue
        step = entry["step"]
        if start_step is not None and step > start_step:
            counts["cut"] += 1
            continue
        fresh = {k: v for k, v in entry.items() if k != "step" and step > last.get(k, -1)}
        last.update(dict.fromkeys(fresh, step))
        if len(fresh) == len(entry) - 1:
            yield line
            continue
        counts["repeated"] += 1
        if fresh:
            yield _dump({"step": step} | fresh)


def _report(path: Path, counts: dict[str, int], start_step: int | None) -> None:
    reasons = {
        "damaged": "{} damaged line(s) dropped",
        "cut": f"{{}} line(s) after step {start_step} cut",
        "repeated": "{} line(s) with steps that do not increase dropped",
    }
    parts = [reasons[name].format(count) for name, count in counts.items() if count]
    print(f"Repaired {path}: {', '.join(parts)}.", flush=True)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the object of a complete line with a step, else None."""
    try:
        # NaN and infinity are no JSON, but the 2021 release wrote them.
        entry = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    complete = line.endswith(b"\n") and isinstance(entry, dict)
    return entry if complete and type(entry.get("step")) is int and entry["step"] >= 0 else None


def _parse_values(line: bytes) -> tuple[int | None, dict[str, list[Any]]]:
    """Return the step and the values of a line of an earlier process."""
    entry = _parse(line) or {}
    step = entry.pop("step", None)
    entry = {name: math.nan if x is None else x for name, x in entry.items()}
    return step, {name: [x] for name, x in entry.items() if isinstance(x, int | float)}


def _last_line(fd: int) -> bytes:
    """Return the last line of a repaired file; empty if the file is."""
    end = os.fstat(fd).st_size
    length = 4096
    while True:
        tail = os.pread(fd, length, max(0, end - length))
        start = tail.rfind(b"\n", 0, -1)
        if start >= 0 or length >= end:
            return tail[start + 1 :]
        length *= 2


def _mean(values: Sequence[int | float]) -> int | float | None:
    mean = values[0] if len(values) == 1 else sum(values) / len(values)
    return mean if math.isfinite(mean) else None


def _dump(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
