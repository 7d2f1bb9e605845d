"""Unusual observations and several environments, through the real command line."""

import json
from pathlib import Path

import numpy as np
import odd_envs
import pytest
from commandline import TINY, finish, run_here, start

SOON = [
    *("--prefill", "40", "--steps", "120", "--train_every", "20", "--eval_every", "60"),
    *("--log_every", "40", "--jit", "False", "--replay.minlen", "8", "--replay.maxlen", "8"),
    *("--dataset.batch", "4", "--dataset.length", "8", *TINY),
]


def episodes(folder, mode="train"):
    """Return all stored episodes, read without our own code."""
    files = sorted((folder / "run" / f"{mode}_episodes").glob("*.npz"))
    return [dict(np.load(path)) for path in files]


def test_images_vectors_and_scalars_together_pass_through_the_whole_run(tmp_path, capsys):
    keys = ["--encoder.mlp_keys", "joints|speed", "--log_keys_max", "log_count"]
    videos = ["--log_keys_video", "front", "map"]
    where = ["--logdir", tmp_path / "run"]
    run_here("--task", "gym_odd_envs:Mixed-v0", *SOON, *keys, *videos, *where)
    said = capsys.readouterr().out.splitlines()
    left_out = [line for line in said if line.startswith("Not ")]
    assert left_out == ["Not read, by --encoder.cnn_keys and --encoder.mlp_keys: gear."]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    names = set().union(*lines)
    assert names >= {f"{key}_loss" for key in ("front", "map", "joints", "speed", "gear")}
    assert not any("log_count_loss" in name for name in names), "a log_ key was trained on"
    assert {line["max_train_log_count"] for line in lines if "train_return" in line} == {12}
    assert {line["train_return"] for line in lines if "train_return" in line} == {6}
    rows = episodes(tmp_path)[0]
    shapes = {"front": (64, 64, 4), "map": (64, 64, 1), "joints": (4,), "speed": (), "gear": (3,)}
    assert {key: rows[key].shape[1:] for key in shapes} == shapes
    assert np.array_equal(rows["speed"], np.arange(13)), "the scalar is stored as it came"
    assert rows["is_terminal"].tolist() == [False] * 12 + [True]


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_nan_in_an_observation_stops_the_run_and_names_the_key(parallel, tmp_path):
    command = ["--task", "gym_odd_envs:Broken-v0", "--envs_parallel", parallel, *SOON]
    found = {"PYTHONPATH": str(Path(odd_envs.__file__).parent)}
    result = finish(start(*command, "--logdir", "run", cwd=tmp_path, **found), 300)
    assert result.returncode == 2
    assert "'speed' contains NaN or Inf" in result.stderr and "must be finite" in result.stderr
    assert "Traceback" not in result.stderr, "one sentence is enough"


def test_four_processes_record_whole_episodes(tmp_path):
    arguments = ["--envs", "4", "--envs_parallel", "process", "--eval_eps", "3"]
    run_here("--task", "gym_odd_envs:Mixed-v0", *SOON, *arguments, "--logdir", tmp_path / "run")
    stored = episodes(tmp_path)
    assert [len(rows["speed"]) for rows in stored].count(13) >= 8
    assert len({rows["front"][0].tobytes() for rows in stored}) == len(stored), "equal seeds"
    for rows in stored:  # the last four are cut off by the end of the run
        length = len(rows["speed"])
        assert np.array_equal(rows["speed"], np.arange(length)), "rows of two environments mixed"
        assert rows["is_first"].tolist() == [True] + [False] * (length - 1)
        assert rows["is_terminal"].tolist() == [False] * (length - 1) + [length == 13]
        assert not rows["action"][0].any() and rows["action"][1:].any(-1).all()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert {line["train_length"] for line in lines if "train_length" in line} == {12}
    finished = len(episodes(tmp_path, "eval"))
    assert finished == 1 + 2 * 3, "one random episode, then 3 at each of two evaluations"
    assert lines[-1]["step"] == 120
