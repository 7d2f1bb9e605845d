"""The file spaces.json, and the training wrappers around spaces alone.

The file holds an environment's own spaces, before the wrappers of this package. ``SpaceAdapter``
puts these wrappers around the spaces, so that a policy can be played without the environment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import convert, wrappers
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import UserError
from dreamerv2.common.files import replacing

FILENAME = "spaces.json"


def save(logdir: Path, envs: gymnasium.vector.VectorEnv) -> None:
    """Write the spaces of a run's environments into its folder, whole or not at all."""
    inner = getattr(envs, "inner", None)  # only our own vectors have it, and our wrappers
    observation = inner.observation_space if inner else envs.single_observation_space
    action = inner.action_space if inner else envs.single_action_space
    content = {"observation": encode(observation), "action": encode(action)}
    text = json.dumps(content, indent=1, allow_nan=False)
    with replacing(logdir / FILENAME) as file:
        file.write(text.encode())


def load(logdir: Path) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Return the observation and the action space that ``save`` wrote."""
    path = logdir / FILENAME
    try:
        content = json.loads(path.read_text())
        return decode(content["observation"]), decode(content["action"])
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); training writes it when it starts."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(f"{path} does not hold the spaces of a run ({error!r}).") from error


def encode(space: gymnasium.Space) -> dict[str, Any]:
    """Describe a space for JSON; equal bounds become one number."""
    if isinstance(space, Dict):
        return {"kind": "Dict", "spaces": {key: encode(inner) for key, inner in space.items()}}
    if isinstance(space, OneHotSpace):
        return {"kind": "Discrete", "n": space.n, "start": 0}
    if isinstance(space, Box):
        bounds = {"low": _encode_bound(space.low), "high": _encode_bound(space.high)}
        return {"kind": "Box", "shape": list(space.shape), "dtype": space.dtype.name, **bounds}
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"kind": "MultiDiscrete", **numbers}
    if isinstance(space, MultiBinary):
        return {"kind": "MultiBinary", "n": space.n if len(space.shape) == 1 else list(space.shape)}
    if space.dtype is not None and space.dtype.kind == "U":
        return {"kind": "Text"}  # of any kind: the model does not read text
    raise ValueError(f"{space} has no place in {FILENAME}.")


def decode(data: Mapping[str, Any]) -> gymnasium.Space:
    """Return the space that ``encode`` described."""
    kind = data["kind"]
    if kind == "Dict":
        return Dict({key: decode(inner) for key, inner in data["spaces"].items()})
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        bounds = [np.array(data[name], dtype) for name in ("low", "high")]  # a number or a list
        low, high = (np.full(shape, b.reshape(shape if b.ndim else ())) for b in bounds)
        return Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return Discrete(data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        return MultiDiscrete(np.array(data["nvec"]), start=np.array(data["start"]))
    if kind == "MultiBinary":
        return MultiBinary(data["n"])
    if kind == "Text":
        return Text(1)
    raise ValueError(f"no space is called {kind}")


def _encode_bound(bound: np.ndarray) -> Any:
    # JSON has no infinity; the text "inf" reads back as a number.
    numbers = [x if np.isfinite(x) else str(x) for x in bound.ravel().tolist()]
    return numbers[0] if len(set(numbers)) == 1 else numbers


class SpaceAdapter:
    """The training wrappers, applied to single observations and actions of own spaces."""

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: Config
    ):
        if isinstance(observation_space, Dict):  # a player need not provide entries for the log
            trained = {k: v for k, v in observation_space.items() if not k.startswith("log_")}
            observation_space = Dict(trained)
        self._stub = _StubEnv(observation_space, action_space)
        # Each call is one step of the agent; repeats and the end of the episode are the caller's.
        config = config.update({"action_repeat": 1, "time_limit": 0})
        self._env = wrappers.standardize(convert.DictObs(self._stub), config)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space

    def observe(self, obs: Any) -> dict[str, np.ndarray]:
        """Convert an observation of the environment to the agent's."""
        self._stub.obs = obs
        return self._env.reset()[0]

    def act(self, action: np.ndarray) -> Any:
        """Convert an action of the agent [A] to the environment's."""
        self._env.step(action)
        return self._stub.action


class _StubEnv(gymnasium.Env):
    """An environment that returns a given observation and keeps the last action."""

    def __init__(self, observation_space: gymnasium.Space, action_space: gymnasium.Space):
        self.observation_space, self.action_space = observation_space, action_space
        self.obs: Any = None
        self.action: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        return self.obs, {}

    def step(self, action: Any):
        self.action = action
        return self.obs, 0.0, False, False, {}
