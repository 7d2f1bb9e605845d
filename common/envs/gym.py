"""Registered gymnasium environments, a user's own environment, and those of old ``gym``."""

import contextlib
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.envs import convert, rendering, wrappers
from dreamerv2.common.errors import UserError, nearest

_log = logging.getLogger(__name__)


def make(name: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make a registered environment by its id, such as 'CartPole-v1' or 'module:Name-v0'.

    With config.mode 'eval', ``render()`` returns images if the environment offers them (the
    evaluations of a training run film nothing).
    """
    rendering.prepare_rendering()
    rendering.choose_without_display()
    env = _registered(name)
    modes = (getattr(env, "metadata", None) or {}).get("render_modes") or ()
    if getattr(config, "mode", "train") == "eval" and "rgb_array" in modes:
        filmed = _rendering(name)
        if filmed is not None:
            with contextlib.suppress(Exception):  # some can be closed only after a reset
                env.close()
            env = filmed
    return _prepare(env, config)


def wrap(env: Any, config: Mapping) -> gymnasium.Env:
    """Bring a user's own environment, with the API of gymnasium or of any gym, to the contract."""
    _check_single(env)
    if hasattr(getattr(env, "unwrapped", env), "mujoco_renderer"):
        rendering.check_display(env.render_mode)
    rendering.prepare_rendering()
    return _prepare(env, config)


def _check_single(env: Any) -> None:
    """Refuse everything but one environment of one agent."""
    needed = ("reset", "step", "observation_space", "action_space")
    missing = " and no ".join(name for name in needed if not hasattr(env, name))
    if missing:
        hint = ""
        if isinstance(env, str):
            hint = f" For a registered one, give gymnasium.make({env!r})."
        elif hasattr(env, "observation_spec"):
            hint = " For dm_control there are the tasks dmc_DOMAIN_TASK."
        raise UserError(f"{env!r} is no environment, because it has no {missing}.{hint}")
    several = {"num_envs": "a vector of environments", "possible_agents": "for several agents"}
    for part, kind in several.items():
        if hasattr(env, part):
            raise UserError(
                f"{env!r} is {kind}: give a function that makes an environment of one agent, and "
                "the number of environments as --envs."
            )


class AnyGym(gymnasium.Env):
    """A gymnasium environment around one whose API may be that of gym 0.9 to 0.26 or gymnasium.

    An old environment's episode that is done is truncated, not terminated, if the step's info has
    a true ``TimeLimit.truncated`` or a false ``is_terminal``.
    """

    def __init__(self, env: Any):
        self._env = env
        self.metadata = dict(getattr(env, "metadata", None) or {})
        self.render_mode = getattr(env, "render_mode", None)
        self.observation_space = convert_space(env.observation_space)
        self.action_space = convert_space(env.action_space)
        self._reset_takes = _reset_takes(env)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Reset, with the environment's own way of seeding."""
        given = {"seed": seed, "options": options}
        known = {k: v for k, v in given.items() if k in self._reset_takes and v is not None}
        if seed is not None and "seed" not in known and hasattr(self._env, "seed"):
            self._env.seed(seed)
        result = self._env.reset(**known)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict | None):
            return result[0], result[1] or {}
        return result, {}

    def step(self, action: Any):
        """Step; the result always has five entries."""
        result = self._env.step(action)
        count = len(result) if isinstance(result, tuple | list) else 0
        if count == 5:
            return tuple(result)
        if count != 4:
            raise UserError(
                "The environment's step() must return (obs, reward, terminated, truncated, info), "
                f"or the (obs, reward, done, info) of old gym, not {result!r}."
            )
        obs, reward, done, info = result
        info = info or {}
        terminal = info.get("is_terminal", not info.get("TimeLimit.truncated", False))
        return obs, reward, bool(done and terminal), bool(done and not terminal), info

    def render(self):
        """The environment's own frame: gym before 0.26 takes the mode as an argument."""
        if self._render_takes_mode():
            return self._env.render(mode="rgb_array")
        return self._env.render()

    def try_rendering(self) -> None:
        """Let an environment of before gym 0.26, which has no render mode, draw if it can."""
        offered = "rgb_array" in self.metadata.get("render.modes", ())
        if self.render_mode is None and offered and self._render_takes_mode():
            with _logged_failures(self._env):
                self.render_mode = "rgb_array" if _draws(self) else None

    def _render_takes_mode(self) -> bool:
        render = getattr(self._env, "render", None)
        return render is not None and "mode" in inspect.signature(render).parameters

    def close(self) -> None:
        """Close the environment, if it can be closed."""
        if hasattr(self._env, "close"):
            self._env.close()


