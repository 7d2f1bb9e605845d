"""A user's environment that renders with dm_control by itself, `gym_own_pixels:Pixels-v0`."""

import gymnasium
import numpy as np
from dm_control import suite


class Pixels(gymnasium.Env):
    """Cartpole from pixels."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.inner = suite.load("cartpole", "balance", task_kwargs={"random": 0})

    def reset(self, *, seed=None, options=None):
        self.inner.reset()
        return self.inner.physics.render(64, 64, camera_id=0), {}

    def step(self, action):
        ended = self.inner.step(action).last()
        return self.inner.physics.render(64, 64, camera_id=0), 0.0, False, ended, {}

    def close(self):
        self.inner.close()
        self.inner.physics.free()


gymnasium.register("Pixels-v0", Pixels)
