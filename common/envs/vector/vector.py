"""Several environments that step together, one after the other in this process.

The vectors of environments here and in ``process`` keep gymnasium's ``VectorEnv`` interface with
``AutoresetMode.DISABLED``: a finished environment must be reset through
``reset(options={"reset_mask": bool [E]})`` before the next step. Every call returns new arrays.
(gymnasium's own two classes copy deeply at each step, and lose the traceback of a worker.)
"""

import contextlib
import logging
from collections.abc import Callable, Sequence, Set
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dreamerv2.common.envs.vector import worker
from dreamerv2.common.errors import UserError

_log = logging.getLogger(__name__)


class BatchedEnv(VectorEnv):
    """Reset masks, flags, stacking and restarts for both ways of running the environments.

    An environment that fails is replaced by a new one, at most ``restarts`` times each. A failure
    in a step ends the episode as truncated: the last observation is returned once more, with
    reward 0. A failed reset, or a failed constructor of a replacement, is tried again. When no
    restart is left, the exception goes to the caller. A ``UserError`` always does, because a new
    environment would repeat it.

    Args:
      constructors: each returns one environment; a restart calls it again.
      restarts: for each environment.
      seeds: of the first resets. A replacement's seed is drawn from the same number and never
        repeats an earlier one. None leaves the first resets without a seed.

    Attributes:
      abandoned: indices of the environments that a stop did not wait for, see ``hurry``.
    """

    abandoned: Set[int] = frozenset()

    def __init__(
        self,
        constructors: Sequence[Callable[[], gymnasium.Env]],
        restarts: int = 0,
        seeds: Sequence[int] | None = None,
    ):
        self.num_envs = len(constructors)
        self._restarts_left = [restarts] * self.num_envs
        self._next_seeds = [None] * self.num_envs if seeds is None else list(seeds)
        bases = range(self.num_envs) if seeds is None else seeds
        self._seed_sequences = [np.random.SeedSequence(base) for base in bases]
        self._rows: list[dict] = [{} for _ in range(self.num_envs)]
        self._needs_reset = np.ones(self.num_envs, bool)
        self._replaced: set[int] = set()  # new environments before their first reset
        try:
            self._set_spaces(self._open(constructors))
        except BaseException:
            with contextlib.suppress(Exception):  # the first failure says more
                self.close()
            raise

    def _set_spaces(self, spaces: Sequence[tuple[gymnasium.Space, gymnasium.Space]]) -> None:
        observation_space, action_space = spaces[0]
        for index, other in enumerate(spaces):
            if other != spaces[0]:
                raise UserError(
                    f"Environment {index} has the spaces {other}, which differ from {spaces[0]} of "
                    "environment 0; all must be the same."
                )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)

    def _open(self, constructors: Sequence[Callable]) -> list[tuple]:
        """Make every environment; return their (observation space, action space)."""
        raise NotImplementedError

    def _replace(self, index: int, error: Exception) -> None:
        """Close the environment that raised ``error`` and make a new one."""
        raise NotImplementedError

    def _send(self, index: int, command: str, argument: Any) -> None:
        """Ask an environment for a command of ``worker.perform``."""
        raise NotImplementedError

    def _receive(self, index: int, command: str) -> Any:
        """Return the result of the last command that was sent."""
        raise NotImplementedError

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Reset all environments, or those where ``options["reset_mask"]`` (bool [E]) is true.

        Returns:
          The observations, key -> [E, ...] (rows outside of the mask repeat their last
          observation), and an empty info dict: no info is passed on.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = self._next_seeds if seeds is None else seeds
        arguments = {int(i): (seeds[i], options or None) for i in np.flatnonzero(mask)}
        for index, obs in self._ask("reset", arguments).items():
            self._rows[index] = obs
            self._next_seeds[index] = None
            self._needs_reset[index] = False
            self._replaced.discard(index)
        if not all(self._rows):
            raise RuntimeError("The first reset must include every environment.")
        return self._stack(), {}

    def step(self, actions: np.ndarray):
        """Step all environments by actions [E, A].

        Returns:
          observations key -> [E, ...], rewards float64 [E], terminations bool [E], truncations
          bool [E], and an empty info dict.

        Raises:
          RuntimeError: an environment has finished and was not reset.
        """
        if self._needs_reset.any():
            finished = np.flatnonzero(self._needs_reset).tolist()
            raise RuntimeError(f"Reset the finished environments {finished} before the next step.")
        results = self._ask("step", dict(enumerate(actions)))
        rewards = np.zeros(self.num_envs)
        flags = np.zeros((2, self.num_envs), bool)
        for index, (obs, reward, terminated, truncated) in results.items():
            self._rows[index] = obs
            rewards[index] = reward
            flags[:, index] = terminated, truncated
        self._needs_reset = flags[0] | flags[1]
        return self._stack(), rewards, flags[0], flags[1], {}

    def render(self, indices: Sequence[int] | None = None) -> tuple:
        """Return the frames of these environments, or of all; a str says why one failed.

        The frame of an environment that replaces a failed one is None before its first reset.
        """
        indices = range(self.num_envs) if indices is None else indices
        drawn = self._ask("render", {i: None for i in indices if i not in self._replaced})
        return tuple(drawn.get(index) for index in indices)

    @property
    def inner(self) -> worker.Inner:
        """Spaces and render mode of the environments before the wrappers of this package."""
        return self._ask("inner", {0: None})[0]

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Have each environment named in ``arguments`` perform a command."""
        if self.closed:
            raise RuntimeError("These environments are closed.")
        for index, argument in arguments.items():
            self._send(index, command, argument)
        return {i: self._answer(i, command, argument) for i, argument in arguments.items()}

    def _answer(self, index: int, command: str, argument: Any) -> Any:
        """Return the result of a command, replacing the environment as often as it fails."""
        try:
            return self._receive(index, command)
        except Exception as error:
            failure, where = error, command
        while True:
            if self._gives_up(failure):
                return self._abandon(index, command, failure)
            self._count_restart(index, where, failure)
            try:
                self._replace(index, failure)
                self._replaced.add(index)
                if command == "step":
                    return self._truncated(index)
                self._send(index, command, (self._next_seeds[index], argument[1]))
                return self._receive(index, command)
            except Exception as error:
                where = command if index in self._replaced else "its constructor"
                failure = error

    def _count_restart(self, index: int, where: str, error: Exception) -> None:
        may_restart = where not in ("render", "inner") and not isinstance(error, UserError)
        if not may_restart or self._restarts_left[index] <= 0:
            raise error
        self._restarts_left[index] -= 1
        self._replaced.discard(index)
        child = self._seed_sequences[index].spawn(1)[0]
        self._next_seeds[index] = int(child.generate_state(1)[0])
        _log.warning(
            "Environment %d failed in %s and is made anew (%d restarts left).",
            index,
            where,
            self._restarts_left[index],
            exc_info=error,
        )

    def _gives_up(self, error: Exception) -> bool:
        """Return True for an environment that a stop does not wait for."""
        return False

    def _abandon(self, index: int, command: str, error: Exception) -> Any:
        raise error

    def _truncated(self, index: int) -> tuple:
        return self._rows[index], 0.0, False, True

    def _stack(self) -> dict[str, np.ndarray]:
        batch = {}
        for key, space in self.single_observation_space.items():
            values = np.empty((self.num_envs, *space.shape), space.dtype)
            for index, row in enumerate(self._rows):
                values[index] = row[key]
            batch[key] = values
        return batch


class SerialVectorEnv(BatchedEnv):
    """Environments that run one after the other in this process."""

    def _open(self, constructors: Sequence[Callable]) -> list[tuple]:
        self._constructors = constructors
        self._arguments: list[Any] = [None] * len(constructors)
        self.envs: list[gymnasium.Env] = []
        for constructor in constructors:
            self.envs.append(constructor())
        return [(env.observation_space, env.action_space) for env in self.envs]

    def _replace(self, index: int, error: Exception) -> None:
        try:
            self.envs[index].close()
        except Exception as failure:
            _log.warning("Closing the failed environment failed as well: %s", failure)
        self.envs[index] = self._constructors[index]()

    def _send(self, index: int, command: str, argument: Any) -> None:
        self._arguments[index] = argument

    def _receive(self, index: int, command: str) -> Any:
        return worker.perform(self.envs[index], command, self._arguments[index])

    def close_extras(self, **kwargs) -> None:
        """Close every environment, even if the closing of another fails."""
        with contextlib.ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)
