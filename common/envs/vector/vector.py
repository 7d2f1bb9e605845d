"""Several environments that step together, in this process or in one process each.

Both classes keep gymnasium's ``VectorEnv`` interface with ``AutoresetMode.DISABLED``: a finished
environment must be reset through ``reset(options={"reset_mask": bool [E]})`` before the next step.
Arrays that are returned are fresh at every call and may be kept. (gymnasium's own two classes copy
deeply at each step, and a worker that failed there loses its traceback and its pipe.)
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence, Set
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dreamerv2.common.envs.vector import worker
from dreamerv2.common.envs.vector.process import Abandoned, WorkerDied, WorkerHangs, WorkerProcess
from dreamerv2.common.errors import UserError

_log = logging.getLogger(__name__)


class BatchedEnv(VectorEnv):
    """What both classes share: masks, flags and stacking. A subclass defines ``_ask``.

    Attributes:
      abandoned: the environments that a stop did not wait for, see ``hurry``.
    """

    abandoned: Set[int] = frozenset()

    def _describe(self, spaces: Sequence[tuple[gymnasium.Space, gymnasium.Space]]) -> None:
        """Set the spaces of the interface from (observation, action) spaces of each environment."""
        observation_space, action_space = spaces[0]
        for index, other in enumerate(spaces):
            if other != spaces[0]:
                raise UserError(
                    f"Environment {index} has the spaces {other}, which differ from {spaces[0]} of "
                    "environment 0; all must be the same."
                )
        self.num_envs = len(spaces)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self._rows: list[dict] = [{} for _ in range(self.num_envs)]
        self._waiting = np.ones(self.num_envs, bool)  # for a reset

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Have each environment named in ``arguments`` perform a command of ``worker.perform``."""
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
        seeds = [None] * self.num_envs if seeds is None else seeds
        arguments = {int(i): (seeds[i], options or None) for i in np.flatnonzero(mask)}
        for index, obs in self._ask("reset", arguments).items():
            self._rows[index] = obs
            self._waiting[index] = False
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
        if self._waiting.any():
            waiting = np.flatnonzero(self._waiting).tolist()
            raise RuntimeError(f"Reset the finished environments {waiting} before the next step.")
        results = self._ask("step", dict(enumerate(actions)))
        rewards = np.zeros(self.num_envs)
        flags = np.zeros((2, self.num_envs), bool)
        for index, (obs, reward, terminated, truncated) in results.items():
            self._rows[index] = obs
            rewards[index] = reward
            flags[:, index] = terminated, truncated
        self._waiting = flags[0] | flags[1]
        return self._stack(), rewards, flags[0], flags[1], {}

    def render(self, indices: Sequence[int] | None = None) -> tuple:
        """The rendered frames of these environments, of all if None; a str says why one failed.

        There is none (None) of one that has failed, before its next reset.
        """
        indices = range(self.num_envs) if indices is None else indices
        return tuple(self._ask("render", dict.fromkeys(indices)).values())

    @property
    def inner(self) -> worker.Inner:
        """What the environments are before any wrapper: their own spaces and render mode."""
        return self._ask("inner", {0: None})[0]

    def _stack(self) -> dict[str, np.ndarray]:
        batch = {}
        for key, space in self.single_observation_space.items():
            values = np.empty((self.num_envs, *space.shape), space.dtype)
            for index, row in enumerate(self._rows):
                values[index] = row[key]
            batch[key] = values
        return batch


class SerialVectorEnv(BatchedEnv):
    """The environments run one after the other in this process."""

    def __init__(self, constructors: Sequence[Callable[[], gymnasium.Env]]):
        self.envs: list[gymnasium.Env] = []
        try:
            for constructor in constructors:
                self.envs.append(constructor())
            self._describe([(env.observation_space, env.action_space) for env in self.envs])
        except BaseException:
            with contextlib.suppress(Exception):  # what failed first says more
                self.close()
            raise

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        return {i: worker.perform(self.envs[i], command, arg) for i, arg in arguments.items()}

    def close_extras(self, **kwargs) -> None:
        """Close every environment, even if the closing of another fails."""
        with contextlib.ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)


