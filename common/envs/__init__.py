"""Environments by task name: ``SUITE_NAME``, for example ``atari_pong`` or ``dmc_walker_walk``.

Every environment made here is a ``gymnasium.Env`` with a Dict observation space (images uint8
[H, W, C], vectors float32 [D], scalars) and an action space that is either a
``spaces.OneHotSpace`` or a float32 Box. A suite's file is imported only when it is asked for.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from dreamerv2.common.envs.vector.process import ProcessVectorEnv
from dreamerv2.common.envs.vector.vector import SerialVectorEnv
from dreamerv2.common.errors import UserError, nearest

# suite -> (the extra that installs it, the package whose absence means it is not installed)
SUITES = {
    "atari": ("", "ale_py"),
    "crafter": ("crafter", "crafter"),
    "dmc": ("dmc", "dm_control"),
    "gym": ("", "gymnasium"),
    "minigrid": ("minigrid", "minigrid"),
}


def make_env(task: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make one environment, fully wrapped; mode is 'train' or 'eval'.

    seed: of suites that draw random numbers while they make the environment. ``reset(seed=...)``
    seeds the episodes.
    """
    suite, name = _split(task)
    return _suite_module(suite).make(name, config, mode, seed)


def make_vector_env(
    task: str, config: Mapping, count: int, parallel: str, mode: str, seeds: Sequence[int]
) -> gymnasium.vector.VectorEnv:
    """Make ``count`` environments of a task, one for each seed, that step together."""
    _suite_module(_split(task)[0])
    make = functools.partial(make_env, task, config, mode)
    constructors = [functools.partial(make, int(seeds[index])) for index in range(count)]
    return vectorize(constructors, parallel, config, seeds)


def vectorize(
    constructors: Sequence[Callable[[], gymnasium.Env]],
    parallel: str = "none",
    config: Any = None,
    seeds: Sequence[int] | None = None,
) -> gymnasium.vector.VectorEnv:
    """Run the environments that the constructors return as one ``VectorEnv``.

    Args:
      constructors: each returns an environment that keeps the contract of this package (see
        ``gym.wrap`` for a user's own). For 'process' they travel to another process: functions
        defined in a script or a notebook are fine.
      parallel: 'none' (in this process, one after the other) or 'process' (one process each).
      config: reads env_restarts and env_timeout, if given.
      seeds: of the first resets, and the origin of the seeds after a restart.
    """
    restarts = int(getattr(config, "env_restarts", 0))
    if parallel == "none":
        return SerialVectorEnv(constructors, restarts, seeds)
    timeout = float(getattr(config, "env_timeout", 0))
    return ProcessVectorEnv(constructors, restarts, seeds, timeout)


def _split(task: str) -> tuple[str, str]:
    suite, _, name = task.partition("_")
    if suite not in SUITES:
        spelt = suite.lower() in SUITES and name
        meant = f"{suite.lower()}_{name}" if spelt else _suite_module("gym").task_of_suite(task)
        hint = f" Did you mean '{meant}'?" if meant else nearest(suite.lower(), SUITES)
        raise UserError(
            f"Task '{task}' names no known suite; a task is SUITE_NAME with one of the suites "
            f"{', '.join(SUITES)}.{hint}"
        )
    if not name:
        raise UserError(f"Task '{task}' lacks a name after the suite, as in 'atari_pong'.")
    return suite, name


def _suite_module(suite: str):
    extra, package = SUITES[suite]
    if importlib.util.find_spec(package) is None:
        install = f"dreamerv2[{extra}]" if extra else package
        raise UserError(
            f"The suite '{suite}' needs the package '{package}', which is not installed; "
            f"install it with: pip install '{install}'."
        )
    return importlib.import_module(f"dreamerv2.common.envs.{suite}")
