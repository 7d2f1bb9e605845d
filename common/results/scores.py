"""Reference scores (the folder scores/) and how a user's runs compare with them.

A score is normalized by two references of its game, (score - random) / (reference - random):
"gamer" by a professional human player, "record" by the human world record. Files, sources and
known deviations are described in scores/README.md.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dreamerv2.common.config.paths import package_root
from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.results import stats
from dreamerv2.common.results.find import fold
from dreamerv2.common.results.formats import Curve, Run, read_curves

REFERENCES = ("random", "human", "record")
PUBLISHED = " (published)"  # Tells the paper's dreamerv2 from a user's runs of that name.
FRAMES = 200_000_000  # of every score in atari_scores.csv
REPLICATES = 1000
# What a table says about itself, for whoever it is handed on to.
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
    """The final scores of one method: values [G, S] for G tasks, NaN-padded to S seeds."""

    method: str
    tasks: list[str]
    values: np.ndarray
    frames: float  # where the shortest run ended

    def on(self, tasks: Sequence[str]) -> "Scores":
        """Return the scores on those of the tasks that this method has."""
        keep = [index for index, task in enumerate(self.tasks) if task in tasks]
        return self._replace(tasks=[self.tasks[i] for i in keep], values=self.values[keep])


@functools.cache
def load_scores() -> pd.DataFrame:
    """Read scores per Atari game: a row per task; references and methods are the columns."""
    return pd.read_csv(package_root() / "scores" / "atari_scores.csv", index_col="task")


@functools.cache
def load_curves() -> tuple[Curve, ...]:
    """Read the published learning curves of all suites."""
    files = sorted((package_root() / "scores").glob("*_curves.csv"))
    return tuple(curve for file in files for curve in read_curves(file) or ())


def canonical(task: str) -> str:
    """Return the name that scores/ has for a task ('atari_jamesbond' -> 'atari_james_bond')."""
    known = {*load_scores().index, *(curve.task for curve in load_curves())}
    return {fold(name): name for name in known}.get(fold(task), task)


def baselines(names: Sequence[str]) -> list[str]:
    """Check the names of references and published methods; UserError names the nearest."""
    known = [*load_scores().columns]
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"There is no baseline '{name}' among {', '.join(known)}.{hint}")
    return list(names)


def normalize(values: np.ndarray, tasks: Sequence[str], reference: str) -> np.ndarray:
    """Scale scores [..., G, S] so that random play is 0 and the reference ('human') is 1."""
    table = load_scores().loc[list(tasks)]
    low, high = table["random"].to_numpy()[:, None], table[reference].to_numpy()[:, None]
    return (values - low) / (high - low)


def published(method: str) -> Scores:
    """Return the published scores of a method after 200M frames, one value a game."""
    column = load_scores()[method].dropna()
    return Scores(method + PUBLISHED, [*column.index], column.to_numpy()[:, None], FRAMES)


def collect(runs: Sequence[Run], curves: Sequence[Curve] = ()) -> list[Scores]:
    """Gather the final score of binned runs, and of curves, a Scores for each method.

    Tasks without a human score are left out, as are curves that end in NaN.
    """
    rows = [(r.method, r.task, r.ys[-1], r.xs[-1]) for r in runs]
    rows += [(c.method, c.task, c.mid[-1], c.xs[-1]) for c in curves]
    table = pd.DataFrame(rows, columns=["method", "task", "score", "frames"])
    table = table[
        table["task"].isin(load_scores().index) & np.isfinite(table["score"].astype(float))
    ]
    return [_matrix(method, rows) for method, rows in table.groupby("method", sort=False)]


def _matrix(method: str, rows: pd.DataFrame) -> Scores:
    groups = dict(iter(rows.groupby("task")["score"]))
    values = np.full((len(groups), max(map(len, groups.values()))), np.nan)
    for row, group in zip(values, groups.values(), strict=True):
        row[: len(group)] = group
    return Scores(method, [*groups], values, rows["frames"].min())


def bootstrap(scores: Scores, rng: np.random.Generator) -> np.ndarray:
    """Draw replicates [R, G, S] of a method's scores; none (R = 0) if no task has two seeds."""
    several = scores.values.shape[1] > 1
    return stats.resample(scores.values, REPLICATES if several else 0, rng)


