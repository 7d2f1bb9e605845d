"""SIGTERM and SIGINT end a run politely, a second Ctrl-C at once; neither leaves a process."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
from reliable import (
    LIGHT,
    ROOT,
    SHORT,
    alive,
    checkpoints,
    children,
    number,
    run,
    start,
    steps_on_disk,
    wait_for,
)

from dreamerv2.common import stdio
from dreamerv2.common.run import signals

WORKERS = ["--envs", "2", "--envs_parallel", "process"]
# Quick tests of SIGINT: test_a_second_interrupt_stops_at_once... below, and test_stopped_runs.py.
NAMES = ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)]


@pytest.fixture
def process(tmp_path):
    """Starts the light run with worker processes and kills it when the test is over."""
    started = []

    def begin(*more, **environment):
        arguments = [*SHORT, *WORKERS, "--logdir", tmp_path / "run", *more]
        environment = {"BLACK_BOX": str(tmp_path / "box"), **environment}
        started.append(start(LIGHT, *arguments, log=tmp_path / "log", **environment))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.wait()


def end(process, *signals, grace=0) -> tuple[float, list[int]]:
    """Send signals and wait for the end; return how long it took and the workers still alive
    after `grace` seconds."""
    workers = children(process.pid)
    begin = time.monotonic()
    for number_of_signal in signals:
        process.send_signal(number_of_signal)
        time.sleep(0.05)
    process.wait(60)
    took = time.monotonic() - begin
    if grace:
        time.sleep(grace)
    return took, [pid for pid in workers if alive(pid)]


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_saves_every_step_and_ends_all_workers(process, tmp_path, name):
    # Episodes of 1000 steps: the unfinished ones are what could be lost.
    going = process(EPISODE="1000 1000")
    wait_for(going, tmp_path / "log", "fake_loss")
    assert len(children(going.pid)) == 3, "two workers collect, one evaluates"
    took, orphans = end(going, signal.Signals[name])
    said = (tmp_path / "log").read_text()
    assert going.returncode == 0, said[-3000:]
    assert took < 15, f"it took {took:.1f} s to stop"
    assert not orphans, "workers were left behind"
    step = number(said, "Stopped at agent step ")
    assert name in said and "The same command continues the run." in said
    taken = (tmp_path / "box").stat().st_size
    assert taken == step == steps_on_disk(tmp_path / "run") == checkpoints(tmp_path / "run")[-1]


def test_a_terminal_that_is_closed_loses_nothing(tmp_path):
    """As at the end of an ssh session: SIGHUP, and all further output fails."""
    arguments = [*SHORT, "--logdir", tmp_path / "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EPISODE": "1000 1000"}
    command = [sys.executable, str(LIGHT), *map(str, arguments)]
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup themselves
        os.execve(sys.executable, command, environment)
    killer = threading.Timer(60, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        said = b""
        while b"fake_loss" not in said:
            said += os.read(terminal, 4096)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        killer.cancel()
    assert 0 < steps_on_disk(tmp_path / "run") == checkpoints(tmp_path / "run")[-1]


def test_a_signal_in_the_midst_of_printing_is_noticed(capsys):
    """Whoever reads the output may be slow; and no print may begin within another."""

    class Hurried:
        done = False

        def hurry(self):
            self.done = True

    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    waiting = Hurried()
    with signals.StopRequest(waiting) as stop, contextlib.redirect_stdout(Busy()):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received == signal.SIGTERM and waiting.done
    assert stop and stop and capsys.readouterr().out.count("SIGTERM: finishing") == 1


def test_a_slow_reader_of_the_output_costs_no_checkpoint(tmp_path):
    arguments = [*SHORT, "--logdir", tmp_path / "run", "--log_every", 2]
    process = subprocess.Popen(
        [sys.executable, str(LIGHT), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "EPISODE": "12 20"},
        stdout=subprocess.PIPE,
    )
    try:
        before = -1
        while before != (before := steps_on_disk(tmp_path / "run")) or before < 1:
            time.sleep(1)  # until the pipe is full
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
    assert 0 < steps_on_disk(tmp_path / "run") == checkpoints(tmp_path / "run")[-1]


def test_without_any_output_it_runs_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as after >&- in a shell
    with stdio.survive_closed_terminal():
        print("unseen", flush=True)
        assert not sys.stdout.isatty()


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_printing_outlives_what_it_prints_to(kind):
    """A shell tells its children of the end only when their terminal is gone already."""
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    program = """if True:
        import sys
        from dreamerv2.common.stdio import survive_closed_terminal
        with survive_closed_terminal():
            print("seen", flush=True)
            sys.stdin.read()
            for _ in range(3):
                print("unseen", flush=True)
                print("unseen", file=sys.stderr)
    """
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer, stderr=writer)
    os.close(writer)
    assert os.read(reader, 100).strip() == b"seen"
    os.close(reader)
    process.communicate(timeout=60)
    assert process.returncode == 0, "Python could not flush its output as it exited"


def test_a_run_in_a_folder_of_any_name_prints_on_any_terminal(tmp_path):
    command = [*SHORT, "--steps", "80", "--logdir", tmp_path / "\u03b1b"]
    for begun in ("Prefill: ", "Continuing from agent step 80."):
        status, said = run(LIGHT, *command, log=tmp_path / "log", PYTHONIOENCODING="ascii")
        assert status == 0 and "/\\u03b1b\n" in said and begun in said, said[-3000:]
    assert checkpoints(tmp_path / "\u03b1b")[-1] == 80


def test_under_nohup_the_end_of_the_terminal_means_nothing():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.interrupt_on_any_signal(), signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, former)


def test_an_unfinished_episode_too_short_to_sample_is_kept_as_well(process, tmp_path):
    going = process("--replay.minlen", "400", "--replay.maxlen", "400", EPISODE="1000 1000")
    wait_for(going, tmp_path / "log", "Prefill: ")
    time.sleep(0.3)
    assert end(going, signal.SIGTERM)[1] == []
    step = number((tmp_path / "log").read_text(), "Stopped at agent step ")
    assert 0 < step == (tmp_path / "box").stat().st_size == steps_on_disk(tmp_path / "run")


def test_a_second_interrupt_stops_at_once_and_leaves_no_workers(process, tmp_path):
    going = process("--checkpoint_every", "1", PRECIOUS="2000000")  # saves, most of the time
    wait_for(going, tmp_path / "log", "fake_loss")
    time.sleep(0.5)
    took, orphans = end(going, signal.SIGINT, signal.SIGINT)
    said = (tmp_path / "log").read_text()
    assert took < 5 and not orphans, f"{took:.1f} s, {orphans} left"
    assert going.returncode in (0, 130), said[-3000:]  # 0: the first one was quick enough
    assert "Traceback" not in said and "continues the run" in said
    assert (tmp_path / "box").stat().st_size - steps_on_disk(tmp_path / "run") <= 2
    assert checkpoints(tmp_path / "run")
    arguments = [*SHORT, *WORKERS, "--logdir", tmp_path / "run", "--checkpoint_every", "1"]
    arguments += ["--steps", steps_on_disk(tmp_path / "run") + 10]
    status, said = run(LIGHT, *arguments, log=tmp_path / "log", PRECIOUS="2000000")
    assert status == 0 and "Continuing from" in said, said[-2000:]


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_while_it_starts_is_answered_as_well(process, tmp_path, name):
    going = process()
    while not (tmp_path / "run/config.yaml").exists():  # written before there are workers
        assert going.poll() is None
        time.sleep(0.01)
    # A worker that is just being born notices within seconds that nobody needs it any more.
    took, orphans = end(going, signal.Signals[name], grace=3)
    said = (tmp_path / "log").read_text()
    assert took < 15 and not orphans and going.returncode in (0, 130), said[-2000:]
    assert "The same command continues the run." in said and "Traceback" not in said
