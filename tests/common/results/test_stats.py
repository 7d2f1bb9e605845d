"""Runs are binned and summarized over seeds, with bands."""

import numpy as np
import pytest

from dreamerv2.common.results import stats
from dreamerv2.common.results.formats import Run


def test_bins_average_up_to_their_right_edge():
    run = Run("t", "m", "0", np.array([0.0, 1, 10, 11, 20, 35]), np.arange(6.0))
    binned = stats.bin_run(run, 10)
    assert binned.xs.tolist() == [0, 10, 20, 40]
    assert binned.ys.tolist() == [0, 1.5, 3.5, 5], "x belongs to (edge - size, edge]"


@pytest.mark.parametrize("kind", stats.AGGREGATES)
@pytest.mark.parametrize("band", stats.BANDS)
def test_summaries_and_bands(kind, band):
    ys = np.array([[0.0, 0], [1, 1], [2, 2], [9, 9], [20, np.nan]])
    seeds = [
        Run("t", "m", str(i), np.array([1.0, 2])[np.isfinite(y)], y[np.isfinite(y)])
        for i, y in enumerate(ys)
    ]
    curve = stats.summarize(seeds, kind, band)
    middle = {"mean": [6.4, 3], "median": [2, 1.5], "iqm": [4, 1.5]}[kind]
    assert np.allclose(curve.mid, middle), "a seed that ended must not count any more"
    if band == "std":
        assert np.allclose(curve.high - curve.mid, [ys[:, 0].std(), ys[:4, 1].std()])
    elif band == "minmax":
        assert curve.low.tolist() == [0, 0] and curve.high.tolist() == [20, 9]
    else:
        assert (curve.low < curve.mid).all() and (curve.high > curve.mid).all()
        assert (curve.low >= 0).all() and (curve.high <= 20).all()


def test_holes_are_interpolated_and_ends_are_not():
    seeds = [
        Run("t", "m", "0", np.array([1.0, 3]), np.array([0.0, 4])),
        Run("t", "m", "1", np.array([1.0, 2, 3, 4]), np.full(4, 2.0)),
    ]
    assert stats.summarize(seeds, "mean", "std").mid.tolist() == [1, 2, 3, 2]
