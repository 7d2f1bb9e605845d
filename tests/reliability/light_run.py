"""`python light_run.py FLAGS`: the command line with an agent and environments that cost nothing.

Everything around them is real: config, lock, replay, driver, loop, signals, logs, checkpoints and
worker processes. A start takes a second instead of TensorFlow's eight, so that a run can be killed
fifty times in a test. Knows these variables of the environment:

    BLACK_BOX   a file that gets one byte for each step a training environment takes
    EPISODE     what an episode is like: two numbers between which its length lies
    PRECIOUS    how many numbers the agent's weights have
    SLOW_DISK   seconds that each fsync takes longer than here, as if on a slow disk
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
    """Observations say where they are from: `place` is [number of the episode, step]."""

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
        low, high = map(int, os.environ.get("EPISODE", "12 40").split())
        self._draw_length = functools.partial(self._random.integers, low, high + 1)

    def reset(self, *, seed=None, options=None):
        self._episode, self._step = int(self._random.integers(2**24)), 0
        self._length = self._draw_length()
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
    """Weights that know at which agent step they were learned; checks every batch it gets."""

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
        if "place" in data:
            self._check(data, state)
        self.weights[:] = step
        self.updates += 1
        last = data["place"][:, -1] if "place" in data else np.zeros((len(data["reward"]), 2))
        return {"place": last.astype(np.float32)}, {"fake_loss": 1.0, "model_finite": 1.0}

    def _check(self, data, state):
        place, first = data["place"], data["is_first"]
        steps = np.diff(place, axis=1)
        steps[first[:, 1:]] = [0, 1]
        assert (steps == [0, 1]).all(), "a sequence mixes episodes or has lost rows"
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


def slow_down_fsync(seconds: float) -> None:
    """Let every fsync of this process take so many seconds longer."""
    fsync = os.fsync

    def slow_fsync(descriptor):
        time.sleep(seconds)
        fsync(descriptor)

    os.fsync = slow_fsync


def make_envs(config, mode, count, seeds):
    """As the command line makes them, but of the environment above."""
    constructors = [functools.partial(Place, mode, seed) for seed in seeds]
    return envs.vectorize(constructors, config.envs_parallel, config, seeds)


if __name__ == "__main__":
    train.make_agent = LightAgent
    if "SLOW_DISK" in os.environ:
        slow_down_fsync(float(os.environ["SLOW_DISK"]))
    if not os.environ.get("OWN_TASK"):  # else the task named on the command line
        train.task_envs = functools.partial(functools.partial, make_envs)
    train.main()
