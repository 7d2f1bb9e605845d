"""File formats of results: metrics of a run, binned runs, and curves.

metrics.jsonl   one JSON object a line, each metric in some of the lines
*.json          binned results of the 2021 release: a list of {task, method, seed, xs, ys}
*.csv           curves in the format of scores/: task, method, step, mean, std, seeds
"""

import csv
import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import UserError

CURVE_COLUMNS = ["task", "method", "step", "mean", "std", "seeds"]
WHOLE_GAME = 108_000  # frames of Atari, after which the published scores end an episode


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
    """Read finite xs [N] and ys [N] from a metrics.jsonl, and count its damaged lines."""
    marker = json.dumps(yaxis).encode()
    pairs, damaged = [], 0
    with path.open("rb") as file:
        for line in map(bytes.strip, file):
            if marker in line:  # Decoding JSON is slow, and most lines of a run hold other metrics.
                record = decode(line)
                damaged += record is None
                pairs.append(((record or {}).get(xaxis), (record or {}).get(yaxis)))
            elif line:
                damaged += line[:1] != b"{" or line[-1:] != b"}"
    return *_finite(pairs), damaged


def decode(line: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _finite(pairs: Iterable[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Split (x, y) pairs into two float64 arrays, without values that are no finite numbers."""
    kept = [p for p in pairs if all(isinstance(x, int | float) and math.isfinite(x) for x in p)]
    xs, ys = np.array(kept, np.float64).reshape(-1, 2).T
    return xs, ys


def metric_names(path: pathlib.Path) -> set[str]:
    """Return the names of metrics in the first 1000 lines of a metrics.jsonl."""
    with path.open("rb") as file:
        return {name for line in itertools.islice(file, 1000) for name in decode(line) or ()}


def read_results(path: pathlib.Path) -> list[Run] | None:
    """Read binned results of the 2021 release; None if the file has another format."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        runs = [
            Run(e["task"], e["method"], str(e["seed"]), *_finite(zip(e["xs"], e["ys"])))
            for e in entries
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
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
        columns = {name: np.array(table, np.float64).T for name, table in tables.items()}
        # The band is one std wide on either side.
        return [Curve(*name, x, y, y - std, y + std) for name, (x, y, std) in columns.items()]
    except ValueError as error:
        raise UserError(f"The curves in '{path}' should be numbers: {error}.") from error


def write_results(path: pathlib.Path, runs: Sequence[Run]) -> None:
    """Write binned runs in the format of read_results."""
    entries = [run._replace(xs=run.xs.tolist(), ys=run.ys.tolist())._asdict() for run in runs]
    path.write_text(json.dumps(entries))
