"""A run directory with damaged files: each is named, none is used, the run goes on."""

import io
import json
import resource
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
    """Pickled, it would leave a file where somebody loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def npz(arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pickled(path, target) -> bytes:
    """The episode in `path` with an array of objects instead of its rewards."""
    arrays = dict(np.load(path))
    return npz(arrays | {"reward": np.array([Bomb(target)] * len(arrays["reward"]), object)})


def without(path, key) -> bytes:
    """The episode in `path` without a key."""
    return npz({k: v for k, v in np.load(path).items() if k != key})


def test_damaged_episodes_are_set_aside_and_the_run_goes_on(tmp_path, command):
    folder = tmp_path / "run/train_episodes"
    paths = sorted(folder.glob("*.npz"))
    assert len(paths) >= 7
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("notes.txt", "not ours")
    flipped = bytearray(paths[3].read_bytes())
    flipped[len(flipped) // 2] ^= 16
    for path, content in zip(
        paths,
        [
            paths[0].read_bytes()[:-100],
            b"",
            pickled(paths[2], tmp_path / "owned"),
            flipped,
            foreign.getvalue(),
            without(paths[5], "place"),
        ],
    ):
        path.write_bytes(content)
    damaged = sum(int(path.stem.rpartition("-")[2]) for path in paths[:6])
    status, said = run(LIGHT, *command, "--steps", "400", log=tmp_path / "log")
    assert status == 0 and "Done: 400" in said, said[-3000:]
    # What is wrong inside the data is found when it is read, everything else at the start.
    assert "Set aside 5 damaged episode files" in said and "it has no place" in said
    assert f"Set aside damaged episode {paths[3].name}.damaged: the checksum of" in said
    assert sorted(folder.glob("*.damaged")) == [p.with_name(f"{p.name}.damaged") for p in paths[:6]]
    assert not (tmp_path / "owned").exists(), "a pickle was executed"
    assert number(said, "Continuing from agent step ") == 200, "the checkpoint's step stays"
    last = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    counted = [line["train_total_steps"] for line in last if "train_total_steps" in line][-1]
    assert counted <= 400 - damaged, "damaged episodes are counted as steps"
    assert steps_on_disk(tmp_path / "run") == 400 - damaged
    check_episodes(tmp_path / "run")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, command):
    folder = tmp_path / "run/checkpoints"
    older, newest = sorted(folder.iterdir())
    content = bytearray((newest / "variables.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "variables.npz").write_bytes(content)
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


def test_damaged_metrics_are_repaired_and_said_so(tmp_path, command):
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = [b"\0" * 50 + b"\n", lines[1], *lines[3:], b'{"step": 19']
    path.write_bytes(b"".join([*lines[:3], *torn]))
    status, said = run(LIGHT, *command, "--steps", "300", log=tmp_path / "log")
    assert status == 0 and "2 damaged line(s) dropped" in said, said[-3000:]
    assert check_metrics(path) > len(lines)
    assert path.read_bytes().startswith(b"".join(lines)), "valid lines were changed"


def test_changes_of_the_config_are_listed_and_harmless_ones_accepted(tmp_path, command):
    more = ["--steps", "250", "--train_every", "7", "--dataset.batch", "2", "--log_every", "30"]
    status, said = run(LIGHT, *command, *more, log=tmp_path / "log")
    assert status == 0 and number(said, "Continuing from agent step ") == 200, said[-3000:]
    for change in (
        "train_every was 5, now 7.",
        "dataset.batch was 4, now 2.",
        "log_every was 20, now 30.",
        "steps was 200, now 250.",
    ):
        assert f"Changed since the last start: {change}" in said
    # A copied run has another logdir as well.
    assert said.count("Changed since") == 5, "it lists what did not change"


def contents(folder) -> dict:
    """Path -> content of all files but the lock, which every start takes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "flags, environment, sentence",
    [
        # A longer prefill would collect first, were the checkpoint looked at only after it.
        (
            ["--prefill", "1000"],
            {"PRECIOUS": "1001"},
            "weights is [1000] in the checkpoint, [1001] in this model",
        ),
        # The steps of metrics.jsonl are frames: with another repeat all of them would be wrong.
        # A smaller replay would delete episodes, before it turns out that nothing fits.
        (["--replay.capacity", "40"], {"PRECIOUS": "1001"}, "[1001] in this model"),
        (["--action_repeat", "2"], {}, "has action_repeat 1, not 2: give the flags"),
        (["--task", "gym_Acrobot-v1"], {}, "has task gym_CartPole-v1, not gym_Acrobot-v1"),
    ],
)
def test_a_command_that_is_refused_changes_nothing(flags, environment, sentence, tmp_path, command):
    before = contents(tmp_path / "run")
    status, said = run(LIGHT, *command, *flags, log=tmp_path / "log", **environment)
    assert status == 2 and "Traceback" not in said
    assert sentence in said
    assert contents(tmp_path / "run") == before


def test_an_interval_may_change_its_unit(tmp_path, command):
    for interval, steps in (("600s", 250), ("40", 300)):
        more = ["--checkpoint_every", interval, "--steps", steps]
        status, said = run(LIGHT, *command, *more, log=tmp_path / "log")
        assert status == 0 and f"Done: {steps}" in said, said[-3000:]


def test_waiting_in_vain_for_a_long_enough_episode_ends_with_advice(tmp_path):
    arguments = [*SHORT, "--replay.minlen", "50", "--replay.maxlen", "50"]
    arguments += ["--logdir", tmp_path / "run"]
    status, said = run(LIGHT, *arguments, log=tmp_path / "log", EPISODE="12 20")
    assert status == 2 and "Traceback" not in said
    assert "has at least minlen=50 rows" in said and "Lower --replay.minlen" in said


# --- TensorBoard ---


def test_a_full_tensorboard_file_never_stops_training(tmp_path):
    # Videos make event files the largest ones; what the run says goes to a file as well, hence
    # few words.
    size = 120_000
    arguments = [*SHORT, "--logdir", tmp_path / "run", "--steps", "800", "--eval_every", "30"]
    arguments += ["--log_every", "400"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    status, said = run(LIGHT, *arguments, log=tmp_path / "log", before=limit)
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
