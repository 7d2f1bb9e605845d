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
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from dreamerv2.common.envs.vector import worker
from dreamerv2.common.errors import UserError

_log = logging.getLogger(__name__)


class Abandoned(TimeoutError):
    """An environment had not answered when the run had to stop."""


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
      inner: spaces and render mode of environment 0 before the wrappers of this package.
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

    def _set_spaces(self, made: Sequence[worker.Made]) -> None:
        spaces, self.inner = made[0]
        for index, (other, _) in enumerate(made):
            if other != spaces:
                raise UserError(
                    f"Environment {index} has the spaces {other}, which differ from {spaces} of "
                    "environment 0; all must be the same."
                )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _open(self, constructors: Sequence[Callable]) -> list[worker.Made]:
        """Make every environment."""
        raise NotImplementedError

    def _replace(self, index: int, error: Exception) -> None:
        """Close the environment that raised ``error`` and make a new one."""
        raise NotImplementedError

    def _send(self, index: int, command: str, argument: Any) -> None:
        """Let an environment begin a command of ``worker.perform``."""

    def _receive(self, index: int, command: str, argument: Any) -> Any:
        """Return the result of the last command that was sent."""
        raise NotImplementedError

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Reset all environments, or those where ``options["reset_mask"]`` (bool [E]) is true.

        Returns:
          The observations, key -> [E, ...] (rows outside of the mask repeat their last
          observation), and an empty info dict: no info is passed on.
        """
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = self._next_seeds if seeds is None else seeds
        results = self._ask("reset", {int(i): seeds[i] for i in np.flatnonzero(mask)})
        for index, obs in results.items():
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

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Have each environment named in ``arguments`` perform a command."""
        if self.closed:
            raise RuntimeError("These environments are closed.")
        for index, argument in arguments.items():
            self._send(index, command, argument)
        return {i: self._answer(i, command, argument) for i, argument in arguments.items()}

    def _answer(self, index: int, command: str, argument: Any) -> Any:
        """Return the result of a command, replacing the environment as often as it fails."""
        phase = command
        try:
            return self._receive(index, command, argument)
        except Exception as error:
            failure = error
        while True:
            self._count_restart(index, phase, failure)
            try:
                phase = "its constructor"
                self._replace(index, failure)
                self._replaced.add(index)
                if command == "step":
                    return self._truncated(index)
                phase = command
                self._send(index, command, self._next_seeds[index])
                return self._receive(index, command, self._next_seeds[index])
            except Exception as error:
                failure = error

    def _count_restart(self, index: int, phase: str, error: Exception) -> None:
        final = phase == "render" or isinstance(error, UserError | Abandoned)
        if final or self._restarts_left[index] <= 0:
            raise error
        self._restarts_left[index] -= 1
        child = self._seed_sequences[index].spawn(1)[0]
        self._next_seeds[index] = int(child.generate_state(1)[0])
        _log.warning(
            "Environment %d failed in %s and is made anew (%d restarts left).",
            index,
            phase,
            self._restarts_left[index],
            exc_info=error,
        )

    def _truncated(self, index: int) -> tuple:
        return self._rows[index], 0.0, False, True

    def _stack(self) -> dict[str, np.ndarray]:
        space = self.single_observation_space
        return concatenate(space, self._rows, create_empty_array(space, self.num_envs))


class SerialVectorEnv(BatchedEnv):
    """Environments that run one after the other in this process."""

    def _open(self, constructors: Sequence[Callable]) -> list[worker.Made]:
        self._constructors = constructors
        self.envs: list[gymnasium.Env] = []
        for constructor in constructors:
            self.envs.append(constructor())
        return [worker.describe(env) for env in self.envs]

    def _replace(self, index: int, error: Exception) -> None:
        try:
            self.envs[index].close()
        except Exception as failure:
            _log.warning("Closing the failed environment failed as well: %s", failure)
        self.envs[index] = self._constructors[index]()

    def _receive(self, index: int, command: str, argument: Any) -> Any:
        return worker.perform(self.envs[index], command, argument)

    def close_extras(self, **kwargs) -> None:
        """Close every environment, even if the closing of another fails."""
        with contextlib.ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)
