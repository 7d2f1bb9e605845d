import os
import time

import gymnasium
import numpy as np
import pytest
from env_contract import env_config
from env_fakes import ACTIONS, VECTOR, Counting, Failing
from reliable import alive

from dreamerv2.common.envs import make_vector_env
from dreamerv2.common.errors import UserError

PARALLEL = ["none", "process"]


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
    """Gives infos that no array can hold and that cannot be pickled."""

    def reset(self, *, seed=None, options=None):
        return super().reset()[0], {"f": lambda: 0}

    def step(self, action):
        return *super().step(action)[:4], {"winner": None, "h": 2**70, "f": lambda: 0}


@pytest.mark.parametrize("parallel", PARALLEL)
def test_infos_are_left_out(vector, parallel):
    envs = vector([lambda: Informing((9,)), lambda: Informing((9,))], parallel)
    assert envs.reset()[1] == {}
    obs, *_, info = envs.step(ACTIONS)
    assert obs["step"].tolist() == [[1], [1]] and info == {}


@pytest.mark.parametrize("parallel", PARALLEL)
def test_reset_mask_touches_only_its_environments(vector, parallel):
    envs = vector([lambda: Counting((1, 4)), lambda: Counting((3,))], parallel)
    envs.reset()
    envs.step(ACTIONS)
    obs, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert obs["episode"].tolist() == [1, 0] and obs["step"].tolist() == [[0], [1]]
    later = envs.step(ACTIONS)[0]
    assert later["step"].tolist() == [[1], [2]]
    assert obs["step"].tolist() == [[0], [1]], "a step has changed arrays that were returned before"
    assert [frame[0, 0, 0] for frame in envs.render()] == [1, 2]


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
        envs = make_vector_env("atari_pong", env_config(), 2, parallel, "train", [4, 5])
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
def test_a_failing_constructor_leaves_no_environment_open(vector, parallel, tmp_path):
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


def test_different_spaces_are_refused(vector):
    class Other(Counting):
        observation_space = VECTOR

    with pytest.raises(UserError, match="Environment 1 has the spaces"):
        vector([Counting, Other])


def test_ctrl_c_leaves_the_workers_to_the_main_process(vector):
    """A signal to the process group of the terminal must not end an environment mid-step."""
    envs = vector([Counting], "process")
    pid = int(envs.reset()[0]["pid"][0])
    assert os.getpgid(pid) != os.getpgid(0)
