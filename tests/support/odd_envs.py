"""Environments with unusual observations, for the tasks `gym_odd_envs:NAME`."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Mixed(gymnasium.Env):
    """Two images (one of four channels), a matrix, a scalar, a choice and a log entry."""

    observation_space = Dict(
        {
            "front": Box(0, 255, (48, 40, 4), np.uint8),
            "map": Box(0, 255, (20, 30), np.uint8),
            "joints": Box(-1, 1, (2, 2), np.float64),
            "speed": Box(-np.inf, np.inf, (), np.float32),
            "gear": Discrete(3),
            "log_count": Box(-np.inf, np.inf, (), np.float32),
        }
    )
    action_space = Box(np.array([0, -np.inf], np.float32), np.array([4, np.inf], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        assert 0 <= action[0] <= 4, "bounded dimensions are scaled back"
        self.count += 1
        return self._observe(), 0.5, self.count == 12, False, {}

    def _observe(self):
        rng = self.np_random
        return {
            "front": rng.integers(0, 256, (48, 40, 4), dtype=np.uint8),
            "map": rng.integers(0, 256, (20, 30), dtype=np.uint8),
            "joints": rng.uniform(-1, 1, (2, 2)),
            "speed": np.float32(self.count),
            "gear": self.count % 3,
            "log_count": np.float32(self.count),
        }


class Broken(Mixed):
    """Its observation is NaN after the sixth step."""

    def _observe(self):
        speed = np.float32(self.count if self.count < 7 else np.nan)
        return super()._observe() | {"speed": speed}


gymnasium.register("Mixed-v0", Mixed)
gymnasium.register("Broken-v0", Broken)
