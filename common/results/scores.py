"""Reference scores (the folder scores/), and comparisons of runs with them.

A score is normalized by two references of its game, (score - random) / (reference - random):
"gamer" by a professional human player, "record" by the human world record. Files, sources and
known deviations are described in scores/README.md.
"""

import csv
import functools
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.config.paths import package_root
from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.results import stats
from dreamerv2.common.results.find import fold
from dreamerv2.common.results.formats import Curve, Run, read_curves

REFERENCES = ("random", "human", "record")
PUBLISHED = " (published)"  # distinguishes the paper's dreamerv2 from runs with that name
FRAMES = 200_000_000  # of every score in atari_scores.csv
REPLICATES = 1000
# Printed below every table, for readers who have the table alone.
NOTES = (
    "A run's score is its mean over the last bin. Scores are normalized by a human gamer (or the "
    "human record) as 1 and random play as 0. gamer_median, gamer_mean, record_mean and "
    "clipped_record_mean average the seeds of each game first; iqm, optimality_gap, the "
    "probability of improvement and the profiles take every run by itself. Intervals are 95% "
    "stratified bootstrap percentiles over seeds; published scores are means over seeds and have "
    "none. Rows over different tasks do not compare. DreamerV2's published scores give "
    "2.25 / 10.64 / 0.43 / 0.27 on all 55 games, not exactly the paper's "
    "2.15 / 11.33 / 0.44 / 0.28."
)


class Scores(NamedTuple):
    """Final scores of one method: values [G, S], G tasks, NaN-padded to S seeds."""

    method: str
    tasks: list[str]
    values: np.ndarray
    frames: float  # at the end of the shortest run

    def on(self, tasks: Sequence[str]) -> "Scores":
        """Return the scores on those of the tasks that this method has."""
        keep = [index for index, task in enumerate(self.tasks) if task in tasks]
        return self._replace(tasks=[self.tasks[i] for i in keep], values=self.values[keep])


Row = dict[str, Any]  # of a table: column -> text or number


@functools.cache
def load_scores() -> dict[str, dict[str, float]]:
    """Read the Atari scores: task -> reference or method -> score."""
    path = package_root() / "scores" / "atari_scores.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    return {row.pop("task"): {name: float(x) for name, x in row.items()} for row in rows}


@functools.cache
def load_curves() -> tuple[Curve, ...]:
    """Read the published learning curves of all suites."""
    files = sorted((package_root() / "scores").glob("*_curves.csv"))
    return tuple(curve for file in files for curve in read_curves(file) or ())


def canonical(task: str) -> str:
    """Return the name of a task in scores/ ('atari_jamesbond' -> 'atari_james_bond')."""
    known = {*load_scores(), *(curve.task for curve in load_curves())}
    return {fold(name): name for name in known}.get(fold(task), task)


def references(task: str) -> dict[str, float]:
    """Return the scores of random play and of a human on a task; empty if unknown."""
    row = load_scores().get(canonical(task), {})
    return {name: row[name] for name in ("random", "human") if name in row}


def check_baselines(names: Sequence[str]) -> None:
    """Raise UserError if a name of a baseline is unknown."""
    known = [*next(iter(load_scores().values()))]
    if unknown := [name for name in names if name not in known]:
        hint = nearest(unknown[0], known)
        raise UserError(f"There is no baseline '{unknown[0]}' among {', '.join(known)}.{hint}")


def normalize(values: np.ndarray, tasks: Sequence[str], reference: str) -> np.ndarray:
    """Scale scores [..., G, S] so that random play is 0 and the reference is 1."""
    table = load_scores()
    low, high = (np.array([[table[t][name]] for t in tasks]) for name in ("random", reference))
    return (values - low) / (high - low)


def published(method: str) -> Scores:
    """Return the published scores of a method after 200M frames, one value a game."""
    column = {task: row[method] for task, row in load_scores().items()}
    return Scores(method + PUBLISHED, [*column], np.array([*column.values()])[:, None], FRAMES)


def collect(runs: Sequence[Run], curves: Sequence[Curve] = ()) -> list[Scores]:
    """Return each method's last values, without NaN and tasks that have no human score."""
    ends = [(r.method, r.task, r.ys[-1], r.xs[-1]) for r in runs]
    ends += [(c.method, c.task, c.mid[-1], c.xs[-1]) for c in curves]
    methods: dict[str, dict[str, list[float]]] = {}
    frames: dict[str, float] = {}
    for method, task, score, end in ends:
        if task in load_scores() and np.isfinite(score):
            methods.setdefault(method, {}).setdefault(task, []).append(score)
            frames[method] = min(end, frames.get(method, np.inf))
    result = []
    for method, games in methods.items():
        tasks = sorted(games)
        rows = itertools.zip_longest(*(games[task] for task in tasks), fillvalue=np.nan)
        result.append(Scores(method, tasks, np.array([*rows]).T, float(frames[method])))
    return result


def bootstrap(scores: Scores, rng: np.random.Generator) -> np.ndarray:
    """Draw replicates [R, G, S] of a method's scores; R = 0 without two seeds."""
    count = REPLICATES if scores.values.shape[1] > 1 else 0
    return stats.resample(scores.values, count, rng)


