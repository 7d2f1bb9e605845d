"""Environments that fail, and worker processes that die, hang or survive the main process."""

import signal
import time

import numpy as np
import pytest
from env_contract import env_config
from env_fakes import ACTIONS, VECTOR, Counting, Failing, Scripted
from reliable import alive

from dreamerv2.common.envs import vectorize
from dreamerv2.common.envs.spaces import CheckSpaces
from dreamerv2.common.envs.vector.process import WorkerProcess
from dreamerv2.common.envs.vector.vector import Abandoned
from dreamerv2.common.errors import UserError


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("die", ConnectionError, "ended in 'step' with exit status 7"),
        ("hang", TimeoutError, "(?s)'step' within 3 seconds .*_wait_forever"),
    ],
)
def test_a_lost_worker_is_reported_with_the_place_where_it_hangs(vector, failure, kind, message):
    envs = vector([Counting, lambda: Failing({1: failure})], "process", env_config(env_timeout=3))
    pids = envs.reset()[0]["pid"]
    with pytest.raises(kind, match=message):
        envs.step(ACTIONS)
    assert not any(alive(pid) for pid in pids), "a lost worker lives on"


WAYS = [("none", "raise"), ("process", "raise"), ("process", "hang"), ("process", "die")]


@pytest.mark.parametrize(("parallel", "failure"), WAYS)
def test_a_failed_environment_is_made_anew(vector, tmp_path, caplog, parallel, failure):
    once = str(tmp_path / "failed")
    config = env_config(env_timeout=2, env_restarts=1)
    envs = vector([Counting, lambda: Failing({2: failure}, once)], parallel, config)
    envs.reset()
    envs.step(ACTIONS)
    obs, reward, terminated, truncated, _ = envs.step(ACTIONS)
    assert obs["step"].tolist() == [[2], [1]], "the last observation was not repeated"
    assert reward.tolist() == [2, 0]
    assert truncated.tolist() == [False, True] and not terminated.any()
    assert [frame is None for frame in envs.render()] == [False, True]
    assert "Environment 1 failed in step and is made anew (0 restarts left)" in caplog.text
    assert failure != "raise" or "broken physics in step 2" in caplog.text, "no traceback"
    obs, _ = envs.reset(options={"reset_mask": np.array([False, True])})
    assert obs["step"].tolist() == [[2], [0]]
    assert envs.step(ACTIONS)[0]["step"].tolist() == [[3], [1]]


class Seeded(Failing):
    """Observes the seed of its last reset as the episode."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset()
        self.episode = -1 if seed is None else seed % 2**20
        return {**obs, "episode": np.float32(self.episode)}, info


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_a_new_worker_plays_other_episodes_and_the_same_in_every_run(vector, tmp_path, parallel):
    """Environment 0 fails in its first steps, environment 1 in its first reset."""
    played = []
    for attempt in "ab":
        once = [str(tmp_path / f"{attempt}{index}") for index in range(2)]
        make = [
            lambda: Seeded({1: "raise"}, once[0], times=2),  # noqa: B023
            lambda: Seeded({-1: "raise"}, once[1]),  # noqa: B023
        ]
        envs = vector(make, parallel, env_config(env_restarts=2), [5, 6])
        seeds = [*envs.reset()[0]["episode"]]
        for _ in range(2):
            truncated = envs.step(ACTIONS)[3]
            seeds.append(envs.reset(options={"reset_mask": truncated})[0]["episode"][0])
        played.append(seeds)
    assert played[0] == played[1], "--seed decides everything"
    assert played[0][0] == 5 and len({*played[0], 6}) == 5, "a seed was used again"


@pytest.mark.parametrize("step", [-1, 1])
def test_restarts_run_out(vector, step):
    made = []

    def construct():
        made.append(1)
        return Failing({step: "raise"})

    envs = vector([construct], "none", env_config(env_restarts=2))
    with pytest.raises(ValueError, match="broken physics"):
        for _ in range(3):
            envs.reset()
            envs.step(ACTIONS[:1])
    assert len(made) == 3, "made a different number of times than once and two restarts"


def test_a_user_error_is_not_tried_again(vector):
    envs = vector([lambda: CheckSpaces(Scripted(VECTOR, {}))], "none", env_config(env_restarts=5))
    with pytest.raises(UserError, match="lacks the key"):
        envs.reset()
    assert len(envs.envs[0].env.observations) == 0, "made again"


def test_a_hanging_reset_is_tried_again_in_a_new_worker(vector, tmp_path):
    once = str(tmp_path / "failed")
    config = env_config(env_timeout=1.5, env_restarts=2)
    envs = vector([lambda: Failing({-1: "hang"}, once, times=2)], "process", config)
    assert envs.reset()[0]["step"].tolist() == [[0]]


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_a_replacement_that_cannot_be_made_is_made_again(vector, tmp_path, caplog, parallel):
    made = tmp_path / "made"

    def construct():
        with made.open("a") as file:
            file.write(".")
        if made.stat().st_size == 2:
            raise OSError("no licence")
        return Failing({1: "raise"}, str(tmp_path / "failed"))

    envs = vector([construct], parallel, env_config(env_restarts=2))
    envs.reset()
    assert envs.step(ACTIONS[:1])[3].tolist() == [True]
    assert envs.reset()[0]["step"].tolist() == [[0]] and made.stat().st_size == 3
    assert "failed in its constructor and is made anew (0 restarts left)" in caplog.text


def test_a_constructor_that_hangs_is_reported(monkeypatch):
    monkeypatch.setattr(WorkerProcess, "MAKING", 1.5)
    with pytest.raises(TimeoutError, match=r"'start' within 1.5 seconds \(env_timeout = 1\)"):
        vectorize([lambda: time.sleep(1000)], "process", env_config(env_timeout=1))


def test_a_stop_does_not_try_a_hanging_reset_again(vector, caplog):
    config = env_config(env_timeout=600, env_restarts=3)
    envs = vector([lambda: Failing({-1: "hang"})], "process", config)
    envs.hurry(0.5)
    with pytest.raises(Abandoned, match="'reset' before the run was stopped"):
        envs.reset()
    assert "restarts left" not in caplog.text


SCRIPT = """
import time
import gymnasium
import numpy as np
from dreamerv2.common.envs import vectorize

class Mine(gymnasium.Env):  # of the main script: it travels by value
    number = gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32)
    observation_space = gymnasium.spaces.Dict({"loaded": number, "pid": number})
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        import os, sys
        loaded = np.float32("tensorflow" in sys.modules)
        return {"loaded": loaded, "pid": np.float32(os.getpid())}, {}
    def step(self, action):
        time.sleep(1000)

envs = vectorize([Mine, Mine], "process")  # no __main__ guard
obs, _ = envs.reset()
assert not obs["loaded"].any(), "a worker has imported TensorFlow"
print(*map(int, obs["pid"]), flush=True)
envs.step(np.zeros((2, 1), np.float32))
"""


def test_workers_end_when_the_main_process_is_killed_even_while_they_hang(tmp_path, python):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = python(script)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids), "workers survived the main process"
