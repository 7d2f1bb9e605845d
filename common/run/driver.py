"""The loop between policy and environments, which alone assigns episode flags."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.envs.vector.vector import Abandoned

Transition = dict[str, np.ndarray]
Policy = Callable[[dict[str, np.ndarray], Any], tuple[dict[str, np.ndarray], Any]]


class Driver:
    """Run a policy in a vector of environments and pass every row to the callbacks.

    Row t of an episode is a dict with the observation o_t, the action that LED to it, the reward on
    arriving, and the flags; the policy sees every row but the last:

        row            0 (reset)    1          ...   T
        obs            o_0          o_1              o_T
        action [A]     zeros        a_1              a_T       float32
        reward         0            r_1              r_T       float32
        is_first       True         False            False     bool
        is_last        False        False            True      bool: terminated or truncated
        is_terminal    False        False            terminated

    A reset costs no agent step: after row T, the environment is reset on its own (through a mask)
    just before the next policy call, which then sees row 0.

    Args:
        envs: E environments, with ``AutoresetMode.DISABLED``.
        on_step: functions ``f(row, index)``, called with every row of environment `index`.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv,
        on_step: Sequence[Callable[[Transition, int], Any]] = (),
    ):
        mode = envs.metadata.get("autoreset_mode")
        if mode != gymnasium.vector.AutoresetMode.DISABLED:
            raise ValueError(f"The environments must not reset themselves, but have {mode}.")
        self._envs, self._on_step = envs, on_step
        self._zero = np.zeros(envs.single_action_space.shape, np.float32)
        self.reset()

    def reset(self) -> None:
        """Reset every environment at the next call, and forget the policy's state.

        Unfinished episodes are dropped here; the callbacks get the next row 0 instead of their end.
        """
        count = self._envs.num_envs
        self._state: Any = None
        self._obs: dict[str, np.ndarray] = {}
        self._needs_reset = np.ones(count, bool)
        self._discarded = np.zeros(count, bool)  # surplus episodes, see __call__

    def __call__(
        self, policy: Policy, steps: int = 0, episodes: int = 0, stop: object = False
    ) -> None:
        """Run until at least ``steps`` agent steps AND ``episodes`` finished episodes.

        Given ``episodes`` alone, exactly so many reach the callbacks, namely the first that started
        (those already running included): the first that END would be the short ones. The surplus
        episodes which fill the vector meanwhile are discarded.

        Args:
            policy: ``policy(obs, state) -> ({"action": float32 [E, A]}, state)``; obs holds rows,
                key -> [E, ...], without the action; state is None at first.
            stop: an object whose truth value ends the call before the next step of the vector.
        """
        self._needs_reset |= self._discarded
        self._discarded[:] = False
        limit = episodes if steps <= 0 else np.inf
        running = np.flatnonzero(~self._needs_reset)
        self._discarded[running[int(min(limit, len(running))) :]] = True
        started, step, done = min(limit, len(running)), 0, 0
        while (step < steps or done < episodes) and not stop:
            try:
                started += self._reset_envs(limit - started)
            except Abandoned:  # after a stop
                return
            done += self._step(self._act(policy))
            step += self._envs.num_envs

    def _reset_envs(self, wanted: float) -> int:
        """Start an episode wherever one has ended; return the number, at most ``wanted``.

        The surplus is discarded.
        """
        indices = np.flatnonzero(self._needs_reset)
        if not len(indices):
            return 0
        obs, _ = self._envs.reset(options={"reset_mask": self._needs_reset.copy()})
        self._needs_reset[:] = False
        # Rows that are not reset here keep the reward and the observation of their last step.
        reward = self._obs.get("reward", np.zeros(self._envs.num_envs, np.float32)).copy()
        reward[indices] = 0
        self._obs = {**obs, "reward": reward, **_flags(self._envs.num_envs)}
        self._obs["is_first"][indices] = True
        for number, index in enumerate(indices):
            self._discarded[index] = number >= wanted
            self._emit(int(index), self._zero)
        return int(min(len(indices), wanted))

    def _act(self, policy: Policy) -> np.ndarray:
        result = policy(self._obs, self._state)
        shape = (self._envs.num_envs, *self._zero.shape)
        try:
            outputs, self._state = result
            action = np.asarray(outputs["action"], np.float32)
            if action.shape != shape:
                raise ValueError(f"The action has the shape {action.shape}.")
        except (TypeError, ValueError, KeyError) as error:
            raise TypeError(
                "The policy must be called as policy(obs, state) and return "
                f"({{'action': float32 {shape}}}, state); it returned {type(result).__name__}."
            ) from error
        return action

    def _step(self, action: np.ndarray) -> int:
        """Step all environments; return the number of finished, kept episodes."""
        obs, reward, terminated, truncated, _ = self._envs.step(action)
        self._obs = {**obs, "reward": reward.astype(np.float32), **_flags(len(reward))}
        self._obs["is_last"] |= terminated | truncated
        self._obs["is_terminal"] |= terminated
        self._needs_reset = self._obs["is_last"].copy()
        finished = self._needs_reset & ~self._discarded
        for index in range(len(reward)):
            self._emit(index, action[index])
        return int(finished.sum())

    def _emit(self, index: int, action: np.ndarray) -> None:
        if self._discarded[index]:
            return
        # Copies, because a view would keep the rows of all environments alive.
        row = {key: values[index].copy() for key, values in self._obs.items()}
        row["action"] = action
        for function in self._on_step:
            function(row, index)


def _flags(count: int) -> dict[str, np.ndarray]:
    return {key: np.zeros(count, bool) for key in ("is_first", "is_last", "is_terminal")}


class RandomPolicy:
    """Uniformly random actions, with a random stream of their own."""

    def __init__(self, space: gymnasium.Space, seed: int):
        self._space = space
        space.seed(seed)

    def __call__(self, obs: dict[str, np.ndarray], state: None) -> tuple[dict, None]:
        count = len(obs["is_first"])
        return {"action": np.stack([self._space.sample() for _ in range(count)])}, None
