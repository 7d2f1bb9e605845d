"""Environments that fail or hang, through the command line: shown, started again, truncated."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from reliable import (
    LIGHT,
    ROOT,
    SHORT,
    alive,
    checkpoints,
    children,
    episodes,
    run,
    start,
    wait_for,
)

# A user's environment, found through PYTHONPATH; it fails in every 50th step, or its second reset.
MODULE = """
import os, time
import gymnasium, numpy as np

class Fragile(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    total = 0

    def __init__(self, how):
        self.how = how

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        if self.how == "stuck" and Fragile.total:
            time.sleep(1000)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        Fragile.total += 1
        if Fragile.total % 50 == 0:
            self.break_down()
        return np.full(2, self.count, np.float32), 1.0, self.count == 20, False, {}

    def break_down(self):
        if self.how == "raise":
            raise ZeroDivisionError("a bug of the environment")
        if self.how == "die":
            os._exit(3)
        time.sleep(1000)

for how in ("raise", "hang", "die", "stuck"):
    gymnasium.register(f"{how}-v0", lambda how=how: Fragile(how))
"""


@pytest.fixture
def command(tmp_path):
    """Flags of a run whose environment fails in the given way; the variables it needs."""
    (tmp_path / "fragile_env.py").write_text(MODULE)
    environment = {"OWN_TASK": "yes", "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def make(how, *more):
        task = ["--task", f"gym_fragile_env:{how}-v0", "--logdir", tmp_path / "run"]
        return [LIGHT, *SHORT, *task, "--steps", "140", *more], environment

    return make


WAYS = ["process", pytest.param("none", marks=pytest.mark.slow)]


@pytest.mark.parametrize("parallel", WAYS)
def test_an_exception_is_shown_with_its_own_traceback(tmp_path, command, parallel):
    arguments, environment = command("raise", "--envs_parallel", parallel)
    status, said = run(*arguments, log=tmp_path / "log", **environment)
    assert status not in (0, 2), "a bug of the environment is no mistake in a flag"
    assert "ZeroDivisionError: a bug of the environment" in said
    assert 'fragile_env.py", line ' in said and "in break_down" in said, "where it failed"
    lengths = [len(episode["reward"]) - 1 for episode in episodes(tmp_path / "run")]
    assert sum(lengths) == 49, "steps before the failure were lost"


@pytest.mark.parametrize("parallel", WAYS)
def test_restarts_mark_the_episode_as_truncated_and_the_run_goes_on(tmp_path, command, parallel):
    arguments, environment = command(
        "raise", "--env_restarts", "4", "--envs_parallel", parallel, "--steps", "130"
    )
    status, said = run(*arguments, log=tmp_path / "log", **environment)
    assert status == 0 and "Done: 130" in said, said[-3000:]
    assert "ZeroDivisionError: a bug of the environment" in said, "a failure passed in silence"
    assert "(3 restarts left)" in said, "the restarts are not counted down"
    check_truncated(episodes(tmp_path / "run"))
    assert checkpoints(tmp_path / "run")[-1] == 130


def check_truncated(stored) -> None:
    """Assert that some episode was cut by a failure, and that no failure made a terminal state."""
    over = [episode["observation"][-1, 0] == 20 for episode in stored]
    assert sum(over) >= 3 and not all(over[:-1]), "no episode was cut by the failure"
    for episode, ended in zip(stored, over):
        assert episode["is_last"][-1] and episode["is_terminal"][-1] == ended


@pytest.mark.slow
def test_more_failures_than_restarts_end_the_run(tmp_path, command):
    arguments, environment = command("raise", "--env_restarts", "1", "--steps", "1000")
    status, said = run(*arguments, log=tmp_path / "log", **environment)
    assert status not in (0, 2) and said.count("a bug of the environment") >= 2
    assert "0 restarts left" in said


@pytest.mark.slow
def test_a_hung_worker_is_shown_where_it_hangs(tmp_path, command):
    arguments, environment = command("hang", "--envs_parallel", "process", "--env_timeout", "1.5")
    status, said = run(*arguments, log=tmp_path / "log", **environment)
    assert status not in (0, 2), said[-2000:]
    assert "WorkerHangs: The environment did not finish" in said and "env_timeout = 1.5" in said
    assert "in break_down" in said, "where it hangs"


def test_a_hung_worker_is_started_again_and_its_episode_truncated(tmp_path, command):
    arguments, environment = command(
        *("hang", "--envs_parallel", "process", "--env_timeout", "1.5", "--env_restarts", "9"),
        *("--steps", "90"),
    )
    status, said = run(*arguments, log=tmp_path / "log", **environment)
    assert status == 0 and "Done: 90" in said, said[-3000:]
    assert "in break_down" in said and "restarts left" in said
    check_truncated(episodes(tmp_path / "run"))


@pytest.mark.slow
def test_many_restarts_leak_nothing(tmp_path, command):
    """Workers die, one after the other: their pipes, files and processes must go as well."""
    arguments, environment = command(
        *("die", "--envs_parallel", "process", "--envs", "3", "--env_restarts", "1000"),
        *("--steps", "4000", "--log_every", "1000"),
    )
    process, seen = start(*arguments, log=tmp_path / "log", **environment), []
    try:
        while process.poll() is None:
            time.sleep(0.3)
            if process.poll() is None:
                seen.append(held(process.pid))
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text()
    assert process.returncode == 0, said[-3000:]
    assert said.count("restarts left") > 40 and len(seen) > 10
    first, last = seen[len(seen) // 3 : len(seen) // 2], seen[-len(seen) // 4 :]
    # A look may fall between the end of a worker and the birth of the next, with its files.
    for name, slack in {"files": 4, "threads": 0, "children": 1}.items():
        before, after = (max(look[name] for look in part) for part in (first, last))
        assert after <= before + slack, f"{name}: {before}, then {after}"


def held(pid: int) -> dict[str, int]:
    """How many files, threads and children a process has, the cache of episodes aside."""
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.append(os.readlink(path))
    files = sum(not name.endswith(".npz") for name in names)
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return {"files": files, "threads": threads, "children": len(children(pid))}


@pytest.mark.parametrize(("how", "steps"), [("hang", 50), ("stuck", 20)])
@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_hung_worker(tmp_path, command, how, steps):
    arguments, environment = command(how, "--envs_parallel", "process", "--env_timeout", "600")
    process = start(*arguments, log=tmp_path / "log", **environment)
    try:
        wait_for(process, tmp_path / "log", "Prefill: ")
        time.sleep(1.5)  # now it hangs, in the 50th step or the second reset
        workers, begin = children(process.pid), time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        took = time.monotonic() - begin
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text()
    assert took < 15, f"it took {took:.1f} s"
    assert not [pid for pid in workers if alive(pid)], "a worker was left behind"
    assert "same command continues" in said and process.returncode == 0, said[-3000:]
    lengths = [len(episode["reward"]) - 1 for episode in episodes(tmp_path / "run")]
    assert sum(lengths) == steps, "steps were lost: whole ones, and one that marks the end"
