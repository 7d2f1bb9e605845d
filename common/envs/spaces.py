"""Observation spaces: what the contract allows, and how others are turned into it."""

import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from dreamerv2.common.errors import UserError

# What a row holds beside observations, losses of their own, and what the release's files call RAM.
RESERVED = (
    *("action", "reward", "is_first", "is_last", "is_terminal", "_crc32"),
    *("discount", "kl", "model", "actor", "critic", "ram"),
)
LONGEST = 1000  # bytes of a key, which names a member of an episode's file


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
        """Whether x is one-hot."""
        return super().contains(x) and np.count_nonzero(x) == 1 and x.max() == 1

    def __repr__(self) -> str:
        return f"OneHotSpace({self.n})"

    def __eq__(self, other) -> bool:
        return isinstance(other, OneHotSpace) and other.n == self.n


@gymnasium.vector.utils.batch_space.register(OneHotSpace)
def _batch_one_hot(space: OneHotSpace, n: int = 1) -> Box:
    return Box(0.0, 1.0, (n, space.n), np.float32)


def describe(
    observation_space: gymnasium.spaces.Dict, action_space: gymnasium.Space
) -> tuple[dict[str, tuple[int, ...]], int, bool]:
    """Return what an agent is made with: shapes by key, size of an action, whether discrete."""
    shapes = {key: space.shape for key, space in observation_space.items()}
    return shapes, action_space.shape[0], isinstance(action_space, OneHotSpace)


def check_contract(space: gymnasium.Space) -> None:
    """Refuse an observation space that is no Dict of uint8 images, float32 vectors and scalars.

    Raises:
      UserError: names the key and what it is.
    """
    if not isinstance(space, gymnasium.spaces.Dict) or not space.spaces:
        raise UserError(f"The observation space must be a Dict with at least one key, not {space}.")
    for key, value in space.items():
        if key in RESERVED:
            raise UserError(
                f"The observation key '{key}' is reserved, as are {', '.join(RESERVED)}."
            )
        if len(key.encode(errors="replace")) > LONGEST:
            raise UserError(
                f"The observation key '{key[:20]}...' has {len(key)} characters; it must not have "
                f"more than {LONGEST} bytes."
            )
        image = value.dtype == np.uint8 and len(value.shape) == 3
        vector = value.dtype == np.float32 and len(value.shape) <= 1
        if not (isinstance(value, Box) and (image or vector)):
            raise UserError(
                f"The observation '{key}' is {value}; it must be a Box of uint8 [H, W, C] or of "
                "float32 with at most one dimension."
            )


class DictObs(gymnasium.ObservationWrapper):
    """Turn any supported observation space into a Dict that keeps the contract.

    | space                             | becomes                                     |
    |-----------------------------------|---------------------------------------------|
    | Dict, nested                      | one key for each leaf, 'outer.inner'        |
    | anything else                     | the key 'image' if it is one, else 'observation' |
    | Box of uint8 [H, W, C] or [H, W]  | the image, uint8 [H, W, C]                  |
    | other Box, MultiBinary            | float32, flattened to [D] (a scalar stays one) |
    | Discrete, MultiDiscrete           | one-hot float32, concatenated               |
    | Text                              | left out, with a warning                    |

    Raises:
      UserError: names a key of another kind (Tuple, Graph, Sequence, ...), or two keys that would
        become the same.
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
                first, second = _index(self._converters[name][0]), _index(path)
                raise UserError(
                    f"The observations {first} and {second} would both be called '{name}'; rename "
                    "one of them."
                )
            converted[name] = box
            self._converters[name] = (path, function)
        self.observation_space = gymnasium.spaces.Dict(converted)

    def observation(self, observation):
        """Convert one observation.

        Raises:
          UserError: a key is missing, or its value cannot be converted.
        """
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


def _index(path: tuple[str, ...]) -> str:
    return "".join(f"[{part!r}]" for part in path)


def _convert(name: str, space: gymnasium.Space) -> tuple[Box, Callable]:
    """The Box that the space becomes, and the function that does it to a value."""
    if isinstance(space, Discrete):
        return _one_hots(np.array([space.n]), np.array([space.start]))
    if isinstance(space, MultiDiscrete):
        return _one_hots(space.nvec.ravel(), space.start.ravel())
    if isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3):
        return _image(space)
    if isinstance(space, Box | MultiBinary):
        if len(space.shape) == 3 and space.shape[2] <= 4 < min(space.shape[:2]):
            warnings.warn(
                f"The observation '{name or 'observation'}' of the shape {space.shape} is read as "
                f"a vector of {np.prod(space.shape):,} numbers, since it is {space.dtype}: images "
                "are uint8. If it is one, wrap the environment so that it gives 0 to 255 in uint8.",
                stacklevel=2,
            )
        return _vector(space)
    raise UserError(
        f"The observation '{name or 'observation'}' is {space}, which is not supported; use Dict, "
        "Box, Discrete, MultiDiscrete or MultiBinary."
    )


def _image(space: Box) -> tuple[Box, Callable]:
    if len(space.shape) == 3:
        if space.shape[0] <= 4 < min(space.shape[1:]):
            warnings.warn(
                f"An image of the shape {space.shape} is taken for {space.shape[0]} rows of "
                f"{space.shape[1]} pixels: images are [H, W, C]. If its channels come first, wrap "
                "the environment so that they come last.",
                stacklevel=2,
            )
        return Box(0, 255, space.shape, np.uint8), np.asarray
    return Box(0, 255, (*space.shape, 1), np.uint8), lambda value: np.asarray(value)[..., None]


def _vector(space: Box | MultiBinary) -> tuple[Box, Callable]:
    shape = (int(np.prod(space.shape)),) if space.shape else ()

    def convert(value):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":  # left for CheckSpaces to name, as is a wrong shape
            return value
        if not _can_hold(space.dtype, value):
            raise ValueError(f"{value.dtype} values, where the space has {space.dtype}")
        if value.shape == space.shape:
            value = value.reshape(shape)
        return value.astype(np.float32)

    return Box(-np.inf, np.inf, shape, np.float32), convert


def _can_hold(dtype: np.dtype, value: np.ndarray) -> bool:
    """Whether the dtype is of the same kind, or at least has room for these very values."""
    if np.can_cast(value.dtype, dtype, "same_kind"):
        return True
    with np.errstate(invalid="ignore"):  # NaN, which no integer can be
        return bool((value.astype(dtype) == value).all())


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
