"""Unusual observations from four environments in processes, through the real command line."""

import json

import numpy as np
import pytest
from commandline import FLAGS, run_here
from reliable import episodes

SHORT = [
    *(*FLAGS, "--steps=120", "--train_every=20", "--eval_every=60", "--log_every=40"),
    *("--envs=4", "--envs_parallel=process", "--eval_eps=3"),
]
LENGTH = 12  # steps of an episode of Mixed


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """Train once on images, vectors and scalars together; return the run's directory."""
    folder = tmp_path_factory.mktemp("mixed")
    keys = ["--encoder.mlp_keys", "joints|speed", "--log_keys_max", "log_count"]
    videos = ["--log_keys_video", "front", "map"]
    run_here("--task", "gym_odd_envs:Mixed-v0", *SHORT, *keys, *videos, "--logdir", folder)
    return folder


@pytest.fixture(scope="module")
def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").open()]


def test_every_observation_is_predicted_and_log_keys_are_not(lines):
    names = set().union(*lines)
    assert names >= {f"{key}_loss" for key in ("front", "map", "joints", "speed", "gear")}
    assert not any("log_count_loss" in name for name in names), "a log_ key was trained on"
    assert {line["max_train_log_count"] for line in lines if "train_return" in line} == {LENGTH}
    assert {line["train_return"] for line in lines if "train_return" in line} == {LENGTH / 2}


def test_observations_are_stored_in_their_own_shapes(logdir):
    rows = next(rows for rows in episodes(logdir) if len(rows["speed"]) == LENGTH + 1)
    shapes = {"front": (64, 64, 4), "map": (64, 64, 1), "joints": (4,), "speed": (), "gear": (3,)}
    assert {key: rows[key].shape[1:] for key in shapes} == shapes


def test_four_processes_record_whole_episodes(logdir, lines):
    stored = episodes(logdir)
    assert [len(rows["speed"]) for rows in stored].count(LENGTH + 1) >= 8
    assert len({rows["front"][0].tobytes() for rows in stored}) == len(stored), "equal seeds"
    for rows in stored:  # the end of the run cuts the last four
        length = len(rows["speed"])
        assert np.array_equal(rows["speed"], np.arange(length)), "rows of two environments mixed"
        assert rows["is_first"].tolist() == [True] + [False] * (length - 1)
        assert rows["is_terminal"].tolist() == [False] * (length - 1) + [length == LENGTH + 1]
        assert not rows["action"][0].any() and rows["action"][1:].any(-1).all()
    assert {line["train_length"] for line in lines if "train_length" in line} == {LENGTH}
    finished = list((logdir / "eval_episodes").glob("*.npz"))
    assert len(finished) == 1 + 2 * 3, "one random episode, then 3 at each of two evaluations"
    assert lines[-1]["step"] == 120
