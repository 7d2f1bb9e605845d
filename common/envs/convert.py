"""Conversion of an environment's own observations and actions to those of the contract."""

import functools
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import NotFinite, UserError

MIN_SIDE = 16  # pixels; an axis with fewer entries holds channels or no image at all


class DictObs(gymnasium.ObservationWrapper):
    """Turn any supported observation space into a Dict that keeps the contract.

    | space                             | becomes                                     |
    |-----------------------------------|---------------------------------------------|
    | Dict, nested                      | one key for each leaf, 'outer.inner'        |
    | anything else                     | the key 'image' if it is one, else 'observation' |
    | Box of uint8 [H, W, C] or [H, W]  | the image, uint8 [H, W, C]                  |
    | images [C, H, W], stacks [N, H, W, C] | an image with all channels, uint8 [H, W, C] |
    | images of numbers from 0 to 1 or 255  | the image, uint8 [H, W, C]              |
    | other Box, MultiBinary            | float32, flattened to [D] (a scalar stays one) |
    | Discrete, MultiDiscrete           | one-hot float32, concatenated               |
    | Text                              | left out, with a warning                    |
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._converters: dict[str, tuple[tuple[str, ...], Callable]] = {}
        converted = {}
        for path, space in _leaves(env.observation_space):
            if space.dtype is not None and space.dtype.kind == "U":
                warnings.warn(f"The text observation '{'.'.join(path)}' is left out.", stacklevel=2)
                continue
            box, function = _convert(".".join(path), space)
            name = ".".join(path) or ("image" if len(box.shape) == 3 else "observation")
            if name in converted:
                raise UserError(
                    f"The observations {self._converters[name][0]} and {path} would both be called "
                    f"'{name}'; rename one of them."
                )
            converted[name] = box
            self._converters[name] = (path, function)
        self.observation_space = gymnasium.spaces.Dict(converted)

    def observation(self, observation):
        """Convert one observation; a UserError names a key that is missing or does not fit."""
        result = {}
        for name, (path, function) in self._converters.items():
            value = observation
            try:
                for part in path:
                    value = value[part]
                result[name] = function(value)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise UserError(
                    f"The environment's observation '{name}' is missing or does not fit its space "
                    f"({type(error).__name__}: {error})."
                ) from error
        return result


def _leaves(space: gymnasium.Space, path: tuple[str, ...] = ()):
    if not isinstance(space, gymnasium.spaces.Dict):
        yield path, space
        return
    for key, inner in space.items():
        if not isinstance(key, str):
            raise UserError(
                f"The observation key {key!r} is not text: give the observation another key, "
                f"such as '{key}'."
            )
        yield from _leaves(inner, (*path, key))


def _convert(name: str, space: gymnasium.Space) -> tuple[Box, Callable]:
    """Return the Box that the space becomes, and the function that converts a value."""
    if isinstance(space, Discrete):
        return _one_hots(np.array([space.n]), np.array([space.start]))
    if isinstance(space, MultiDiscrete):
        return _one_hots(space.nvec.ravel(), space.start.ravel())
    label = name or "observation"
    if not isinstance(space, Box | MultiBinary):
        raise UserError(
            f"The observation '{label}' is {space}, which is not supported; use "
            "Dict, Box, Discrete, MultiDiscrete or MultiBinary."
        )
    axes = _image_axes(space.shape) if isinstance(space, Box) else ()
    if not axes and space.dtype == np.uint8 and len(space.shape) in (2, 3):
        axes = tuple(range(len(space.shape)))
    if axes and space.dtype == np.uint8:
        return _image(space.shape, axes, lambda value: value)
    if axes and (space.low == 0).all() and (space.high == space.high.flat[0]).all():
        largest = float(space.high.flat[0])
        if largest == 255 or (largest == 1 and space.dtype.kind == "f"):
            return _image(space.shape, axes, functools.partial(_to_bytes, name or "image", largest))
    if axes:
        warnings.warn(
            f"The observation '{label}' of the shape {space.shape} is read as a "
            f"vector of {np.prod(space.shape):,} numbers; if it is an image, wrap the environment "
            f"so that its space is uint8, or goes from 0 to 1, instead of {space.dtype} from "
            f"{space.low.min()} to {space.high.max()}.",
            stacklevel=2,
        )
    return _vector(space)


def _image_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes (height, width, *channels) of an image; () for other shapes.

    Images are [H, W], [H, W, C] or [C, H, W]; stacks of N images have an axis more in front. The
    channels are the axis of fewer entries than ``MIN_SIDE``, which height and width have at least.
    """
    orders = {2: [(0, 1)], 3: [(0, 1, 2), (1, 2, 0)], 4: [(1, 2, 0, 3), (2, 3, 0, 1)]}
    for axes in orders.get(len(shape), []):
        sides, channels = [shape[i] for i in axes[:2]], [shape[i] for i in axes[2:]]
        if min(sides) >= MIN_SIDE and all(0 < count < MIN_SIDE for count in channels):
            return axes
    return ()


