"""Learning itself, through the real command line and with the commands of docs/learning.md."""

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
    """The flags that docs/learning.md gives for a task."""
    text = (ROOT / "docs" / "learning.md").read_text()
    (found,) = re.findall(rf"^python train.py --logdir \S+ (.*--task {task}\b.*)$", text, re.M)
    return found.split()


def returns(logdir: Path) -> np.ndarray:
    """The training returns so far, in order."""
    path = logdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if '"train_return"' in line]
    return np.array([row["train_return"] for row in rows])


def learn(logdir: Path, task: str, level: Callable, bar: float, minutes: float) -> None:
    """Train until `level(returns)` has reached the bar; fail when the time is over or the run is.

    Args:
        level: from the returns of all episodes so far to how good the agent is.
    """
    run_command = [sys.executable, str(ROOT / "train.py"), "--logdir", str(logdir), *command(task)]
    with (logdir / "output.txt").open("w") as output:
        run = subprocess.Popen(run_command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    start, reached = time.monotonic(), -np.inf
    try:
        while reached < bar and run.poll() is None and time.monotonic() < start + minutes * 60:
            time.sleep(2)
            reached = level(returns(logdir))
        took = (time.monotonic() - start) / 60
        print(f"{task}: {reached:.2f} in {len(returns(logdir))} episodes and {took:.1f} minutes")
        said = (logdir / "output.txt").read_text()[-2000:]
        assert reached >= bar, (
            f"{task} is at {reached:.2f}, not {bar}, after {took:.1f} min: {said}"
        )
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)


def mean_of_last(count: int) -> Callable:
    """The mean of the last `count` returns; nothing before there are as many."""
    return lambda scores: scores[-count:].mean() if len(scores) >= count else -np.inf


def successes_of_last(count: int) -> Callable:
    """The share of the last `count` episodes that got a reward."""
    return lambda scores: (scores[-count:] > 0).mean() if len(scores) >= count else -np.inf


def test_a_room_is_learned_from_pixels_and_sparse_reward(tmp_path):
    learn(tmp_path, "minigrid_Empty-Random-6x6", successes_of_last(50), 0.9, minutes=40)


def test_pendulum_is_learned_by_gradients_through_the_dynamics(tmp_path):
    learn(tmp_path, "gym_Pendulum-v1", mean_of_last(20), -250, minutes=30)


def test_cartpole_is_learned(tmp_path):
    learn(tmp_path, "gym_CartPole-v1", mean_of_last(20), 400, minutes=20)
