"""`python light_run.py FLAGS`: the command line with an agent and environments that cost nothing.

The rest is real: config, lock, replay, driver, loop, signals, logs, checkpoints and worker
processes. A start takes one second instead of TensorFlow's eight, so that a test can kill a run
fifty times. Environment variables:

    BLACK_BOX   a file that gets one byte for each step of a training environment
    EPISODE     shortest and longest episode in steps
    OWN_TASK    use the task of the command line
    PRECIOUS    number of weights of the agent
    SLOW_DISK   seconds added to each fsync
"""

import functools
import os
import time

import gymnasium
import numpy as np

import train
from dreamerv2.common import envs
from dreamerv2.common.envs.spaces import OneHotSpace


class Place(gymnasium.Env):
    """Observations name their origin: `place` is [number of the episode, step]."""

    observation_space = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (16, 16, 1), np.uint8),
            "place": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        }
    )
    action_space = OneHotSpace(3)

    def __init__(self, mode: str, seed: int):
        self._random = np.random.default_rng(seed)
        path = os.environ.get("BLACK_BOX")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._box = os.open(path, flags) if path and mode == "train" else None
        self._low, self._high = map(int, os.environ.get("EPISODE", "12 40").split())

    def reset(self, *, seed=None, options=None):
        self._episode, self._step = int(self._random.integers(2**24)), 0
        self._length = self._random.integers(self._low, self._high + 1)
        return self._observe(), {}

    def step(self, action):
        if self._box is not None:
            os.write(self._box, b".")
        self._step += 1
        return self._observe(), float(self._step), self._step == self._length, False, {}

    def _observe(self):
        place = np.array([self._episode, self._step], np.float32)
        return {"image": self._random.integers(0, 256, (16, 16, 1), np.uint8), "place": place}


class LightAgent:
    """Weights equal the agent step of their last update; checks every batch."""

    def __init__(self, config, shapes, actions, discrete):
        self.config, self.actions = config, actions
        self.weights = np.zeros(int(os.environ.get("PRECIOUS", "1000")), np.int64)
        self.updates = 0

    def policy(self, obs, state=None, step=0, mode="train"):
        assert not obs["is_last"].any(), "the policy saw the last row of an episode"
        action = np.zeros((len(obs["is_first"]), self.actions), np.float32)
        action[:, 1] = 1
        return {"action": action}, None

    def place(self, data):
        return data

    def train(self, data, state, step):
        place = data.get("place", np.zeros((*data["reward"].shape, 2)))
        if "place" in data:
            self._check(place, data["is_first"], state)
        self.weights[:] = step
        self.updates += 1
        metrics = {"fake_loss": 1.0, "model_finite": 1.0}
        return {"place": place[:, -1].astype(np.float32)}, metrics

    def _check(self, place, first, state):
        steps = np.diff(place, axis=1)
        assert (steps[~first[:, 1:]] == [0, 1]).all(), "a sequence mixes episodes or has lost rows"
        if state is not None:
            on = ~first[:, 0]
            assert (place[on, 0] == state["place"][on] + [0, 1]).all(), "a row lost its thread"

    def report(self, data):
        return {"openl_image": np.zeros((5, 24, 8, 1), np.float32)}

    def initial_train_state(self):
        return {"place": np.zeros((self.config.dataset.batch, 2), np.float32)}

    def restore_state(self, arrays):
        return dict(arrays)

    def expected(self):
        return {"weights": (self.weights.shape, np.int64)}

    def save(self):
        return {"weights": self.weights.copy()}, {"updates": self.updates}

    def load(self, arrays, draws):
        self.weights, self.updates = arrays["weights"].copy(), draws["updates"]
        assert (self.weights == self.weights[0]).all(), "half of the weights are older"
        print(f"Weights of step {self.weights[0]}.", flush=True)


def slow_fsync(descriptor, fsync=os.fsync):
    """Flush a file as a slow disk does."""
    time.sleep(float(os.environ["SLOW_DISK"]))
    fsync(descriptor)


def make_envs(config, mode, count, seeds):
    """Make the environments as the command line does, but of Place."""
    constructors = [functools.partial(Place, mode, seed) for seed in seeds]
    return envs.vectorize(constructors, config.envs_parallel, config, seeds)


if __name__ == "__main__":
    train.make_agent = LightAgent
    if "SLOW_DISK" in os.environ:
        os.fsync = slow_fsync
    if not os.environ.get("OWN_TASK"):  # else the task named on the command line
        train.task_envs = functools.partial(functools.partial, make_envs)
    train.main()
