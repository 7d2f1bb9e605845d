"""Wrappers that bring an environment to the contract of this package, each for one purpose."""

import logging
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.envs import spaces
from dreamerv2.common.envs.actions import adapt_action
from dreamerv2.common.envs.resize import AreaResize
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import NotFinite, UserError

__all__ = [
    "ActionRepeat",
    "CheckSpaces",
    "OneHotSpace",
    "ResizeImages",
    "Restart",
    "TimeLimit",
    "option",
    "standardize",
    "wrap",
]

LARGEST = float(np.finfo(np.float32).max)

_log = logging.getLogger(__name__)


def wrap(constructor: Callable[..., gymnasium.Env], config: Any, seed: int = 0) -> gymnasium.Env:
    """Call ``constructor(seed=...)`` for an environment that survives ``config.env_restarts``
    failures, and whose first reset uses ``seed``."""
    return Restart(constructor, int(option(config, "env_restarts", 0)), seed)


def standardize(env: gymnasium.Env, config: Any, action_repeat: bool = True) -> gymnasium.Env:
    """Check what the environment returns, then fit actions, images and length to the config.

    Args:
      env: has a Dict observation space of images, vectors and scalars (see ``spaces.DictObs``).
      action_repeat: False if the environment repeats actions itself.
    """
    env = CheckSpaces(env)
    if action_repeat and config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    size = tuple(config.render_size)
    if any(len(s.shape) == 3 and s.shape[:2] != size for s in env.observation_space.values()):
        env = ResizeImages(env, size)
    env = adapt_action(env)
    return TimeLimit(env, config.time_limit) if config.time_limit > 0 else env


def option(config: Any, name: str, default: Any) -> Any:
    """``config.name``, or the default where there is no config or it has no such key."""
    try:
        return default if config is None else getattr(config, name)
    except (AttributeError, KeyError):
        return default


class ActionRepeat(gymnasium.Wrapper):
    """Hold each action for ``repeats`` steps, sum the rewards, stop where the episode does."""

    def __init__(self, env: gymnasium.Env, repeats: int):
        super().__init__(env)
        self._repeats = repeats

    def step(self, action: Any):
        total = 0.0
        for _ in range(self._repeats):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class TimeLimit(gymnasium.Wrapper):
    """Truncate an episode after ``steps`` agent steps. This is never a termination."""

    def __init__(self, env: gymnasium.Env, steps: int):
        super().__init__(env)
        self._limit = steps
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._step = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        return obs, reward, terminated, truncated or self._step >= self._limit, info


class ResizeImages(gymnasium.ObservationWrapper):
    """Resize every image [H, W, C] of the observation to ``size`` (height, width), by area."""

    def __init__(self, env: gymnasium.Env, size: tuple[int, int]):
        super().__init__(env)
        self._resizers = {}
        inner = dict(env.observation_space.items())
        for key, space in inner.items():
            if len(space.shape) == 3 and space.shape[:2] != size:
                self._resizers[key] = AreaResize(space.shape, size)
                shape = (*size, space.shape[2])
                inner[key] = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(inner)

    def observation(self, observation: dict) -> dict:
        resized = {key: resize(observation[key]) for key, resize in self._resizers.items()}
        return {**observation, **resized}


class CheckSpaces(gymnasium.Wrapper):
    """Compare every observation and reward with what the environment promised.

    Raises:
      UserError: names the key, what came and what was expected: at construction for spaces outside
        the contract, in reset and step for a missing key, wrong shape or wrong dtype, and for a
        reward that is no number or a flag that is not one.
      NotFinite: NaN or Inf, as well in the reward.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        spaces.check_contract(env.observation_space)
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
        if not abs(reward) <= LARGEST:  # nor NaN
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
                    f"The environment's observation '{key}' contains NaN or Inf, or what is too "
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


class Restart(gymnasium.Wrapper):
    """Make a new environment when one fails, at most ``restarts`` times.

    A failure inside an episode ends it as truncated: the last observation is returned once more,
    with reward 0. A failure in reset is tried again, as is one in making the new environment. When
    no restart is left, the exception goes on to the caller. A ``UserError`` always does, because a
    new environment would repeat it.

    Args:
      constructor: called as ``constructor(seed=...)``.
      seed: of the first reset; a remade environment starts from another one.
    """

    def __init__(self, constructor: Callable[..., gymnasium.Env], restarts: int, seed: int):
        self._constructor = constructor
        self._left = restarts
        self._seed, self._seeds = seed, np.random.SeedSequence(seed)
        self._next_seed: int | None = seed
        self._obs: dict = {}
        super().__init__(constructor(seed=seed))

    def begin_again(self, life: int) -> None:
        """Draw other seeds from now on: this wrapper replaces one whose process was lost."""
        # Of (seed, 0) NumPy makes the same numbers as of the seed alone.
        self._seeds = np.random.SeedSequence((self._seed, life + 1))
        self._next_seed = self._another_seed()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._next_seed = self._next_seed if seed is None else seed
        while True:
            try:
                self._obs, info = self.env.reset(seed=self._next_seed, options=options)
            except Exception as error:
                self._renew(error, "reset")
                continue
            self._next_seed = None
            return self._obs, info

    def step(self, action: Any):
        try:
            result = self.env.step(action)
        except Exception as error:
            self._renew(error, "step")
            return self._obs, 0.0, False, True, {}
        self._obs = result[0]
        return result

    def render(self):
        # A new environment has nothing to show, and may refuse to, before its first reset.
        return self.env.render() if self._next_seed is None else None

    def _renew(self, error: Exception, where: str) -> None:
        self._count(error, where)
        self._close_broken()
        while True:
            self._next_seed = self._another_seed()
            try:
                self.env = self._constructor(seed=self._next_seed)
                return
            except Exception as failure:
                self._count(failure, "its constructor")

    def _another_seed(self) -> int:
        return int(self._seeds.spawn(1)[0].generate_state(1)[0])

    def _count(self, error: Exception, where: str) -> None:
        if self._left <= 0 or isinstance(error, UserError):
            raise error
        self._left -= 1
        _log.warning(
            "The environment failed in %s and is made anew (%d restarts left).",
            where,
            self._left,
            exc_info=error,
        )

    def _close_broken(self) -> None:
        try:
            self.env.close()
        except Exception as error:
            _log.warning("Closing the failed environment failed as well: %s", error)