def _image(shape: tuple[int, ...], axes: tuple[int, ...], to_bytes: Callable):
    """Convert to uint8 [H, W, C]; the channels of stacked images follow one another."""
    height, width = shape[axes[0]], shape[axes[1]]
    target = (height, width, int(np.prod(shape)) // (height * width))

    def convert(value):
        value = np.asarray(value)
        if value.shape != shape:  # CheckSpaces names the wrong shape
            return value
        return to_bytes(value).transpose(axes).reshape(target)

    return Box(0, 255, target, np.uint8), convert


def _to_bytes(name: str, largest: float, value: np.ndarray) -> np.ndarray:
    if not np.isfinite(value).all():
        message = f"The environment's observation '{name}' contains NaN or Inf."
        raise NotFinite(message, {name: value})
    if value.min() < 0 or value.max() > largest:
        raise ValueError(f"{value.min()} to {value.max()}, where the space has 0 to {largest:g}")
    return np.round(value * (255 / largest)).astype(np.uint8)


def _vector(space: Box | MultiBinary) -> tuple[Box, Callable]:
    shape = (int(np.prod(space.shape)),) if space.shape else ()

    def convert(value):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":  # CheckSpaces names it, as it does a wrong shape
            return value
        if value.shape == space.shape:
            value = value.reshape(shape)
        return value.astype(np.float32)

    return Box(-np.inf, np.inf, shape, np.float32), convert


def _one_hots(sizes: np.ndarray, starts: np.ndarray) -> tuple[Box, Callable]:
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def convert(value):
        indices = np.asarray(value).ravel()
        if indices.size != sizes.size:
            raise ValueError(f"{indices.size} entries instead of {sizes.size}")
        indices = indices - starts
        if ((indices < 0) | (indices >= sizes)).any():
            raise ValueError(f"{value} is out of range")
        result = np.zeros(int(sizes.sum()), np.float32)
        result[indices + offsets] = 1
        return result

    return Box(0.0, 1.0, (int(sizes.sum()),), np.float32), convert


def adapt_action(env: gymnasium.Env) -> gymnasium.Env:
    """Give the environment one-hot or scaled continuous actions."""
    space = env.action_space
    if isinstance(space, Discrete):
        return OneHotAction(env)
    if isinstance(space, Box) and space.dtype.kind == "f":
        return NormalizeAction(env)
    raise UserError(
        f"The action space {space} is not supported; it must be Discrete or a Box of floats."
    )


class OneHotAction(gymnasium.Wrapper):
    """Take one-hot float32 [n] instead of the indices of a Discrete space."""

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
    """Scale bounded dimensions to [-1, 1], as float32 [A] for any inner shape and precision.

    Other dimensions pass unchanged, clipped at their one bound if they have one. A dimension whose
    only finite bound cuts into [-1, 1] is scaled as if the other bound were 2 away, so that no
    action of the actor is clipped: [5, inf) is scaled as [5, 7].
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
        limit = np.where(self._bounded, 1, np.inf).astype(np.float32)
        self.action_space = Box(-limit, limit, dtype=np.float32)

    def step(self, action: np.ndarray):
        scaled = self._low + (action.astype(np.float64) + 1) / 2 * (self._high - self._low)
        scaled = np.where(self._bounded, scaled, action)
        # A rounding error beyond the bound makes some simulators refuse the action.
        scaled = np.clip(scaled, *self._limits)
        return self.env.step(scaled.reshape(self._inner.shape).astype(self._inner.dtype))
