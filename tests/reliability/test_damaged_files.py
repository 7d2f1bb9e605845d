"""A run directory with damaged files: each is named, none is used, the run goes on."""

import os
import shutil
import zipfile

import numpy as np
import pytest
from reliable import (
    LIGHT,
    SHORT,
    check_episodes,
    check_metrics,
    checkpoints,
    number,
    run,
    steps_on_disk,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of 200 steps."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = [*SHORT, "--steps", "200", "--logdir", folder / "run"]
    status, said = run(LIGHT, *arguments, log=folder / "log")
    assert status == 0, said[-3000:]
    return folder


@pytest.fixture
def command(tmp_path, finished):
    """The flags that continue a run of 200 steps in `tmp_path / "run"`."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return [*SHORT, "--logdir", tmp_path / "run"]


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


def test_damaged_episodes_are_set_aside_and_the_run_goes_on(tmp_path, command):
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
    status, said = run(LIGHT, *command, "--steps", "400", log=tmp_path / "log")
    assert status == 0 and "Done: 400" in said, said[-3000:]
    # A flipped bit in the data is found when it is read, all other damage at the start.
    assert "Set aside 5 damaged episode files" in said and "it has no place" in said
    assert f"Set aside damaged episode {paths[3].name}.damaged: the checksum of" in said
    assert sorted(folder.glob("*.damaged")) == [p.with_name(f"{p.name}.damaged") for p in paths[:6]]
    assert not (tmp_path / "executed").exists(), "a pickle was executed"
    assert number(said, "Continuing from agent step ") == 200, "the checkpoint's step stays"
    assert steps_on_disk(tmp_path / "run") == 400 - damaged
    check_episodes(tmp_path / "run")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, command):
    folder = tmp_path / "run/checkpoints"
    older, newest = sorted(folder.iterdir())
    flip_bit(newest / "variables.npz")
    status, said = run(LIGHT, *command, "--steps", "300", log=tmp_path / "log")
    assert status == 0, said[-3000:]
    assert f"Warning: checkpoint {newest} is damaged" in said
    assert f"Warning: using the checkpoint of step {int(older.name)} instead." in said
    assert number(said, "Continuing from agent step ") == 200, "the experience is all there"
    assert number(said, "Weights of step ") <= int(older.name)
    assert checkpoints(tmp_path / "run")[-1] == 300


def test_no_checkpoint_left_to_fall_back_to_is_an_error_and_no_new_start(tmp_path, command):
    for marker in (tmp_path / "run/checkpoints").glob("*/complete.json"):
        marker.unlink()
    status, said = run(LIGHT, *command, "--steps", "300", log=tmp_path / "log")
    assert status == 2 and "Traceback" not in said
    assert "Every checkpoint in" in said and "is damaged" in said


def test_changes_of_the_config_are_listed_and_harmless_ones_accepted(tmp_path, command):
    more = ["--steps", "250", "--train_every", "7", "--dataset.batch", "2", "--log_every", "30"]
    status, said = run(LIGHT, *command, *more, log=tmp_path / "log")
    assert status == 0 and number(said, "Continuing from agent step ") == 200, said[-3000:]
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
def test_a_command_that_is_refused_changes_nothing(flags, size, sentence, tmp_path, command):
    before = contents(tmp_path / "run")
    more = {"PRECIOUS": str(size), "log": tmp_path / "log"}
    status, said = run(LIGHT, *command, *flags.split(), **more)
    assert status == 2 and "Traceback" not in said
    assert sentence in said
    assert contents(tmp_path / "run") == before


def test_an_interval_may_change_its_unit(tmp_path, command):
    for interval, steps in (("600s", 250), ("40", 300)):
        more = ["--checkpoint_every", interval, "--steps", steps]
        status, said = run(LIGHT, *command, *more, log=tmp_path / "log")
        assert status == 0 and f"Done: {steps}" in said, said[-3000:]


def test_a_full_tensorboard_file_never_stops_training(tmp_path):
    # Videos make event files the largest files; the output goes to a file as well, hence few logs.
    size = 120_000
    arguments = [*SHORT, "--logdir", tmp_path / "run", "--steps", "800", "--eval_every", "30"]
    arguments += ["--log_every", "400"]
    status, said = run(LIGHT, *arguments, log=tmp_path / "log", file_size=size)
    assert status == 0 and "Done: 800" in said, said[-3000:]
    assert said.count("Warning: cannot write TensorBoard events to") == 1
    assert "training goes on without them" in said
    written = list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert len(written) > 1 and max(path.stat().st_size for path in written) > size / 2
    check_metrics(tmp_path / "run/metrics.jsonl")
    assert checkpoints(tmp_path / "run")[-1] == 800


def test_a_tensorboard_directory_that_cannot_be_written_never_stops_training(tmp_path):
    # The loop is given outputs of which TensorBoard's has no folder: as read-only, but for root.
    (tmp_path / "blocked").write_text("a file where the folder should be")
    code = (
        "import sys, runpy; from dreamerv2 import runner; from pathlib import Path\n"
        "board = runner.TensorBoardOutput\n"
        f"blocked = Path({str(tmp_path)!r}, 'blocked')\n"
        "runner.TensorBoardOutput = lambda folder, start: board(blocked, start)\n"
        f"sys.argv = [{str(LIGHT)!r}, *sys.argv[1:]]\n"
        f"runpy.run_path({str(LIGHT)!r}, run_name='__main__')\n"
    )
    (tmp_path / "blocked.py").write_text(code)
    arguments = [*SHORT, "--logdir", tmp_path / "run", "--steps", "200"]
    status, said = run(tmp_path / "blocked.py", *arguments, log=tmp_path / "log")
    assert status == 0 and "Done: 200" in said, said[-3000:]
    assert said.count("Warning: cannot write TensorBoard events to") == 1
    assert check_metrics(tmp_path / "run/metrics.jsonl") > 5