def metrics_of(scores: Scores, values: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every aggregate metric of values [..., G, S] of this method's tasks."""
    gamer = normalize(values, scores.tasks, "human")
    record = normalize(values, scores.tasks, "record")
    return {name: metric(gamer, record) for name, metric in stats.METRICS.items()}


def aggregate(methods: Sequence[Scores]) -> list[Row]:
    """Compute every metric of every method, a row each, with intervals."""
    rows = []
    for scores in methods:
        about = {"method": scores.method, "tasks": len(scores.tasks)}
        about |= {"seeds": scores.values.shape[1], "frames": scores.frames}
        replicates = metrics_of(scores, bootstrap(scores, np.random.default_rng(0)))
        for name, value in metrics_of(scores, scores.values).items():
            rows.append({**about, "metric": name, **_estimate(value, replicates[name])})
    return rows


def improvements(ours: Sequence[Scores], others: Sequence[Scores]) -> list[Row]:
    """Compute the probability of each of ours to beat the others on common tasks."""
    pairs = [(x, y) for x in ours for y in (*ours, *others) if x is not y]
    return [row for x, y in pairs if (row := _improvement(x, y))]


def _improvement(ours: Scores, theirs: Scores) -> Row:
    ours, theirs = ours.on(theirs.tasks), theirs.on(ours.tasks)
    if not ours.tasks:
        return {}
    names = {"method": ours.method, "over": theirs.method, "tasks": len(ours.tasks)}
    # One generator for both, since equal draws would make the interval too narrow.
    rng = np.random.default_rng(0)
    x, y = bootstrap(ours, rng), bootstrap(theirs, rng)
    # A method with one seed a task has no replicates and is repeated instead.
    count = max(len(x), len(y))
    x = x if len(x) else [ours.values] * count
    y = y if len(y) else [theirs.values] * count
    replicates = np.array([stats.improvement(a, b) for a, b in zip(x, y, strict=True)])
    return {**names, **_estimate(stats.improvement(ours.values, theirs.values), replicates)}


def profiles(methods: Sequence[Scores]) -> list[Row]:
    """Compute the fraction of runs above tau, in gamer-normalized score."""
    gamers = [normalize(scores.values, scores.tasks, "human") for scores in methods]
    top = max(np.nanquantile(gamer, 0.9) for gamer in gamers)
    taus = np.linspace(0, np.clip(np.ceil(top), 1, 8), 41)
    rows = []
    for scores, gamer in zip(methods, gamers, strict=True):
        drawn = normalize(bootstrap(scores, np.random.default_rng(0)), scores.tasks, "human")
        estimate = _estimate(stats.profile(gamer, taus), stats.profile(drawn, taus))
        table = np.stack([taus, *estimate.values()], 1)
        rows += [{"method": scores.method, **dict(zip(("tau", *estimate), x))} for x in table]
    return rows


def _estimate(value: np.ndarray, replicates: np.ndarray) -> dict[str, np.ndarray]:
    low, high = stats.interval(replicates) if len(replicates) else (value * np.nan,) * 2
    return {"value": value, "low": low, "high": high}


def markdown(metrics: Sequence[Row], chances: Sequence[Row]) -> str:
    """Format the aggregate metrics and the probabilities of improvement for people."""
    table = [["method", "tasks", "seeds", "frames", *stats.METRICS]]
    for start in range(0, len(metrics), len(stats.METRICS)):
        rows = metrics[start : start + len(stats.METRICS)]
        names = [str(rows[0][key]) for key in ("method", "tasks", "seeds")]
        table.append([*names, f"{rows[0]['frames']:.3g}", *map(_cell, rows)])
    lines = _markdown_table(table)
    if chances:
        table = [["method", "better than", "tasks", "probability of improvement"]]
        table += [[r["method"], r["over"], str(r["tasks"]), _cell(r)] for r in chances]
        lines += ["", *_markdown_table(table)]
    return "\n".join([*lines, "", NOTES, ""])


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *lines = ("| " + " | ".join(row) + " |" for row in rows)
    return [header, "|---" * len(rows[0]) + "|", *lines]


def _cell(row: Row) -> str:
    band = "" if np.isnan(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['value']:.2f}{band}"


def write_tables(
    outdir: pathlib.Path, metrics: Sequence[Row], chances: Sequence[Row], curves: Sequence[Row]
) -> None:
    """Write aggregate.md for people, aggregate.csv and .json for other tools."""
    (outdir / "aggregate.md").write_text(markdown(metrics, chances))
    improvements = [{**row, "metric": f"improvement over {row['over']}"} for row in chances]
    with (outdir / "aggregate.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*metrics[0]], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_without_nan, (*metrics, *improvements)))
    tables = {"metrics": metrics, "improvement": chances, "profiles": curves}
    content = {name: [*map(_without_nan, rows)] for name, rows in tables.items()}
    (outdir / "aggregate.json").write_text(json.dumps({"notes": NOTES, **content}, indent=1))


def _without_nan(row: Row) -> Row:
    """Replace NaN by None: null in JSON, nothing in CSV."""
    return {key: None if value != value else value for key, value in row.items()}
