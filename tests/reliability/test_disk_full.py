"""A full disk: a clear message, nothing half-written, and after room is made it goes on."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
from reliable import (
    LIGHT,
    ROOT,
    SHORT,
    check_episodes,
    check_metrics,
    checkpoints,
    number,
    run,
    steps_on_disk,
)

from dreamerv2.common.run.checkpoint import Checkpoint

MANY = ["--steps", "100000", "--eval_every", "100000", "--log_keys_video", "none"]
IN_TMPFS = """
set -e
mount -t tmpfs -o size={size} tmpfs "{mount}"
"{python}" "{script}" {flags} --logdir "{mount}/run" > "{log}" 2>&1 && exit 99 || status=$?
cp -r "{mount}/run" "{kept}"
exit $status
"""


def check_files(logdir) -> int:
    """Assert that every file is whole; return the step of the last checkpoint."""
    check_episodes(logdir)
    check_metrics(logdir / "metrics.jsonl")
    half = [path for path in logdir.rglob("*") if path.name.endswith(".tmp")]
    half += list(logdir.glob("checkpoints/.saving-*"))
    assert not half, f"half-written files were kept: {half}"
    step, arrays, _ = Checkpoint(logdir / "checkpoints").load()
    assert step == checkpoints(logdir)[-1] and (arrays["weights"] <= step).all()
    return step


def check_continues(logdir, folder, step, **environment) -> None:
    """Assert that the same command continues from the experience on disk."""
    command = [*SHORT, *MANY, "--logdir", logdir, "--steps", steps_on_disk(logdir) + 200]
    status, said = run(LIGHT, *command, log=folder / "again", **environment)
    assert status == 0 and "Done: " in said, said[-3000:]
    assert number(said, "Continuing from agent step ") >= step
    assert "damaged" not in said.replace("damaged_episodes 0", "")
    check_files(logdir)


# The file or folder that reaches the limit first, the limit in bytes, and the settings for it.
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "first, size, flags, environment",
    [
        ("train_episodes", 60_000, ["--log_every", "1000"], {"EPISODE": "400 500"}),
        pytest.param("metrics.jsonl", 30_000, ["--log_every", "2"], {}, marks=SLOW),
        pytest.param("checkpoints", 60_000, [], {"PRECIOUS": "10000"}, marks=SLOW),
    ],
)
def test_a_file_that_cannot_grow_ends_the_run_with_one_sentence(
    tmp_path, first, size, flags, environment
):
    command, log = [*SHORT, *MANY, "--logdir", tmp_path / "run"], tmp_path / "log"
    short = {**environment, "EPISODE": "12 20"}
    status, said = run(LIGHT, *command, "--steps", "100", log=log, **short)
    assert status == 0, said[-3000:]
    before = checkpoints(tmp_path / "run")[-1]
    # Its output goes through a pipe, because the limit holds for regular files alone.
    result = subprocess.run(
        [sys.executable, LIGHT, *map(str, [*command, *flags])],
        env={**os.environ, "PYTHONPATH": str(ROOT), **short, **environment},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-3000:]
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert first in error and "File too large" in error and "same command" in error, error
    step = check_files(tmp_path / "run")
    assert step >= before, "the last checkpoint is gone"
    check_continues(tmp_path / "run", tmp_path, step, **short)


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a tmpfs")
@pytest.mark.parametrize("where", ["beside", pytest.param("on it", marks=pytest.mark.slow)])
def test_a_really_full_disk_ends_the_run_and_room_continues_it(tmp_path, where):
    (tmp_path / "mount").mkdir()
    paths = {"mount": tmp_path / "mount", "kept": tmp_path / "kept", "log": tmp_path / "log"}
    if where == "on it":  # the output of the run goes to the full disk as well
        paths["log"] = tmp_path / "mount/log"
    flags = " ".join(map(str, [*SHORT, *MANY]))
    code = IN_TMPFS.format(size="3m", python=sys.executable, script=LIGHT, flags=flags, **paths)
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if result.stderr.startswith(("mount:", "unshare:")):
        pytest.skip(f"cannot mount here: {result.stderr.strip()}")
    assert result.returncode not in (0, 99), "a full disk is no success"
    if where == "beside":
        said = (tmp_path / "log").read_text()
        assert result.returncode == 2 and "Traceback" not in said, said[-3000:]
        assert said.splitlines()[-1].startswith("Error: ") and "No space left" in said
    step = check_files(tmp_path / "kept")
    check_continues(tmp_path / "kept", tmp_path, step)
