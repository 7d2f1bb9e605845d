"""Small environments whose every observation says which step of which episode it is."""

import os
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from dreamerv2.common.envs.spaces import OneHotSpace


class Counting(gymnasium.Env):
    """Episode e has ``lengths[e % n]`` steps. Observations hold the episode and the step.

    Every second episode is truncated, the others terminate. The reward of step t is t.
    """

    observation_space = gymnasium.spaces.Dict(
        {
            "episode": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32),
            "step": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "pid": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32),
        }
    )
    action_space = OneHotSpace(3)

    def __init__(self, lengths=(3,)):
        self.lengths = lengths
        self.episode = -1
        self.count = 0

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        assert self.count < self.lengths[self.episode % len(self.lengths)], "stepped after the end"
        self.count += 1
        over = self.count == self.lengths[self.episode % len(self.lengths)]
        truncated = over and self.episode % 2 == 1
        return self._observe(), float(self.count), over and not truncated, truncated, {}

    def render(self):
        return np.full((2, 2, 3), self.count, np.uint8)

    def _observe(self):
        return {
            "episode": np.float32(self.episode),
            "step": np.array([self.count], np.float32),
            "pid": np.float32(os.getpid()),
        }


class Failing(Counting):
    """Fails in the ways and at the steps given: {step: 'raise' | 'hang' | 'die'}; -1 is reset.

    Args:
      once: a path; each failure adds a byte to that file, and `times` bytes are enough.
    """

    def __init__(self, failures, once=None, lengths=(5,), times=1):
        super().__init__(lengths)
        self.failures = failures
        self.once = once
        self.times = times

    def reset(self, *, seed=None, options=None):
        self._fail(-1)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        result = super().step(action)
        self._fail(self.count)
        return result

    def _fail(self, step):
        kind = self.failures.get(step)
        if kind is None:
            return
        if self.once:
            with open(self.once, "ab") as file:
                if file.tell() >= self.times:
                    return
                file.write(b".")
        if kind == "raise":
            raise ValueError(f"broken physics in step {step}")
        if kind == "hang":
            self._wait_forever()
        os._exit(7)

    def _wait_forever(self):
        time.sleep(1000)


class Scripted(gymnasium.Env):
    """Returns the given observations one after the other and remembers the actions."""

    def __init__(self, space, *observations, actions=None, reward=1.0, flags=(False, False)):
        self.observation_space = space
        self.action_space = Discrete(2) if actions is None else actions
        self.observations = list(observations)
        self.reward, self.flags = reward, flags
        self.seen = []

    def reset(self, *, seed=None, options=None):
        return self.observations.pop(0), {}

    def step(self, action):
        self.seen.append(action)
        return self.observations.pop(0), self.reward, *self.flags, {}


VECTOR = Dict({"x": Box(-1, 1, (2,), np.float32)})
GOOD = {"x": np.zeros(2, np.float32)}
ACTIONS = np.eye(3, dtype=np.float32)[[0, 1]]  # of two environments that count
