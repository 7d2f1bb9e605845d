"""One process per logdir, with real processes that really die."""

import errno
import fcntl
import json
import os
import signal
import socket
from unittest.mock import Mock

import pytest
from episode_rows import start_python

from dreamerv2.common.errors import UserError
from dreamerv2.common.run import lock as lock_lib
from dreamerv2.common.run.lock import RunLock

HOLDER = """
import subprocess, sys, time
from dreamerv2.common.run.lock import RunLock
lock = RunLock(sys.argv[1])
worker = subprocess.Popen(["sleep", "60"])
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path and has a worker; (process, worker's id)."""
    with start_python(HOLDER, tmp_path) as process:
        worker = int(process.stdout.readline())
        yield process, worker
        process.kill()
        os.kill(worker, signal.SIGKILL)


def test_second_process_is_refused_naming_the_first(tmp_path, holder):
    before = (tmp_path / lock_lib.FILENAME).read_bytes()
    with pytest.raises(UserError) as refusal:
        RunLock(tmp_path)
    holds = f"process {holder[0].pid} on {socket.gethostname()} (since 20"
    assert holds in str(refusal.value) and str(tmp_path) in str(refusal.value)
    assert (tmp_path / lock_lib.FILENAME).read_bytes() == before


def test_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder[0].kill()
    holder[0].wait()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / lock_lib.FILENAME).read_text())["pid"] == os.getpid()


def test_orphaned_worker_does_not_hold_the_lock_of_its_killed_parent(tmp_path, holder):
    process, worker = holder
    process.kill()
    process.wait()
    os.kill(worker, 0)  # The worker is alive, else this test shows nothing.
    RunLock(tmp_path).release()


def test_released_lock_is_free_again_and_a_refusal_opens_no_files(tmp_path):
    with RunLock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UserError, match=str(os.getpid())):
            RunLock(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before
    lock = RunLock(tmp_path)
    lock.release()
    lock.release()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("content", [b"\0\0\0", b"[]", b'{"pid": 5}', b"\xff\xfe"])
def test_any_content_of_the_lock_file_is_accepted(tmp_path, content, monkeypatch):
    monkeypatch.setattr(lock_lib, "WAIT", 0.01)
    (tmp_path / lock_lib.FILENAME).write_bytes(content)
    with RunLock(tmp_path):
        (tmp_path / lock_lib.FILENAME).write_bytes(content)
        with pytest.raises(UserError, match="in use by another process"):
            RunLock(tmp_path)


def test_logdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="Could not write .*file.*Choose a --logdir"):
        RunLock(tmp_path / "file" / "run")


def test_a_marker_decides_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    no_locks = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=no_locks))
    child = os.fork()
    if not child:
        RunLock(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / lock_lib.MARKER).exists(), "the killed process had the lock"
    with RunLock(tmp_path), pytest.raises(UserError, match="in use.* delete .*run.lock.marker"):
        RunLock(tmp_path)
    RunLock(tmp_path).release()
    assert not (tmp_path / lock_lib.MARKER).exists()
