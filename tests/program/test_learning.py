"""Learning through the real command line, with the commands of docs/learning.md."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sources import ROOT

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


def learn(logdir, task: str, goal: float, minutes: float, last: int, score=np.mean) -> None:
    """Train until the goal is reached; fail if the time or the run ends before.

    Args:
        score: maps the returns of the `last` episodes to a number, to compare with the goal.
    """
    run_command = [sys.executable, str(ROOT / "train.py"), "--logdir", str(logdir), *command(task)]
    with (logdir / "output.txt").open("w") as output:
        run = subprocess.Popen(run_command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    start, reached = time.monotonic(), -np.inf
    try:
        while reached < goal and run.poll() is None and time.monotonic() < start + minutes * 60:
            time.sleep(2)
            values = returns(logdir)
            reached = score(values[-last:]) if len(values) >= last else -np.inf
        took = (time.monotonic() - start) / 60
        print(f"{task}: {reached:.2f} in {len(returns(logdir))} episodes and {took:.1f} minutes")
        said = (logdir / "output.txt").read_text()[-2000:]
        assert reached >= goal, (
            f"{task} is at {reached:.2f}, not {goal}, after {took:.1f} min: {said}"
        )
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)


def test_a_room_is_learned_from_pixels_and_sparse_reward(tmp_path):
    def successes(values):
        return (values > 0).mean()

    learn(tmp_path, "minigrid_Empty-Random-6x6", 0.9, minutes=40, last=50, score=successes)


def test_pendulum_is_learned_by_gradients_through_the_dynamics(tmp_path):
    learn(tmp_path, "gym_Pendulum-v1", -250, minutes=30, last=20)


def test_cartpole_is_learned(tmp_path):
    learn(tmp_path, "gym_CartPole-v1", 400, minutes=20, last=20)
