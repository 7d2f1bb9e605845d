"""File formats of results: metrics of a run, binned runs, and curves.

metrics.jsonl   one JSON object a line, each metric in some of the lines
*.json          binned results of the 2021 release: a list of {task, method, seed, xs, ys}
*.csv           curves in the format of scores/: task, method, step, mean, std, seeds
"""

import csv
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import UserError

CURVE_COLUMNS = ["task", "method", "step", "mean", "std", "seeds"]
WHOLE_GAME = 108_000  # frames of Atari, after which the published scores end an episode
CHUNK = 2**24  # bytes of a metrics file in memory at a time


class Run(NamedTuple):
    """One metric of one training run; xs and ys are float64 [N]."""

    task: str
    method: str
    seed: str
    xs: np.ndarray
    ys: np.ndarray


class Curve(NamedTuple):
    """A metric summarized over seeds, float64 [N] each; NaN where unknown."""

    task: str
    method: str
    xs: np.ndarray
    mid: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_metrics(path: pathlib.Path, xaxis: str, yaxis: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Read two metrics from a metrics.jsonl of any size.

    Returns xs [N], ys [N] from the lines with both as finite numbers, and the number of damaged
    lines (a crash cuts the last line, a full disk a line in the middle).
    """
    marker = json.dumps(yaxis).encode()
    pairs, damaged = [], 0
    with path.open("rb") as file:
        while lines := file.readlines(CHUNK):
            lines = [line for line in map(bytes.strip, lines) if line]
            # Decoding JSON is slow, and most lines of a run hold other metrics.
            wanted = [line for line in lines if marker in line]
            others = [line for line in lines if marker not in line]
            damaged += sum(line[:1] != b"{" or line[-1:] != b"}" for line in others)
            records = _decode(wanted)
            damaged += len(wanted) - len(records)
            pairs += [(r[xaxis], r[yaxis]) for r in records if xaxis in r and yaxis in r]
    try:
        xs, ys = _finite(pairs)
    except OverflowError:  # an integer beyond float64
        xs, ys = _finite([pair for pair in pairs if not any(map(_too_large, pair))])
    return xs, ys, damaged


def _decode(lines: list[bytes]) -> list[dict[str, Any]]:
    """Parse JSON objects, leaving out the damaged ones."""
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")  # Twice as fast as line by line.
        if len(records) != len(lines):  # Two damaged lines can join to a valid one.
            raise ValueError
    except ValueError:
        records = [_decode_line(line) for line in lines]
    return [record for record in records if isinstance(record, dict)]


def _decode_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _finite(pairs: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Split (x, y) pairs into two float64 arrays, without non-finite numbers."""
    numbers = [
        p for p in pairs if isinstance(p[0], (int, float)) and isinstance(p[1], (int, float))
    ]
    xs, ys = np.array(numbers, np.float64).reshape(-1, 2).T
    keep = np.isfinite(xs) & np.isfinite(ys)
    return xs[keep], ys[keep]


def _too_large(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > sys.float_info.max


def metric_names(path: pathlib.Path) -> set[str]:
    """Return the names of metrics in the first 1000 lines of a metrics.jsonl."""
    with path.open("rb") as file:
        lines = [line for line, _ in zip(file, range(1000), strict=False)]
    return {name for record in _decode(lines) for name in record}


def read_results(path: pathlib.Path) -> list[Run] | None:
    """Read binned results of the 2021 release; None if the file has another format."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        runs = [
            Run(e["task"], e["method"], str(e["seed"]), *_finite([*zip(e["xs"], e["ys"])]))
            for e in entries
        ]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    named = all(isinstance(name, str) for run in runs for name in (run.task, run.method))
    return runs if named else None


def read_curves(path: pathlib.Path) -> list[Curve] | None:
    """Read curves in the format of scores/; None if the file has another format."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if any(map(str.strip, row))] or [[]]
    except (UnicodeDecodeError, csv.Error):
        return None
    if header != CURVE_COLUMNS:
        return None
    tables: dict[tuple[str, str], list[list[str]]] = {}
    try:
        for task, method, *numbers in rows:
            tables.setdefault((task, method), []).append(numbers[:3])
        return [_curve(name, np.array(table, np.float64)) for name, table in tables.items()]
    except ValueError as error:
        raise UserError(f"The curves in '{path}' should be numbers: {error}.") from error


def _curve(name: tuple[str, str], table: np.ndarray) -> Curve:
    """Return a curve with a band of one std, from rows of step, mean, std."""
    xs, mean, std = table.T
    return Curve(*name, xs, mean, mean - std, mean + std)


def make_folder(path: pathlib.Path) -> None:
    """Create a folder and its parents. Raises UserError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--outdir '{path}' cannot be made a folder: {error.strerror}.") from error


def write_results(path: pathlib.Path, runs: Sequence[Run]) -> None:
    """Write binned runs in the format of read_results."""
    entries = [run._replace(xs=run.xs.tolist(), ys=run.ys.tolist())._asdict() for run in runs]
    path.write_text(json.dumps(entries))