def convert_space(space: Any) -> gymnasium.Space:
    """Return the gymnasium space that equals a space of old gym, found by its class name."""
    if isinstance(space, gymnasium.Space):
        return space
    kinds = [kind.__name__ for kind in type(space).__mro__]
    if "Box" in kinds:
        return gymnasium.spaces.Box(space.low, space.high, space.shape, space.dtype.type)
    if "Discrete" in kinds:
        return gymnasium.spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    if "MultiDiscrete" in kinds:
        return gymnasium.spaces.MultiDiscrete(np.asarray(space.nvec))
    if "MultiBinary" in kinds:
        return gymnasium.spaces.MultiBinary(space.n)
    if "Dict" in kinds:
        inner = {key: convert_space(value) for key, value in space.spaces.items()}
        return gymnasium.spaces.Dict(inner)
    crafter = type(space).__module__.startswith("crafter")
    hint = " For Crafter itself there is the task crafter_reward." if crafter else ""
    raise UserError(f"The space {space} is not supported; use Dict, Box or Discrete.{hint}")


def _reset_takes(env: Any) -> set[str]:
    """Return the arguments of reset(); a wrapper's ``**kwargs`` go to the environment inside."""
    parameters = inspect.signature(env.reset).parameters
    names = set(parameters)
    if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return names
    if isinstance(env, gymnasium.Env) or not hasattr(env, "env"):  # gymnasium's API has both
        return names | {"seed", "options"}
    return names | _reset_takes(env.env)


def _prepare(env: Any, config: Mapping) -> gymnasium.Env:
    env = AnyGym(env)
    if getattr(config, "mode", "train") == "eval":
        env.try_rendering()
    return wrappers.standardize(convert.DictObs(env), config)


def _registered(name: str) -> Any:
    if not re.fullmatch(r"([^:.][^:]*:)?[^:]+", name):
        raise UserError(f"'gym_{name}' is no task; write gym_NAME-v0 or gym_MODULE:NAME-v0.")
    module = name.rpartition(":")[0].partition(".")[0]
    if module and importlib.util.find_spec(module) is None:
        sys.meta_path.append(_CurrentFolder)
    try:
        # CheckSpaces takes the place of gymnasium's own checker, which is slow.
        return gymnasium.make(name, disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv as error:
        old = _old_gym(name)
        if old is not None:
            return old
        task = task_of_suite(name)
        near = nearest(name, gymnasium.registry, 0.75)  # Reacher is not FetchReach
        hint = f" Did you mean '{task}'?" if task else near
        raise UserError(
            f"gymnasium knows no environment '{name}'.{hint} If a package registers it, name the "
            "module: gym_MODULE:NAME."
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"gymnasium cannot make '{name}': {error}") from error


def task_of_suite(name: str) -> str | None:
    """Return the task that a bare id means, or None: 'ALE/Pong-v5' -> 'atari_pong'."""
    base = re.sub(r"-v\d+$", "", name)
    if base.startswith(("MiniGrid-", "BabyAI-")):
        return f"minigrid_{name.removeprefix('MiniGrid-').removesuffix('-v0')}"
    if base in ("CrafterReward", "CrafterNoReward"):
        return f"crafter_{base.removeprefix('Crafter').lower()}"
    if base.startswith("dm_control/"):
        return f"dmc_{base.removeprefix('dm_control/').replace('-', '_')}"
    from dreamerv2.common.envs import atari  # imports the emulator, only for this hint

    game = atari.game_of_id(name)
    own = f"gym_{name}" if name in gymnasium.registry else None
    return f"atari_{game}" if game else own


class _CurrentFolder:
    """Finds modules in the current folder, which a console command does not put on the path."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None):
        return PathFinder.find_spec(name, [os.getcwd()]) if path is None else None


def _rendering(name: str) -> gymnasium.Env | None:
    """Make an environment that renders images; None if it has none to show on this machine."""
    env = None
    with _logged_failures(name):
        env = gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array")
        simulated = any(hasattr(env.unwrapped, part) for part in ("mujoco_renderer", "model"))
        mujoco = simulated and "mujoco" in sys.modules  # which needs a backend that works here
        if (not mujoco or rendering.choose_backend()) and _draws(env):
            return env
    if env is not None:
        env.close()
    return None


def _draws(env: gymnasium.Env) -> bool:
    env.reset()
    frame = np.asarray(env.render())
    return frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3


@contextlib.contextmanager
def _logged_failures(env: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _log.info("The environment %r renders no images: %s", env, error)


def _old_gym(name: str) -> Any:
    """Make an environment by old gym; None if gym is not installed or lacks the id."""
    if importlib.util.find_spec("gym") is None:
        return None
    gym = importlib.import_module("gym")
    try:
        # gym 0.26's own checker fails on NumPy 2; older versions do not know the option.
        checked = "disable_env_checker" in inspect.signature(gym.make).parameters
        return gym.make(name, **({"disable_env_checker": True} if checked else {}))
    except gym.error.UnregisteredEnv:
        return None