class ProcessVectorEnv(BatchedEnv):
    """Every environment runs in a process of its own.

    The processes are new Python interpreters, not forks, because a fork of a process that runs
    TensorFlow can hang. They do not import the main script, so it needs no ``__main__`` guard, and
    they never import TensorFlow unless the environment itself does. They end when this process
    ends, however it ends.

    Args:
      constructors: they travel by cloudpickle.
      restarts: how often, for each environment, a worker that hangs or dies is started again; its
        episode is marked as truncated. (Exceptions are handled inside the worker, by ``Restart``.)
      timeout: seconds that a worker may take to answer, at least 60 of them for making its
        environment; 0 waits forever.

    Raises (in any method):
      The environment's own exception, caused by one that shows the worker's traceback;
      WorkerHangs, with the place where the worker hung (Abandoned, if a stop did not let a reset
      finish); WorkerDied.
      All workers are closed before that.
    """

    def __init__(
        self,
        constructors: Sequence[Callable[[], gymnasium.Env]],
        restarts: int = 0,
        timeout: float = 0,
    ):
        self._timeout = timeout
        self._deadline = math.inf  # for all workers together, see hurry
        self._left = [restarts] * len(constructors)
        self.abandoned = set()
        self._constructors = [cloudpickle.dumps(constructor) for constructor in constructors]
        self._workers: list[WorkerProcess] = []
        try:
            for payload in self._constructors:  # one by one: an interrupt must find all of them
                self._workers.append(WorkerProcess(payload))
            self._describe([self._receive(i, "start") for i in range(len(self._workers))])
        except BaseException:
            self.close()
            raise

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        if self.closed:
            raise RuntimeError("These environments are closed.")
        try:
            for index, argument in arguments.items():
                self._workers[index].send(command, argument)
            results = {}
            for index, argument in arguments.items():
                try:
                    results[index] = self._receive(index, command)
                except (WorkerHangs, WorkerDied) as error:
                    results[index] = self._revive(index, command, argument, error)
            return results
        except BaseException:
            self.close(terminate=True)
            raise

    def hurry(self, seconds: float = 5.0) -> None:
        """The run is being stopped: wait for workers no longer than this from now on.

        The episode of one that has not answered by then is marked as truncated.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _receive(self, index: int, command: str) -> Any:
        return self._workers[index].receive(command, self._timeout, lambda: self._deadline)

    def _revive(self, index: int, command: str, argument: Any, error: Exception) -> Any:
        """Start a dead or hung worker again, until it answers or no restart is left."""
        while True:
            if time.monotonic() >= self._deadline:
                return self._abandon(index, command, error)
            if self._left[index] <= 0 or command in ("render", "inner"):
                raise error
            self._left[index] -= 1
            _log.warning(
                "Environment %d is started again (%d restarts left). %s",
                index,
                self._left[index],
                error,
            )
            try:
                return self._begin_again(index, command, argument)
            except UserError:
                raise
            except Exception as failure:
                error = failure

    def _abandon(self, index: int, command: str, error: Exception) -> Any:
        """Answer for a worker that a stop does not wait for; to a reset there is no answer."""
        self._workers[index].close()
        self.abandoned.add(index)
        if command == "step":
            return self._truncated(index)
        if command == "render":
            return None
        raise Abandoned(*error.args) from error

    def _begin_again(self, index: int, command: str, argument: Any) -> Any:
        """Put a new worker in the place of the old one and answer the command."""
        self._workers[index].close()
        self._workers[index] = WorkerProcess(self._constructors[index])
        self._receive(index, "start")
        self._workers[index].send("begin_again", self._left[index])
        self._receive(index, "begin_again")
        if command == "step":
            return self._truncated(index)
        self._workers[index].send(command, argument)
        return self._receive(index, command)

    def _truncated(self, index: int) -> tuple:
        return self._rows[index], 0.0, False, True

    def close_extras(self, terminate: bool = False, **kwargs) -> None:
        """Close every environment and wait until its process has ended, together for all."""
        latest = 0.0
        if not terminate:
            for process in self._workers:
                process.ask_to_end()
            latest = time.monotonic() + WorkerProcess.PATIENCE
        for process in self._workers:
            process.close(latest)
