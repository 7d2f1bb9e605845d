"""metrics.jsonl: one JSON object a line and a line a step, also after a crash."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.errors import cannot_write
from dreamerv2.common.files import replacing
from dreamerv2.common.logger.logger import Entry, Output

FILENAME = "metrics.jsonl"


class JSONLOutput(Output):
    """Writes ``{"step": frames, name: value, ...}`` to ``LOGDIR/metrics.jsonl``.

    A step has one line, which is replaced when the step is written again; a name logged several
    times at one step (the returns of several episodes) becomes the mean. Every line is in the file
    when ``write`` returns. NaN and infinity are written as null, which pandas reads as NaN.

    The constructor repairs the file: it drops lines that are no JSON object with a step (a process
    was killed, a disk was full), and values at steps that do not increase. Lines after
    `start_step` (frames of the checkpoint that the run continues from) are cut, because the run
    will write them again; None keeps them.
    """

    def __init__(self, logdir: str | os.PathLike, start_step: int | None = None):
        self._path = Path(logdir) / FILENAME
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            open(self._path, "ab").close()  # creates the file
            self._line = _repair(self._path, start_step)
            # Not in append mode, because the last line is replaced in place.
            self._file = open(self._path, "r+b", buffering=0)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._offset = self._path.stat().st_size - len(self._line)
        entry = _parse(self._line) or {}
        self._step = entry.pop("step", None)
        self._values = {name: [math.nan if x is None else x] for name, x in entry.items()}

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
            self._replace(self._line)  # There is room: it was there before.
            raise cannot_write(self._path, error) from error
        self._line = line

    def flush(self) -> None:
        """Return when the lines are safe from a power failure."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def _replace(self, line: bytes) -> None:
        """Write ``line`` over the last one."""
        self._file.seek(self._offset)
        while line:
            line = line[self._file.write(line) :]
        self._file.truncate()


def _repair(path: Path, start_step: int | None) -> bytes:
    """Replace a metrics file by its valid lines, print the others' number, return the last one."""
    with path.open("rb") as file:
        lines = list(file)
    dropped: Counter[str] = Counter()
    valid = list(_valid_lines(lines, start_step, dropped))
    if dropped:  # Otherwise the file is left untouched.
        with replacing(path) as file:
            file.writelines(valid)
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        print(f"Repaired {path}: {counts}.", flush=True)
    return valid[-1] if valid else b""


def _valid_lines(
    lines: Iterable[bytes], start_step: int | None, dropped: Counter[str]
) -> Iterator[bytes]:
    """Yield the lines to keep, and count the others by reason."""
    last: dict[str, int] = {}
    for line in lines:
        entry = _parse(line)
        if entry is None:
            dropped["damaged line(s) dropped"] += 1
            continue
        step = entry["step"]
        if start_step is not None and step > start_step:
            dropped[f"line(s) after step {start_step} cut"] += 1
            continue
        fresh = {k: v for k, v in entry.items() if k != "step" and step > last.get(k, -1)}
        last.update(dict.fromkeys(fresh, step))
        if len(fresh) == len(entry) - 1:
            yield line
            continue
        dropped["line(s) with steps that do not increase dropped"] += 1
        if fresh:
            yield _dump({"step": step} | fresh)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the object of a complete line with a step, else None."""
    try:
        # NaN and infinity are no JSON, but the 2021 release wrote them.
        entry = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    complete = line.endswith(b"\n") and isinstance(entry, dict)
    return entry if complete and type(entry.get("step")) is int and entry["step"] >= 0 else None


def _mean(values: Sequence[int | float]) -> int | float | None:
    mean = values[0] if len(values) == 1 else sum(values) / len(values)
    return mean if math.isfinite(mean) else None


def _dump(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode() + b"\n"
