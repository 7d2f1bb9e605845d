"""Both examples run with the flags that their first lines name."""

import runpy
import sys

import pytest
from commandline import FLAGS
from sources import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in this process, which has loaded TensorFlow; returns its output."""

    def call(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, "--logdir", str(tmp_path / "run"), *flags])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_minigrid(run, tmp_path):
    pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    printed = run("minigrid_task.py", *FLAGS)
    assert "Done: 60 agent steps" in printed
    logged = (tmp_path / "run/metrics.jsonl").read_text()
    for name in ("train_return", "eval_return", "model_loss", "actor_loss"):
        assert f'"{name}": ' in logged, f"the library does not log {name}"
    assert "task: custom_MiniGrid-DoorKey-6x6-v0" in (tmp_path / "run/config.yaml").read_text(), (
        "the task in plots is the name of the environment"
    )


@pytest.mark.slow
def test_custom_env(run):
    printed = run("custom_env.py", *FLAGS, "--envs", "2")
    assert "Done: 60 agent steps" in printed
    assert "Playing: 0.0" in printed or "Playing: 1.0" in printed, (
        "the example ends with an episode of the trained policy"
    )
