"""Crafter's score is the shifted geometric mean of success rates, of a curve and an evaluation."""

import json

import numpy as np
import pytest
from result_files import write_run

from dreamerv2 import evaluate
from dreamerv2.common.results import find
from dreamerv2.common.results.crafter import crafter_score

NAMES = ("collect_wood", "eat_cow", "wake_up")


def test_crafter_score_is_the_shifted_geometric_mean_of_success_rates():
    assert crafter_score(np.array([0, 3, 99])) == pytest.approx((1 * 4 * 100) ** (1 / 3) - 1)
    assert crafter_score(np.full((2, 22), 100)) == pytest.approx([100, 100])


def test_a_curve_shows_the_score_of_all_episodes_so_far(tmp_path):
    """A run of another task has no such curve, and a cut line is counted as damage."""
    run = write_run(tmp_path / "crafter_reward" / "a" / "0", [1])
    other = write_run(tmp_path / "atari_pong" / "a" / "0", [1])
    (run / "crafter_train").mkdir()
    counts = ([2, 0, 1], [0, 0, 5])
    lines = [
        {"length": 150, "reward": 1.1, **{f"achievement_{n}": c for n, c in zip(NAMES, row)}}
        for row in counts
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "crafter_train" / "stats.jsonl").write_text(text + '{"length": 150, "rew')
    loaded = find.load({tmp_path: ""}, tmp_path / "plots", yaxes=["crafter_score"])
    assert [(run.task, run.xs.tolist()) for run in loaded.items] == [("crafter_reward", [150, 300])]
    scores = [(101 * 1 * 101) ** (1 / 3) - 1, (51 * 1 * 101) ** (1 / 3) - 1]
    assert loaded.items[0].ys == pytest.approx(scores)
    assert any("1 damaged lines" in note for note in loaded.notes)
    assert any(str(other) in note for note in loaded.notes)


def test_an_evaluation_prints_and_writes_the_score_of_a_crafter_task(tmp_path, capsys):
    results = evaluate.Results(evaluate.Run(tmp_path, "crafter_reward", 1000), 0)
    for counts in ([2, 0, 1], [0, 0, 5]):
        achievements = {f"log_achievement_{n}": np.float32(c) for n, c in zip(NAMES, counts)}
        for last in (False, True):
            flags = {"is_first": not last, "is_last": last, "reward": np.float32(last)}
            results({**flags, **achievements}, 0)
    results.conclude()
    score = (51 * 1 * 101) ** (1 / 3) - 1
    summary = json.loads((tmp_path / "eval.jsonl").read_text().splitlines()[-1])
    assert summary["crafter_score"] == pytest.approx(score)
    assert f"Crafter score {score:.2f}%" in capsys.readouterr().out
