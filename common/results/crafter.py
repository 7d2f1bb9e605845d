"""Crafter's official score, from the statistics that a run writes."""

import pathlib

import numpy as np

from dreamerv2.common.results import formats


def crafter_score(success_rates: np.ndarray) -> np.ndarray:
    """Return Crafter's score, exp(mean(ln(1 + s))) - 1, in percent (arXiv 2109.06780, section 3).

    success_rates [..., 22]: share of the episodes that unlock an achievement, in percent.
    """
    return np.expm1(np.log1p(success_rates).mean(-1))


def read_scores(metrics: pathlib.Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Read steps [E], the score of all episodes so far [E], and the number of damaged lines.

    The source is crafter_train/stats.jsonl beside the metrics; a run of another task has none.
    """
    path = metrics.parent / "crafter_train" / "stats.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    episodes = [record for record in map(formats.decode, lines) if record and "length" in record]
    if not episodes:
        return np.zeros(0), np.zeros(0), len(lines)
    steps = np.cumsum([episode["length"] for episode in episodes], dtype=np.float64)
    counts = [[n for key, n in x.items() if key.startswith("achievement_")] for x in episodes]
    unlocked = np.cumsum(np.array(counts) > 0, 0)  # [E, 22]
    rates = 100 * unlocked / np.arange(1, len(episodes) + 1)[:, None]
    return steps, crafter_score(rates), len(lines) - len(episodes)
