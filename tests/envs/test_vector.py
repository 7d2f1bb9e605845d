import functools
import os
import signal
import subprocess
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest
from env_contract import env_config
from env_fakes import Counting, Failing

from dreamerv2.common.envs import make_vector_env, vectorize
from dreamerv2.common.envs.process import Abandoned, WorkerProcess
from dreamerv2.common.envs.wrappers import Restart
from dreamerv2.common.errors import UserError

ACTIONS = np.eye(3, dtype=np.float32)[[0, 1]]
PARALLEL = ["none", "process"]


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def vector():
    """``vectorize``, with everything it made closed at the end."""
    made = []

    def make(*args, **kwargs):
        made.append(vectorize(*args, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


@pytest.mark.parametrize("parallel", PARALLEL)
def test_rows_belong_to_their_environments(vector, parallel):
    envs = vector([lambda: Counting((2,)), lambda: Counting((3,))], parallel)
    assert isinstance(envs, gymnasium.vector.VectorEnv) and envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.DISABLED
    obs, _ = envs.reset()
    assert obs["step"].tolist() == [[0], [0]] and obs["step"].dtype == np.float32
    envs.step(ACTIONS)
    obs, reward, terminated, truncated, _ = envs.step(ACTIONS)
    assert obs["step"].tolist() == [[2], [2]] and reward.tolist() == [2, 2]
    assert terminated.tolist() == [True, False] and truncated.tolist() == [False, False]
    with pytest.raises(RuntimeError, match=r"Reset the finished environments \[0\]"):
        envs.step(ACTIONS)


class Informing(Counting):
    """Gives infos that no array can hold, and one that cannot be pickled."""

    INFOS = [{"winner": 1}, {"winner": None}, {"h": 2**70}, {"a": np.ones(3)}, {"f": lambda: 0}]

    def reset(self, *, seed=None, options=None):
        return super().reset()[0], self.INFOS[-1]

    def step(self, action):
        return *super().step(action)[:4], self.INFOS[self.count % len(self.INFOS)]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_infos_end_no_run(vector, parallel):
    envs = vector([lambda: Informing((9,)), lambda: Informing((9,))], parallel)
    assert envs.reset()[1] == {}
    for count in range(1, 6):
        obs, *_, info = envs.step(ACTIONS)
        assert obs["step"].tolist() == [[count], [count]] and info == {}


@pytest.mark.parametrize("parallel", PARALLEL)
def test_reset_mask_touches_only_its_environments(vector, parallel):
    envs = vector([lambda: Counting((1, 4)), lambda: Counting((3,))], parallel)
    envs.reset()
    envs.step(ACTIONS)
    obs, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert obs["episode"].tolist() == [1, 0] and obs["step"].tolist() == [[0], [1]]
    obs = envs.step(ACTIONS)[0]
    assert obs["step"].tolist() == [[1], [2]]
    assert [frame[0, 0, 0] for frame in envs.render()] == [1, 2]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_returned_arrays_may_be_kept(vector, parallel):
    envs = vector([Counting, Counting], parallel)
    kept = [envs.reset()[0]["step"]] + [envs.step(ACTIONS)[0]["step"] for _ in range(3)]
    assert [rows[0, 0] for rows in kept] == [0, 1, 2, 3]


def test_each_environment_has_a_process_of_its_own_that_ends_with_close(vector):
    envs = vector([Counting, Counting], "process")
    pids = {int(pid) for pid in envs.reset()[0]["pid"]}
    assert len(pids) == 2 and os.getpid() not in pids
    envs.close()
    assert not any(alive(pid) for pid in pids), "a worker outlived close()"


def test_process_and_none_give_the_same_games():
    actions = np.eye(6, dtype=np.float32)[np.random.default_rng(0).integers(6, size=(20, 2))]
    results = []
    for parallel in PARALLEL:
        envs = make_vector_env("atari_pong", env_config(), 2, parallel, seeds=[4, 5])
        results.append([envs.reset()[0]["image"], *(envs.step(a)[0]["image"] for a in actions)])
        envs.close()
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    assert not np.array_equal(results[0][-1][0], results[0][-1][1]), "both have one seed"


@pytest.mark.parametrize("parallel", PARALLEL)
def test_an_exception_arrives_with_its_own_traceback(vector, parallel):
    envs = vector([Counting, lambda: Failing({2: "raise"})], parallel)
    pids = envs.reset()[0]["pid"]
    envs.step(ACTIONS)
    with pytest.raises(ValueError, match="broken physics in step 2") as caught:
        envs.step(ACTIONS)
    lines = [str(entry.path) for entry in caught.traceback] + [str(caught.value.__cause__)]
    assert "env_fakes.py" in "".join(lines), "the place of the failure is lost"
    if parallel == "process":
        assert not any(alive(pid) for pid in pids), "a failure left an orphan process"


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_failure_in_the_constructor_arrives_and_leaves_no_environment_open(
    vector, parallel, tmp_path
):
    def broken():
        raise UserError("no such level")

    with pytest.raises(UserError, match="no such level"):
        vector([lambda: Closing(tmp_path / "closed"), broken], parallel)
    assert (tmp_path / "closed").exists()


class Closing(Counting):
    """Takes its time to close, and then says that it has."""

    def __init__(self, path, seconds=0.0):
        super().__init__()
        self.path, self.seconds = path, seconds

    def close(self):
        time.sleep(self.seconds)
        self.path.touch()


def test_environments_close_at_the_same_time(vector, tmp_path):
    """Each of them may take seconds, and a stopped run must end within 15."""
    paths = [tmp_path / str(i) for i in range(4)]
    envs = vector([lambda path=path: Closing(path, 2.5) for path in paths], "process")
    envs.reset()
    begin = time.monotonic()
    envs.close()
    assert time.monotonic() - begin < 8, "they closed one after the other"
    assert all(path.exists() for path in paths), "a worker was killed before it had closed"


def test_an_environment_that_cannot_be_closed_leaves_no_other_open(vector, tmp_path):
    class Stuck(Counting):
        def close(self):
            raise OSError("no answer")

    envs = vector([Stuck, lambda: Closing(tmp_path / "closed"), Stuck])
    with pytest.raises(OSError, match="no answer"):
        envs.close()
    envs.closed = True
    assert (tmp_path / "closed").exists()


def test_an_error_of_the_environments_own_connection_is_no_lost_worker(vector, caplog):
    class Remote(Counting):
        def step(self, action):
            raise ConnectionError("the simulator does not answer")

    envs = vector([Remote], "process", env_config(env_restarts=1))
    envs.reset()
    with pytest.raises(ConnectionError, match="the simulator does not answer"):
        envs.step(ACTIONS[:1])
    assert "started again" not in caplog.text, "restarts in the worker would count twice"


def test_a_worker_that_dies_is_reported(vector):
    envs = vector([Counting, lambda: Failing({1: "die"})], "process")
    envs.reset()
    with pytest.raises(ConnectionError, match="ended in 'step' with exit status 7"):
        envs.step(ACTIONS)


def test_a_hung_worker_is_reported_with_the_place_where_it_hangs(vector):
    envs = vector([Counting, lambda: Failing({1: "hang"})], "process", env_config(env_timeout=3))
    pids = envs.reset()[0]["pid"]
    with pytest.raises(TimeoutError, match="(?s)'step' within env_timeout = 3 sec.*_wait_forever"):
        envs.step(ACTIONS)
    assert not any(alive(pid) for pid in pids), "the hung worker lives on"


@pytest.mark.parametrize("failure", ["hang", "die"])
def test_a_lost_worker_is_started_again_and_its_episode_truncated(vector, tmp_path, failure):
    once = str(tmp_path / "failed")
    config = env_config(env_timeout=2, env_restarts=1)
    envs = vector([Counting, lambda: Failing({2: failure}, once)], "process", config)
    envs.reset()
    envs.step(ACTIONS)
    obs, reward, terminated, truncated, _ = envs.step(ACTIONS)
    assert obs["step"].tolist() == [[2], [1]], "the last observation was not repeated"
    assert reward.tolist() == [2, 0]
    assert truncated.tolist() == [False, True] and not terminated.any()
    obs, _ = envs.reset(options={"reset_mask": np.array([False, True])})
    assert obs["step"].tolist() == [[2], [0]]
    assert envs.step(ACTIONS)[0]["step"].tolist() == [[3], [1]]


class Seeded(Failing):
    """Observes the seed of its last reset as the episode."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset()
        self.episode = -1 if seed is None else seed % 2**20
        return {**obs, "episode": np.float32(self.episode)}, info


@pytest.mark.parametrize("where", [1, -1])
def test_a_new_worker_plays_other_episodes_and_the_same_in_every_run(vector, tmp_path, where):
    played = []
    for attempt in "ab":
        constructors = []
        for seed in (5, 6):
            once = str(tmp_path / f"{attempt}{seed}")
            make = lambda seed, once=once: Seeded({where: "die"}, once)  # noqa: E731
            constructors.append(functools.partial(Restart, make, 0, seed))
        envs = vector(constructors, "process", env_config(env_restarts=1))
        seeds = [*envs.reset()[0]["episode"]]
        if where == 1:
            truncated = envs.step(ACTIONS)[3]
            seeds += [*envs.reset(options={"reset_mask": truncated})[0]["episode"]]
        played.append(seeds)
    assert played[0] == played[1], "--seed decides everything"
    assert len(set(played[0][-2:]) - {5, 6}) == 2, "the first episodes were played again"


@pytest.mark.parametrize("times", [1, 2])
def test_a_hanging_reset_is_tried_again_in_a_new_worker(vector, tmp_path, times):
    once = str(tmp_path / "failed")
    config = env_config(env_timeout=2, env_restarts=times)
    envs = vector([lambda: Failing({-1: "hang"}, once, times=times)], "process", config)
    assert envs.reset()[0]["step"].tolist() == [[0]]


def test_a_worker_that_fails_while_it_starts_again_is_started_once_more(vector, tmp_path):
    made = tmp_path / "made"

    def construct():
        with made.open("a") as file:
            file.write(".")
        if made.stat().st_size == 2:
            raise OSError("no licence")
        return Failing({1: "die"}, str(tmp_path / "failed"))

    envs = vector([construct], "process", env_config(env_restarts=2))
    envs.reset()
    assert envs.step(ACTIONS[:1])[3].tolist() == [True]
    assert envs.reset()[0]["step"].tolist() == [[0]] and made.stat().st_size == 3


def test_a_constructor_that_hangs_is_reported(monkeypatch):
    monkeypatch.setattr(WorkerProcess, "MAKING", 4.0)
    with pytest.raises(TimeoutError, match=r"'start' within 4 seconds \(more than env_timeout"):
        vectorize([lambda: time.sleep(1000)], "process", env_config(env_timeout=1))


def test_a_stop_does_not_try_a_hanging_reset_again(vector, caplog):
    config = env_config(env_timeout=600, env_restarts=3)
    envs = vector([lambda: Failing({-1: "hang"})], "process", config)
    envs.hurry(0.5)
    with pytest.raises(Abandoned, match="'reset' before the run was stopped"):
        envs.reset()
    assert "restarts left" not in caplog.text


def test_a_dump_that_comes_late_is_waited_for(vector):
    envs = vector([lambda: Failing({1: "hang"})], "process", env_config(env_timeout=2))
    envs.reset()
    process = envs._workers[0]._process
    os.kill(process.pid, signal.SIGSTOP)  # as if the machine had no time for it
    threading.Timer(3.5, os.kill, (process.pid, signal.SIGCONT)).start()
    with pytest.raises(TimeoutError, match='File ".*", line'):
        envs.step(ACTIONS[:1])


def test_different_spaces_are_refused(vector):
    class Other(Counting):
        observation_space = gymnasium.spaces.Dict(
            {"step": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
        )

    with pytest.raises(UserError, match="Environment 1 has the spaces"):
        vector([Counting, Other])


def test_unknown_ways_of_running_are_refused():
    with pytest.raises(UserError, match="Did you mean 'process'"):
        vectorize([Counting], "proces")


def test_as_many_seeds_as_environments():
    with pytest.raises(UserError, match="2 environments need 2 seeds"):
        make_vector_env("atari_pong", env_config(), 2, seeds=[1])


SCRIPT = """
import time
import gymnasium
import numpy as np
from dreamerv2.common.envs import vectorize

class Mine(gymnasium.Env):  # of the main script: it travels by value
    observation_space = gymnasium.spaces.Dict(
        {"loaded": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32),
         "pid": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32)})
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


def test_workers_end_when_the_main_process_is_killed_even_while_they_hang(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids), "workers survived the main process"


def test_ctrl_c_leaves_the_workers_to_the_main_process(vector):
    """A signal to the process group of the terminal must not end an environment mid-step."""
    envs = vector([Counting], "process")
    pid = int(envs.reset()[0]["pid"][0])
    assert os.getpgid(pid) != os.getpgid(0)
