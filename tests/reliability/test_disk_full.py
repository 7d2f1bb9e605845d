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
    run_light,
    steps_on_disk,
)

from dreamerv2.common.run.checkpoint import Checkpoint

MANY = ["--steps", "100000", "--eval_every", "100000", "--log_keys_video", "none"]
IN_TMPFS = """
set -e
mount -t tmpfs -o size=3m tmpfs mount
"{python}" "{script}" {flags} --logdir "$PWD/mount/run" > {log} 2>&1 && exit 99 || status=$?
cp -r mount/run kept
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
    flags = [*MANY, "--logdir", logdir, "--steps", steps_on_disk(logdir) + 200]
    said = run_light(*flags, log=folder / "again", **environment)
    assert "Done: " in said and number(said, "Continuing from agent step ") >= step
    assert "damaged" not in said.replace("damaged_episodes 0", "")
    check_files(logdir)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "first, size, flags, environment",  # first: the file or folder that reaches the limit first
    [
        ("train_episodes", 60_000, ["--log_every", "1000"], {"EPISODE": "400 500"}),
        pytest.param("metrics.jsonl", 30_000, ["--log_every", "2"], {}, marks=SLOW),
        pytest.param("checkpoints", 60_000, [], {"PRECIOUS": "10000"}, marks=SLOW),
    ],
)
def test_a_file_that_cannot_grow_ends_the_run(tmp_path, first, size, flags, environment):
    command, short = [*MANY, "--logdir", tmp_path / "run"], {**environment, "EPISODE": "12 20"}
    run_light(*command, "--steps", "100", log=tmp_path / "log", **short)
    before = checkpoints(tmp_path / "run")[-1]
    # Its output goes through a pipe, because the limit holds for regular files alone.
    result = subprocess.run(
        [sys.executable, LIGHT, *map(str, [*SHORT, *command, *flags])],
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
    # The output of the run goes beside the full disk, or to it as well.
    log = "log" if where == "beside" else "mount/log"
    flags = " ".join([*SHORT, *MANY])
    code = IN_TMPFS.format(python=sys.executable, script=LIGHT, flags=flags, log=log)
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", code],
        cwd=tmp_path,
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
