"""A run directory with damaged files: each is named, none is used, the run goes on."""

import functools
import os
import shutil
import zipfile

import numpy as np
import pytest
import reliable
from reliable import check_episodes, check_metrics, checkpoints, number, run_light, steps_on_disk


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory of 200 steps."""
    folder = tmp_path_factory.mktemp("finished")
    run_light("--steps", "200", "--logdir", folder / "run", log=folder / "log")
    return folder / "run"


@pytest.fixture
def again(tmp_path, finished):
    """A function that continues a run of 200 steps in `tmp_path / "run"`, returning the output."""
    shutil.copytree(finished, tmp_path / "run")
    return functools.partial(run_light, "--logdir", tmp_path / "run", log=tmp_path / "log")


class Bomb:
    """An object that makes a folder when it is loaded from a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_damaged_episodes_are_set_aside_and_the_run_goes_on(tmp_path, again):
    folder = tmp_path / "run/train_episodes"
    paths = sorted(folder.glob("*.npz"))
    assert len(paths) >= 7
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[1].write_bytes(b"")
    bombs = np.array([Bomb(tmp_path / "executed")] * len(np.load(paths[2])["reward"]))
    np.savez(paths[2], **{**np.load(paths[2]), "reward": bombs})
    flip_bit(paths[3])
    with zipfile.ZipFile(paths[4], "w") as archive:
        archive.writestr("notes.txt", "not ours")
    np.savez(paths[5], **{k: v for k, v in np.load(paths[5]).items() if k != "place"})
    damaged = sum(int(path.stem.rpartition("-")[2]) for path in paths[:6])
    said = again("--steps", "400")
    assert "Done: 400" in said
    # A flipped bit in the data is found when it is read, all other damage at the start.
    assert "Set aside 5 damaged episode files" in said and "it has no place" in said
    assert f"Set aside damaged episode {paths[3].name}.damaged: the checksum of" in said
    assert sorted(folder.glob("*.damaged")) == [p.with_name(f"{p.name}.damaged") for p in paths[:6]]
    assert not (tmp_path / "executed").exists(), "a pickle was executed"
    assert number(said, "Continuing from agent step ") == 200, "the checkpoint's step stays"
    assert steps_on_disk(tmp_path / "run") == 400 - damaged
    check_episodes(tmp_path / "run")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, again):
    folder = tmp_path / "run/checkpoints"
    older, newest = sorted(folder.iterdir())
    flip_bit(newest / "variables.npz")
    said = again("--steps", "300")
    assert f"Warning: checkpoint {newest} is damaged" in said
    assert f"Warning: using the checkpoint of step {int(older.name)} instead." in said
    assert number(said, "Continuing from agent step ") == 200, "the experience is all there"
    assert number(said, "Weights of step ") <= int(older.name)
    assert checkpoints(tmp_path / "run")[-1] == 300


def test_no_checkpoint_left_to_fall_back_to_is_an_error_and_no_new_start(tmp_path, again):
    for marker in (tmp_path / "run/checkpoints").glob("*/complete.json"):
        marker.unlink()
    said = again("--steps", "300", status=2)
    assert "Every checkpoint in" in said and "is damaged" in said


def test_changes_of_the_config_are_listed_and_harmless_ones_accepted(again):
    said = again("--steps=250", "--train_every=7", "--dataset.batch=2", "--log_every=30")
    assert number(said, "Continuing from agent step ") == 200
    for change in ("train_every was 5, now 7", "dataset.batch was 4, now 2", "log_every was 20,"):
        assert f"Changed since the last start: {change}" in said
    # A copied run has another logdir as well.
    assert said.count("Changed since") == 5, "it lists what did not change"


def contents(folder) -> dict:
    """Path -> content of all files but the lock, which every start takes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "flags, size, sentence",
    [
        # A longer prefill would collect first, were the checkpoint looked at only after it.
        ("--prefill 1000", 1001, "weights is [1000] in the checkpoint, [1001] in this model"),
        # A smaller replay would delete episodes, before it turns out that nothing fits.
        ("--replay.capacity 40", 1001, "[1001] in this model"),
        # The steps of metrics.jsonl are frames: with another repeat all of them would be wrong.
        ("--action_repeat 2", 1000, "has action_repeat 1, not 2: give the flags"),
        ("--task gym_Acrobot-v1", 1000, "has task gym_CartPole-v1, not gym_Acrobot-v1"),
    ],
)
def test_a_command_that_is_refused_changes_nothing(flags, size, sentence, tmp_path, again):
    before = contents(tmp_path / "run")
    assert sentence in again(*flags.split(), status=2, PRECIOUS=str(size))
    assert contents(tmp_path / "run") == before


def test_a_full_tensorboard_file_never_stops_training(tmp_path):
    # Videos make event files the largest files; the output goes to a file as well, hence few logs.
    size, flags = 120_000, ["--steps", "800", "--eval_every", "30", "--log_every", "400"]
    options = {"log": tmp_path / "log", "file_size": size}
    said = run_light("--logdir", tmp_path / "run", *flags, **options)
    assert "Done: 800" in said
    assert said.count("Warning: cannot write TensorBoard events to") == 1
    assert "training goes on without them" in said
    written = list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert len(written) > 1 and max(path.stat().st_size for path in written) > size / 2
    check_metrics(tmp_path / "run/metrics.jsonl")
    assert checkpoints(tmp_path / "run")[-1] == 800


def test_a_tensorboard_directory_that_cannot_be_written_never_stops_training(tmp_path, monkeypatch):
    # The loop is given outputs of which TensorBoard's has no folder: as read-only, but for root.
    (tmp_path / "blocked").write_text("a file where the folder should be")
    code = (
        "import runpy; from dreamerv2 import runner; from pathlib import Path\n"
        "board = runner.TensorBoardOutput\n"
        f"blocked = Path({str(tmp_path)!r}, 'blocked')\n"
        "runner.TensorBoardOutput = lambda folder, start: board(blocked, start)\n"
        f"runpy.run_path({str(reliable.LIGHT)!r}, run_name='__main__')\n"
    )
    (tmp_path / "blocked.py").write_text(code)
    monkeypatch.setattr(reliable, "LIGHT", tmp_path / "blocked.py")
    said = run_light("--logdir", tmp_path / "run", "--steps", "200", log=tmp_path / "log")
    assert "Done: 200" in said
    assert said.count("Warning: cannot write TensorBoard events to") == 1
    assert check_metrics(tmp_path / "run/metrics.jsonl") > 5
