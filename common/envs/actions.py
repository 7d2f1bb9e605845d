"""Wrappers that give an environment the actions of the contract: one-hot ones or scaled ones."""

import gymnasium
import numpy as np

from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import UserError


def adapt_action(env: gymnasium.Env) -> gymnasium.Env:
    """Give the environment one-hot or scaled continuous actions.

    Raises:
      UserError: the action space is neither Discrete nor Box.
    """
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return OneHotAction(env)
    if isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f":
        return NormalizeAction(env)
    raise UserError(
        f"The action space {space} is not supported; it must be Discrete or a Box of floats."
    )


class OneHotAction(gymnasium.Wrapper):
    """Take one-hot float32 [n] instead of the indices of a Discrete space.

    Raises (in step):
      ValueError: the action is not one-hot.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._count = int(env.action_space.n)
        self._start = int(env.action_space.start)
        self.action_space = OneHotSpace(self._count)

    def step(self, action: np.ndarray):
        index = int(np.argmax(action))
        if action.shape != (self._count,) or action[index] != 1 or np.count_nonzero(action) != 1:
            raise ValueError(f"Expected a one-hot action of shape ({self._count},), not {action}.")
        return self.env.step(index + self._start)


class NormalizeAction(gymnasium.Wrapper):
    """Scale bounded dimensions to [-1, 1]; the others pass unchanged, up to the one bound that they
    may have. Actions are float32 [A], whatever shape and precision the environment's own have.

    Where the only finite bound cuts into [-1, 1], the other counts as 2 away, so that none of what
    the actor chooses is clipped: [5, inf) is scaled as [5, 7].
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.action_space
        low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
        self._inner = space
        self._limits = low, high
        below = np.where(np.isinf(low) & (high < 1), high - 2, low)
        above = np.where(np.isinf(high) & (low > -1), low + 2, high)
        self._bounded = np.isfinite(below) & np.isfinite(above)
        self._low = np.where(self._bounded, below, -1)
        self._high = np.where(self._bounded, above, 1)
        self.action_space = gymnasium.spaces.Box(
            np.where(self._bounded, -1, -np.inf).astype(np.float32),
            np.where(self._bounded, 1, np.inf).astype(np.float32),
            dtype=np.float32,
        )

    def step(self, action: np.ndarray):
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"Expected an action of shape {self.action_space.shape}, not {action.shape}."
            )
        scaled = self._low + (action.astype(np.float64) + 1) / 2 * (self._high - self._low)
        scaled = np.where(self._bounded, scaled, action)
        # A rounding error beyond the bound makes some simulators refuse the action.
        scaled = np.clip(scaled, *self._limits)
        return self.env.step(scaled.reshape(self._inner.shape).astype(self._inner.dtype))
