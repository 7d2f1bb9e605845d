"""The contract of every environment: its spaces, and a wrapper that checks each step."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.errors import NotFinite, UserError

LARGEST = float(np.finfo(np.float32).max)
# Other entries of a row, names of losses, and `ram` of the 2021 release's episode files.
RESERVED = (
    *("action", "reward", "is_first", "is_last", "is_terminal", "_crc32"),
    *("discount", "kl", "model", "actor", "critic", "ram"),
)


class OneHotSpace(Box):
    """One of ``n`` choices as a float32 vector [n]; ``sample()`` draws a one-hot one."""

    def __init__(self, n: int, seed: int | np.random.Generator | None = None):
        self.n = int(n)
        super().__init__(0.0, 1.0, (self.n,), np.float32, seed)

    def sample(self, mask=None, probability=None) -> np.ndarray:
        """A uniform draw, float32 [n]."""
        action = np.zeros(self.n, np.float32)
        action[self.np_random.integers(self.n)] = 1
        return action

    def contains(self, x) -> bool:
        """Return True if x is one-hot."""
        return super().contains(x) and np.count_nonzero(x) == 1 and x.max() == 1


@gymnasium.vector.utils.batch_space.register(OneHotSpace)
def _batch_one_hot(space: OneHotSpace, n: int = 1) -> Box:
    return Box(0.0, 1.0, (n, space.n), np.float32)


def describe(
    observation_space: gymnasium.spaces.Dict, action_space: gymnasium.Space
) -> tuple[dict[str, tuple[int, ...]], int, bool]:
    """Return an agent's arguments: shapes by key, size of an action, True if discrete."""
    shapes = {key: space.shape for key, space in observation_space.items()}
    return shapes, action_space.shape[0], isinstance(action_space, OneHotSpace)


def check_contract(space: gymnasium.Space) -> None:
    """Refuse spaces other than a Dict of uint8 images, float32 vectors and scalars."""
    if not isinstance(space, gymnasium.spaces.Dict) or not space.spaces:
        raise UserError(f"The observation space must be a Dict with at least one key, not {space}.")
    for key, value in space.items():
        if key in RESERVED:
            raise UserError(
                f"The observation key '{key}' is reserved, as are {', '.join(RESERVED)}."
            )
        image = value.dtype == np.uint8 and len(value.shape) == 3
        vector = value.dtype == np.float32 and len(value.shape) <= 1
        if not (isinstance(value, Box) and (image or vector)):
            raise UserError(
                f"The observation '{key}' is {value}; it must be a Box of uint8 [H, W, C] or of "
                "float32 with at most one dimension."
            )


class CheckSpaces(gymnasium.Wrapper):
    """Compare every observation and reward with the environment's spaces.

    A UserError names the key that is missing or has another shape or dtype; NotFinite holds the
    arrays where a NaN or Inf is.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        check_contract(env.observation_space)
        self._expected = [
            (key, space.shape, space.dtype, space.dtype.kind == "f")
            for key, space in env.observation_space.items()
        ]

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        obs, info = self.env.reset(seed=seed, options=options)
        self._check(obs)
        return obs, info

    def step(self, action: Any):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._check(obs)
        reward = _number(reward)
        if not abs(reward) <= LARGEST:  # NaN fails, too
            message = f"The environment returned the reward {reward}; it must be finite in float32."
            raise NotFinite(message, {**obs, "reward": reward, "action": action})
        return obs, reward, _flag("terminated", terminated), _flag("truncated", truncated), info

    def _check(self, obs: dict) -> None:
        for key, shape, dtype, floating in self._expected:
            value = obs.get(key)
            if value is None:
                raise UserError(f"The environment's observation lacks the key '{key}'.")
            if value.shape != shape or value.dtype != dtype:
                raise UserError(
                    f"The environment's observation '{key}' is {value.dtype} {list(value.shape)}; "
                    f"its observation space promises {dtype} {list(shape)}."
                )
            if floating and not np.isfinite(value).all():
                raise NotFinite(
                    f"The environment's observation '{key}' contains NaN or Inf, or a value too "
                    f"large for float32; every entry of its {dtype} {list(shape)} must be finite.",
                    obs,
                )


def _number(reward: Any) -> float:
    if isinstance(reward, float | int):
        return reward
    value = np.asarray(reward)
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise UserError(f"The environment returned the reward {reward!r}; it must be a number.")
    return float(value.item())


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if np.size(value) != 1:
        raise UserError(f"The environment returned {name} = {value!r}; it must be True or False.")
    return bool(np.asarray(value).item())