def metrics_of(scores: Scores, values: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every aggregate metric of values [..., G, S] of this method's tasks."""
    gamer = normalize(values, scores.tasks, "human")
    record = normalize(values, scores.tasks, "record")
    return {name: metric(gamer, record) for name, metric in stats.METRICS.items()}


def aggregate(methods: Sequence[Scores]) -> pd.DataFrame:
    """Compute every metric of every method, a row each: value, and its interval low to high."""
    rows = []
    for scores in methods:
        about = {"method": scores.method, "tasks": len(scores.tasks)}
        about |= {"seeds": scores.values.shape[1], "frames": scores.frames}
        replicates = metrics_of(scores, bootstrap(scores, np.random.default_rng(0)))
        for name, value in metrics_of(scores, scores.values).items():
            rows.append({**about, "metric": name, **_estimate(value, replicates[name])})
    return pd.DataFrame(rows)


def improvements(ours: Sequence[Scores], others: Sequence[Scores]) -> pd.DataFrame:
    """Compute the probability that each of ours beats each of the others, on the tasks of both."""
    pairs = [(x, y) for x in ours for y in (*ours, *others) if x is not y]
    return pd.DataFrame([row for x, y in pairs if (row := _improvement(x, y))])


def _improvement(ours: Scores, theirs: Scores) -> dict[str, object]:
    ours, theirs = ours.on(theirs.tasks), theirs.on(ours.tasks)
    if not ours.tasks:
        return {}
    names = {"method": ours.method, "over": theirs.method, "tasks": len(ours.tasks)}
    # One generator for both: draws that moved together would make the interval too narrow.
    rng = np.random.default_rng(0)
    x, y = bootstrap(ours, rng), bootstrap(theirs, rng)
    # A method of one seed a task stays as it is while the other is drawn anew.
    count = max(len(x), len(y))
    x = x if len(x) else [ours.values] * count
    y = y if len(y) else [theirs.values] * count
    replicates = np.array([stats.improvement(a, b) for a, b in zip(x, y, strict=True)])
    return {**names, **_estimate(stats.improvement(ours.values, theirs.values), replicates)}


def profiles(methods: Sequence[Scores]) -> pd.DataFrame:
    """Compute performance profiles: the fraction of runs above tau, in gamer-normalized score."""
    gamers = [normalize(scores.values, scores.tasks, "human") for scores in methods]
    top = max(np.nanquantile(gamer, 0.9) for gamer in gamers)
    taus = np.linspace(0, np.clip(np.ceil(top), 1, 8), 41)
    tables = []
    for scores, gamer in zip(methods, gamers, strict=True):
        drawn = normalize(bootstrap(scores, np.random.default_rng(0)), scores.tasks, "human")
        estimate = _estimate(stats.profile(gamer, taus), stats.profile(drawn, taus))
        tables.append(pd.DataFrame({"method": scores.method, "tau": taus, **estimate}))
    return pd.concat(tables)


def _estimate(value: np.ndarray, replicates: np.ndarray) -> dict[str, np.ndarray]:
    low, high = stats.interval(replicates) if len(replicates) else (value * np.nan,) * 2
    return {"value": value, "low": low, "high": high}


def markdown(metrics: pd.DataFrame, chances: pd.DataFrame) -> str:
    """Format the aggregate metrics and the probabilities of improvement for people."""
    lines = ["| method | tasks | seeds | frames | " + " | ".join(stats.METRICS) + " |"]
    lines += ["|---" * (4 + len(stats.METRICS)) + "|"]
    for (method, tasks, seeds, frames), rows in metrics.groupby(
        ["method", "tasks", "seeds", "frames"], sort=False
    ):
        cells = [
            str(method),
            str(tasks),
            str(seeds),
            f"{frames:.3g}",
            *map(_cell, rows.itertuples()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if len(chances):
        lines += [
            "",
            "| method | better than | tasks | probability of improvement |",
            "|---" * 4 + "|",
        ]
        lines += [
            f"| {r.method} | {r.over} | {r.tasks} | {_cell(r)} |" for r in chances.itertuples()
        ]
    return "\n".join([*lines, "", NOTES, ""])


def _cell(row: tuple) -> str:
    band = "" if np.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{row.value:.2f}{band}"


def write_tables(
    outdir: pathlib.Path, metrics: pd.DataFrame, chances: pd.DataFrame, curves: pd.DataFrame
) -> None:
    """Write the aggregate as aggregate.md for people, aggregate.csv and .json for other tools."""
    (outdir / "aggregate.md").write_text(markdown(metrics, chances))
    rows = chances.assign(metric="improvement over " + chances["over"]) if len(chances) else chances
    pd.concat([metrics, rows.drop(columns="over", errors="ignore")]).to_csv(
        outdir / "aggregate.csv", index=False
    )
    tables = {"metrics": metrics, "improvement": chances, "profiles": curves}
    content = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    (outdir / "aggregate.json").write_text(json.dumps({"notes": NOTES, **content}, indent=1))
