"""The sweep without Ray: its plan, the way it reads runs, and the guard of a training."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from unittest.mock import Mock

import pandas
import pytest
from sources import ROOT

from dreamerv2 import sweep
from dreamerv2.common.config import paths, yaml
from dreamerv2.common.envs import atari
from dreamerv2.common.errors import UserError
from dreamerv2.common.run.lock import MARKER, RunLock

FLAGS = ["--configs", "atari", "small", "--steps", "1e3"]


@pytest.fixture(autouse=True)
def no_ray(request, monkeypatch):
    """Let the import of Ray fail, as if it were not installed, but where an address is tested."""
    if "address" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "ray", None)


def make_plan(tmp_path, *arguments):
    return sweep.plan(*sweep.parse(["--logdir", str(tmp_path), *map(str, arguments)]))


def status(*arguments) -> int | None:
    """Run the command line here; return its exit status."""
    with pytest.raises(SystemExit) as ended:
        sweep.main([*map(str, arguments)])
    return ended.value.code


def write_run(logdir, steps, *lines):
    """Leave behind a run that has saved so many agent steps and logged these metrics."""
    (logdir / f"checkpoints/{steps:012d}").mkdir(parents=True)
    (logdir / f"checkpoints/{steps:012d}/complete.json").write_text("{}")
    (logdir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_runs_are_planned_seed_by_seed_with_the_ordinary_command(tmp_path):
    runs = make_plan(tmp_path, "--tasks", "atari_pong", "atari_boxing", "--seeds", 2, *FLAGS)
    names = [f"atari_{game}/atari_small/{seed}" for seed in (0, 1) for game in ("pong", "boxing")]
    assert [run.name for run in runs] == names
    own = [f"--logdir={tmp_path / names[0]}", "--task=atari_pong", "--seed=0"]
    assert runs[0].command == ["-m", "dreamerv2.train", *FLAGS, *own]
    assert runs[0].frames == 4000, "a step of atari lasts four frames"
    more = ["--seeds", 3, 7, "--method", "wide"]
    runs = make_plan(tmp_path, "--tasks", "atari_pong", *more, *FLAGS)
    assert [run.name for run in runs] == ["atari_pong/wide/3", "atari_pong/wide/7"]


def test_the_lists_hold_the_tasks_of_the_published_results(tmp_path):
    scores = paths.package_root() / "scores"
    lists = yaml.read_yaml(scores / "task_lists.yaml")
    lengths = {name: len(tasks) for name, tasks in lists.items()}
    assert lengths == {"atari55": 55, "atari26": 26, "dmc20": 20}
    assert set(lists["atari55"]) == set(pandas.read_csv(scores / "atari_scores.csv")["task"])
    assert set(lists["dmc20"]) == set(pandas.read_csv(scores / "dmc_curves.csv")["task"])
    assert set(lists["atari26"]) < set(lists["atari55"])
    assert all(atari.find_game(task.removeprefix("atari_")) for task in lists["atari55"])
    runs = make_plan(tmp_path, "--tasks", "atari55", "atari_pong", "--seeds", 5)
    assert len(runs) == 275, "a task that is named twice is trained once"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("--tasks atari_pong", "needs a directory and tasks"),
        ("--logdir x", "needs a directory and tasks"),
        ("--logdir x --tasks atari_pongg", "Did you mean 'pong'?"),
        ("--logdir x --tasks atari5", "Did you mean 'atari55'?"),
        ("--logdir x --tasks atari_pong --seeds many", "--seeds many is not"),
        ("--logdir x --tasks atari_pong --seeds 0", "--seeds 0 is not"),
        ("--logdir x --tasks atari_pong --stepss 9", "Did you mean 'steps'?"),
        ("--logdir x --tasks atari_pong --steps soon", "must be an integer"),
        ("--logdir x --tasks atari_pong --envs 0", "it must be at least 1"),
        ("--logdir x --tasks atari_pong --task y", "--task is not for a sweep"),
        ("--logdir x --tasks atari_pong", "pip install 'dreamerv2[sweep]'"),
    ],
)
def test_a_mistake_costs_a_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_an_address_that_nobody_answers_at_is_a_sentence(address, tmp_path, capsys):
    pytest.importorskip("ray", reason="the extra sweep is not installed")
    begin = time.monotonic()
    arguments = ["--logdir", tmp_path, "--tasks", "atari_pong", "--address", address]
    assert status(*arguments) == 2
    assert f"No Ray answers at --address {address}" in capsys.readouterr().err
    assert time.monotonic() - begin < 15


def test_a_dry_run_prints_the_commands_and_starts_nothing(tmp_path, capsys):
    arguments = ["--logdir", tmp_path, "--tasks", "atari_pong", "--seeds", 2, *FLAGS]
    write_run(tmp_path / "atari_pong" / "atari_small" / "1", 1000)
    assert not status(*arguments, "--dry_run")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("atari_pong/atari_small/0 (waiting): python -m dreamerv2.train --conf")
    assert second.startswith("atari_pong/atari_small/1 (finished)")
    assert not (tmp_path / "atari_pong" / "atari_small" / "0").exists()


def test_a_finished_sweep_needs_no_ray(tmp_path, capsys):
    line = {"step": 4000, "train_return": -20.5}
    write_run(tmp_path / "atari_pong" / "atari_small" / "0", 1000, line)
    assert status("--logdir", tmp_path, "--tasks", "atari_pong", *FLAGS) == 0
    table = capsys.readouterr().out
    assert "finished" in table and "4,000 of 4,000 frames" in table and "return -20.5" in table
    more = ["--steps", "2e3"]
    assert make_plan(tmp_path, "--tasks", "atari_pong", *FLAGS, *more)[0].state == "waiting"


def test_a_run_shows_the_last_numbers_it_has_logged(tmp_path):
    (run,) = make_plan(tmp_path, "--tasks", "atari_pong", *FLAGS, "--steps", "3e4")
    assert "0 of 120,000 frames  return -" in str(run)
    lines = [{"step": 30000, "fps": 20.0, "train_return": 3.0}, {"step": 48000, "model_kl": None}]
    write_run(run.logdir, 10000, *lines)
    path = run.logdir / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 99')  # being written
    assert "48,000 of 120,000 frames  return 3" in str(run)
    assert "20/s" in str(run) and "1.0 h left" in str(run)


def test_on_a_terminal_the_next_lines_take_the_place_of_the_last(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((10, 3)))
    sweep.show(["a" * 20, "b", "c"])
    sweep.show(["end" * 10], stay=True)
    lines = "a" * 9 + "\nb\n"
    assert capsys.readouterr().out == f"\033[J{lines}\033[2F\033[J{'end' * 10}\n"


def test_the_lock_of_a_living_process_is_never_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LEASE", 1)
    with RunLock(tmp_path), pytest.raises(UserError, match="in use by"):
        sweep.wait_for_lock(tmp_path, [socket.gethostname()])
    sweep.wait_for_lock(tmp_path, [])


def test_without_locks_in_the_file_system_only_a_lost_host_gives_a_run_up(tmp_path, monkeypatch):
    owner = {"pid": os.getpid(), "host": "elsewhere", "started": "yesterday"}
    (tmp_path / "run.lock").write_text(json.dumps(owner))
    (tmp_path / MARKER).write_text(f"{os.getpid()}\nelsewhere\n")
    no_locks = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=no_locks))
    monkeypatch.setattr(sweep, "LEASE", 1)
    with pytest.raises(UserError, match="on elsewhere"):
        sweep.wait_for_lock(tmp_path, ["another"])
    sweep.wait_for_lock(tmp_path, ["another", "elsewhere"])
    RunLock(tmp_path).release()


def test_a_training_ends_with_its_status_and_all_its_output(tmp_path):
    program = "import sys; print('to stdout', flush=True); sys.exit('to stderr')"
    assert sweep.supervise(tmp_path, ["-c", program], []) == 1
    command, *said = (tmp_path / "output.log").read_text().splitlines()
    assert command.startswith(f"[{socket.gethostname()}] {sys.executable} -c")
    assert said == ["to stdout", "to stderr"]


@pytest.mark.parametrize("stubborn, ending", [(False, "0"), (True, "-9")])
def test_a_training_whose_worker_is_gone_saves_or_is_killed(tmp_path, stubborn, ending):
    handler = "signal.SIG_IGN" if stubborn else "lambda *_: (print('saved', flush=True), exit())"
    training = f"import signal, time; signal.signal(15, {handler}); print('on', flush=True)\n"
    training += "while True: time.sleep(0.1)"
    program = "from dreamerv2 import sweep; sweep.GRACE = 2; sweep.guard()"
    guard = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), sys.executable, "-c", training],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert guard.wait(30) == 0, "the process that the worker started is not the guard itself"
    deadline, log = time.monotonic() + 20, tmp_path / "output.log"
    while not (log.exists() and log.read_text().endswith("\non\n")):
        assert time.monotonic() < deadline, "the training has not begun"
        time.sleep(0.05)
    guard.stdin.close()
    assert guard.stdout.read().decode() == ending
    assert ("saved" in log.read_text()) != stubborn
