"""Both examples run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT
from tiny import FLAGS


def run_example(name: str, logdir: Path, *flags: str) -> str:
    """Run an example in its own process; return its output."""
    command = [sys.executable, ROOT / "examples" / name, "--logdir", logdir, *flags]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, f"{name} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def test_minigrid(tmp_path):
    pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    printed = run_example("minigrid_task.py", tmp_path / "run", *FLAGS)
    assert "Done: 60 agent steps" in printed
    logged = (tmp_path / "run/metrics.jsonl").read_text()
    for name in ("train_return", "eval_return", "model_loss", "actor_loss"):
        assert f'"{name}": ' in logged, f"the library does not log {name}"
    assert "task: custom_MiniGrid-DoorKey-6x6-v0" in (tmp_path / "run/config.yaml").read_text(), (
        "the task in plots is the name of the environment"
    )


@pytest.mark.slow
def test_custom_env(tmp_path):
    printed = run_example("custom_env.py", tmp_path / "run", *FLAGS, "--envs", "2")
    assert "Done: 60 agent steps" in printed
    assert "Playing: 0.0" in printed or "Playing: 1.0" in printed, (
        "the example ends with an episode of the trained policy"
    )
