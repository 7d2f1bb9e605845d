"""One process per logdir, with real processes that really die."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from dreamerv2.common.errors import UserError
from dreamerv2.common.run import lock as lock_lib
from dreamerv2.common.run.lock import RunLock

HOLDER = """
    import os, sys, time
    from dreamerv2.common.run.lock import RunLock
    lock = RunLock(sys.argv[1])
    child = os.fork() if "fork" in sys.argv else None
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child or "held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock of tmp_path; yields (process, first line)."""
    processes = []

    def start(*args):
        command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), *args]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_second_process_is_refused_naming_the_first(tmp_path, holder):
    process, _ = holder()
    with pytest.raises(UserError) as refusal:
        RunLock(tmp_path)
    assert f"process {process.pid} on {socket.gethostname()}" in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    process, _ = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / lock_lib.FILENAME).read_text())["pid"] == os.getpid()


def test_orphaned_worker_does_not_hold_the_lock_of_its_killed_parent(tmp_path, holder):
    process, worker = holder("fork")
    with pytest.raises(UserError):
        RunLock(tmp_path)
    process.kill()
    process.wait()
    try:
        os.kill(int(worker), 0)  # The worker is alive, else this test shows nothing.
        RunLock(tmp_path).release()
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_forked_worker_leaves_the_lock_with_its_parent(tmp_path):
    with RunLock(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UserError):
            RunLock(tmp_path)


def test_released_lock_is_free_again_in_the_same_process(tmp_path):
    with RunLock(tmp_path), pytest.raises(UserError, match=str(os.getpid())):
        RunLock(tmp_path)
    lock = RunLock(tmp_path)
    lock.release()
    lock.release()


def test_failed_attempts_leak_no_file_descriptors(tmp_path):
    with RunLock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(UserError):
                RunLock(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"[]", b'{"pid": 5}', b"\xff\xfe"])
def test_nonsense_in_the_lock_file_does_not_matter(tmp_path, content):
    (tmp_path / lock_lib.FILENAME).write_bytes(content)
    RunLock(tmp_path).release()


def test_logdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("here stands a file")
    with pytest.raises(UserError, match="Cannot write to the logdir .*choose a --logdir"):
        RunLock(tmp_path / "file" / "run")


class TestFileSystemWithoutLocks:
    """Only the operating system's answer is replaced; the decision tested is ours."""

    @pytest.fixture(autouse=True)
    def no_flock(self, monkeypatch):
        def flock(fd, operation):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)

    def write(self, tmp_path, **changes):
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": "then", "born": None}
        (tmp_path / lock_lib.FILENAME).write_text(json.dumps(owner | changes))

    def test_living_process_is_respected(self, tmp_path, holder):
        process, _ = holder()
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            RunLock(tmp_path)

    def test_dead_process_is_taken_over(self, tmp_path, holder):
        process, _ = holder()
        process.kill()
        process.wait()
        RunLock(tmp_path).release()

    def test_reused_process_id_is_taken_over(self, tmp_path):
        self.write(tmp_path, born=1)
        RunLock(tmp_path).release()

    def test_other_host_is_respected_and_the_way_out_is_named(self, tmp_path):
        self.write(tmp_path, host="elsewhere")
        with pytest.raises(UserError, match=r"on elsewhere .*delete .*run\.lock"):
            RunLock(tmp_path)
