"""A run directory of commit 886dca9, before the code was rearranged, continues."""

import json
import shutil
from pathlib import Path

import pytest
from commandline import run_here
from reliable import read_checkpoint

OLD = Path(__file__).parent / "data/run_of_886dca9"
FLAGS = [
    *("--configs", "debug", "--task", "gym_CartPole-v1", "--precision", "32", "--seed", "4"),
    *("--rssm.hidden", "8", "--rssm.deter", "8", "--rssm.stoch", "2", "--rssm.discrete", "4"),
    *(r"--.*\.cnn_depth", "2", r"--.*\.layers", "1", r"--.*\.units", "8"),
    *(r"--.*\.mlp_layers", "8", "--imag_horizon", "3", "--disag_models", "2", "--prefill", "40"),
    *("--time_limit", "30", "--train_every", "10", "--log_every", "40", "--eval_every", "60"),
    *("--eval_eps", "2", "--replay.minlen", "5", "--replay.maxlen", "10"),
    *("--dataset.batch", "2", "--dataset.length", "5", "--checkpoint_every", "40"),
]


@pytest.fixture
def run(tmp_path):
    """A copy of the old run."""
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_an_old_run_is_loaded_whole(run, capsys):
    run_here(*FLAGS, "--logdir", run, "--steps", "120")  # none more
    said = capsys.readouterr().out
    assert "Continuing from agent step 120." in said
    assert said.count("Changed since the last start: ") == 1, "more than the logdir"
    (_, arrays, state), (step, now, after) = read_checkpoint(OLD), read_checkpoint(run)
    assert step == 120 and after == state, "random streams, schedules or places in the replay"
    assert arrays.keys() == now.keys()
    assert all(arrays[k].tobytes() == now[k].tobytes() for k in now), "weights were not loaded"
    assert (run / "metrics.jsonl").read_bytes() == (OLD / "metrics.jsonl").read_bytes()


def test_an_old_run_continues(run, capsys):
    run_here(*FLAGS, "--logdir", run, "--steps", "160")
    said = capsys.readouterr().out
    assert "Prefill:" not in said and "Set aside" not in said and "Done: 160" in said
    (_, _, state), (step, now, after) = read_checkpoint(OLD), read_checkpoint(run)
    assert (step, state["updates"], after["updates"]) == (160, 9, 9 + 4), "at 121, 131, 141, 151"
    assert {int(now[name]) for name in now if name.endswith("_opt/step")} == {13}
    before, lines = (
        [json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (OLD, run)
    )
    assert lines[: len(before)] == before, "the history was changed"
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == 160
    assert lines[-1]["model_loss"] < before[-1]["model_loss"] + 2, "the weights began anew"
    episodes = [{path.name for path in (f / "train_episodes").glob("*.npz")} for f in (OLD, run)]
    assert episodes[0] < episodes[1]
    assert sum(int(name[:-4].rpartition("-")[2]) for name in episodes[1]) == 160
