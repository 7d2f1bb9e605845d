"""Summaries of scores over seeds and tasks, with bootstrap confidence intervals.

Scores of one method are an array [G, S]: G tasks (games), S seeds, NaN where a task has fewer
seeds. Functions take any leading dimensions, so the same code computes the estimate [G, S] and
its bootstrap replicates [R, G, S]. Formulas: Agarwal et al. 2021, Deep Reinforcement Learning
at the Edge of the Statistical Precipice, arXiv 2108.13264, called "AG" below.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from dreamerv2.common.errors import UserError
from dreamerv2.common.results.formats import Curve, Run

AGGREGATES = ("mean", "median", "iqm")
BANDS = ("std", "minmax", "bootstrap")
RATIOS = np.array([1, 2, 5, 10])


def center(values: np.ndarray, kind: str, axis: int = -1) -> np.ndarray:
    """Reduce an axis to its mean, median or interquartile mean, leaving NaN out.

    All are means of the sorted values without the k lowest and highest of n: k = 0 for the mean,
    (n - 1) // 2 for the median, n // 4 for the IQM (AG section 4.3). NaN if every value is NaN.
    """
    ranked = np.sort(np.moveaxis(values, axis, -1), -1)  # NaN sorts last.
    count = np.isfinite(ranked).sum(-1, keepdims=True)
    cut = {"mean": 0 * count, "median": (count - 1) // 2, "iqm": count // 4}[kind]
    rank = np.arange(ranked.shape[-1])
    inner = (rank >= cut) & (rank < count - cut)
    total = np.where(inner, ranked, 0.0).sum(-1)
    nothing = np.full(total.shape, np.nan)
    mean = np.divide(total, inner.sum(-1), out=nothing, where=count[..., 0] > 0)
    return mean[()]  # A scalar for a scalar, not an array without dimensions.


def resample(scores: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw each task's seeds with replacement: [G, S] -> [replicates, G, S] (AG section 4.1)."""
    ranked = np.sort(scores, -1)  # The order of seeds is of no account; NaN must come last.
    count = np.isfinite(ranked).sum(-1, keepdims=True)  # [G, 1]
    pick = (rng.random((replicates, *scores.shape)) * count).astype(int)
    drawn = np.take_along_axis(ranked[None], pick, -1)
    return np.where(np.arange(scores.shape[-1]) < count, drawn, np.nan)


def interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 and 97.5 percentiles over the first axis: a 95% interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # All NaN gives NaN, as it should.
        low, high = np.nanpercentile(replicates, (2.5, 97.5), axis=0)
    return low, high


def nice_size(end: float, count: int = 30) -> float:
    """Choose a bin size, 1, 2 or 5 times a power of ten, for about `count` bins up to `end`."""
    size = max(end, 1e-9) / count
    power = 10.0 ** np.floor(np.log10(size))
    return float(power * RATIOS[np.searchsorted(RATIOS, size / power - 1e-9)])


def bin_run(run: Run, size: float) -> Run:
    """Average a run within bins of x; the value at x is the mean over (x - size, x]."""
    number = np.ceil(run.xs / size - 1e-9)
    edges, index = np.unique(number, return_inverse=True)
    return run._replace(xs=edges * size, ys=np.bincount(index, run.ys) / np.bincount(index))


def bin_runs(runs: Sequence[Run], size: float | None) -> list[Run]:
    """Bin every run; without a size each task gets about 30 bins of a round size."""
    top = max((float(np.abs(run.xs).max()) for run in runs), default=0.0)
    # Beyond 2**53 float64 does not tell one bin from the next.
    if size is not None and not (0 < size < np.inf and top <= size * 2.0**53):
        raise UserError(
            "--bins is the size of a bin along x and must be above 0, finite "
            f"and not tiny beside x (up to {top:g}), not {size:g}."
        )
    ends: dict[str, float] = {}
    for run in runs:
        ends[run.task] = max(ends.get(run.task, 0.0), run.xs.max())
    return [bin_run(run, size or nice_size(ends[run.task])) for run in runs]


def summarize(runs: Sequence[Run], kind: str, band: str, replicates: int = 1000) -> Curve:
    """Summarize the binned runs of one task and method over their seeds.

    Between two of its bins a run is interpolated; before its first and after its last it does
    not count. The bootstrap draws whole runs anew.
    """
    xs = np.unique(np.concatenate([run.xs for run in runs]))
    ys = np.stack([np.interp(xs, r.xs, r.ys, left=np.nan, right=np.nan) for r in runs])
    mid = center(ys, kind, 0)  # [seeds, bins] -> [bins]
    if band == "std":
        std = np.sqrt(center((ys - center(ys, "mean", 0)) ** 2, "mean", 0))
        low, high = mid - std, mid + std
    elif band == "minmax":
        low, high = np.nanmin(ys, 0), np.nanmax(ys, 0)
    else:
        pick = np.random.default_rng(0).integers(len(ys), size=(replicates, len(ys)))
        low, high = interval(center(ys[pick], kind, 1))  # [reps, seeds, bins] -> [reps, bins]
    return Curve(runs[0].task, runs[0].method, xs, mid, low, high)


def _game_mean(scores: np.ndarray) -> np.ndarray:
    return center(scores, "mean")  # [..., G, S] -> [..., G]


def _pooled(scores: np.ndarray) -> np.ndarray:
    """Merge the last two axes: [..., G, S] -> [..., G*S]."""
    *lead, games, seeds = scores.shape
    return scores.reshape(*lead, games * seeds)


# Name -> function of the gamer-normalized and the record-normalized scores, [..., G, S] -> [...].
# The first four average each game's seeds first, as the paper's table does (its section 3).
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "gamer_median": lambda gamer, record: center(_game_mean(gamer), "median"),
    "gamer_mean": lambda gamer, record: center(_game_mean(gamer), "mean"),
    "record_mean": lambda gamer, record: center(_game_mean(record), "mean"),
    "clipped_record_mean": lambda gamer, record: center(
        np.minimum(_game_mean(record), 1.0), "mean"
    ),
    # Over all runs of all games at once (AG section 4.3).
    "iqm": lambda gamer, record: center(_pooled(gamer), "iqm"),
    # By how far the runs miss a human's score, those beyond it counting zero (AG section 4.3).
    "optimality_gap": lambda gamer, record: 1.0 - center(_pooled(np.minimum(gamer, 1.0)), "mean"),
}


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the fraction of runs above each threshold, averaged over games.

    scores [..., G, S], thresholds [T] -> [..., T]. A performance profile, AG equation 2.
    """
    count = np.isfinite(scores).sum(-1)  # NaN is above nothing.
    above = [((scores > tau).sum(-1) / count).mean(-1) for tau in thresholds]
    return np.stack(above, -1)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the probability that a run of ours beats one of theirs on a random game.

    P = mean over games of mean over pairs of seeds of [ours > theirs] + [ours = theirs] / 2,
    the Mann-Whitney statistic of AG section 4.3. ours [..., G, S], theirs [..., G, Z] -> [...].
    """
    gap = ours[..., :, None] - theirs[..., None, :]
    wins = np.where(np.isnan(gap), np.nan, (np.sign(gap) + 1.0) / 2.0)
    return center(_game_mean(_pooled(wins)), "mean")  # [..., G, S, Z] -> [..., G, S*Z] -> [...]
