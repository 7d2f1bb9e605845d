"""Learning through the real command line, with the commands of docs/learning.md."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.learning]


def command(task: str) -> list[str]:
    """Return the flags in docs/learning.md for a task."""
    text = (ROOT / "docs" / "learning.md").read_text()
    (found,) = re.findall(rf"^python train.py --logdir \S+ (.*--task {task}\b.*)$", text, re.M)
    return found.split()


def returns(logdir: Path) -> np.ndarray:
    """Return the training returns so far, in order."""
    path = logdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if '"train_return"' in line]
    return np.array([row["train_return"] for row in rows])


def learn(logdir: Path, task: str, score: Callable, goal: float, minutes: float) -> None:
    """Train until `score(returns)` reaches the goal; fail if the time or the run ends before.

    Args:
        score: maps the returns of all episodes so far to a number.
    """
    run_command = [sys.executable, str(ROOT / "train.py"), "--logdir", str(logdir), *command(task)]
    with (logdir / "output.txt").open("w") as output:
        run = subprocess.Popen(run_command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    start, reached = time.monotonic(), -np.inf
    try:
        while reached < goal and run.poll() is None and time.monotonic() < start + minutes * 60:
            time.sleep(2)
            reached = score(returns(logdir))
        took = (time.monotonic() - start) / 60
        print(f"{task}: {reached:.2f} in {len(returns(logdir))} episodes and {took:.1f} minutes")
        said = (logdir / "output.txt").read_text()[-2000:]
        assert reached >= goal, (
            f"{task} is at {reached:.2f}, not {goal}, after {took:.1f} min: {said}"
        )
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)


def mean_of_last(count: int) -> Callable:
    """Return a score: the mean of the last `count` returns, minus infinity before so many."""

    def score(values: np.ndarray) -> float:
        return values[-count:].mean() if len(values) >= count else -np.inf

    return score


def successes_of_last(count: int) -> Callable:
    """Return a score: the share of the last `count` episodes with a reward."""

    def score(values: np.ndarray) -> float:
        return (values[-count:] > 0).mean() if len(values) >= count else -np.inf

    return score


def test_a_room_is_learned_from_pixels_and_sparse_reward(tmp_path):
    learn(tmp_path, "minigrid_Empty-Random-6x6", successes_of_last(50), 0.9, minutes=40)


def test_pendulum_is_learned_by_gradients_through_the_dynamics(tmp_path):
    learn(tmp_path, "gym_Pendulum-v1", mean_of_last(20), -250, minutes=30)


def test_cartpole_is_learned(tmp_path):
    learn(tmp_path, "gym_CartPole-v1", mean_of_last(20), 400, minutes=20)
