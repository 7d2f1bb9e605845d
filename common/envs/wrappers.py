"""Wrappers for one purpose each, and their order around an environment."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from dreamerv2.common.envs.convert import adapt_action
from dreamerv2.common.envs.spaces import CheckSpaces


def standardize(env: gymnasium.Env, config: Any, action_repeat: bool = True) -> gymnasium.Env:
    """Check each step, then fit actions, images and the length of episodes to the config.

    Args:
      env: has a Dict observation space of images, vectors and scalars (see ``convert.DictObs``).
      action_repeat: False if the environment repeats actions itself.
    """
    env = CheckSpaces(env)
    if action_repeat and config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    size = tuple(config.render_size)
    if any(len(s.shape) == 3 and s.shape[:2] != size for s in env.observation_space.values()):
        env = ResizeImages(env, size)
    env = adapt_action(env)
    # Truncates the episode, which is never a termination.
    return TimeLimit(env, config.time_limit) if config.time_limit > 0 else env


class ActionRepeat(gymnasium.Wrapper):
    """Hold each action for ``repeats`` steps, sum the rewards, stop at the end of the episode."""

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


class AreaResize:
    """Resize uint8 images [H, W, C] (or [H, W], if C is 1) to [height, width, C].

    out[y, x] = sum over (i, j) of overlap_y[y, i] * overlap_x[x, j] * image[i, j], with overlaps
    that sum to one: every output pixel is the exact mean of the region it covers. (Pillow's BOX
    takes partly covered pixels whole or not at all.) Few source rows overlap with an output row, so
    rows are gathered; the columns are one small matrix product.
    """

    def __init__(self, source: tuple[int, int, int], target: tuple[int, int]):
        height, width, self._channels = source
        self._shape = (*target, self._channels)
        self._flat = (height, width * self._channels)
        self._half = (target[0], width, self._channels)
        overlap = overlaps(height, target[0])
        taps = int((overlap > 0).sum(1).max())
        # The first of `taps` neighbouring rows, moved up to end at the lower edge at most.
        first = np.minimum((overlap > 0).argmax(1), height - taps)
        self._rows = first[:, None] + np.arange(taps)  # [h, taps]
        weights = np.take_along_axis(overlap, self._rows, 1)[:, None]  # [h, 1, taps]
        self._weights = weights.astype(np.float32)
        self._columns = overlaps(width, target[1]).astype(np.float32)  # [w, W]
        self._columns_t = np.ascontiguousarray(self._columns.T)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        rows = image.reshape(self._flat)[self._rows].astype(np.float32)  # [h, taps, W*C]
        half = (self._weights @ rows).reshape(self._half)  # [h, W, C]
        if self._channels == 1:
            full = half[..., 0] @ self._columns_t  # [h, W] -> [h, w]
        else:
            full = self._columns @ half  # [h, w, C]
        full += 0.5  # the conversion truncates, so add half to round
        return full.astype(np.uint8).reshape(self._shape)


def overlaps(source: int, target: int) -> np.ndarray:
    """Return the share of each source pixel in each output pixel, float64 [target, source]."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    lower = np.maximum(edges[:-1, None], pixels)
    upper = np.minimum(edges[1:, None], pixels + 1)
    share = np.maximum(upper - lower, 0)
    share[share < 1e-9] = 0  # rounding errors at edges between two pixels
    return share / share.sum(1, keepdims=True)
