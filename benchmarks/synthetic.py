"""Random experience in the shapes of a task: a batch, a replay on disk."""

from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np

from dreamerv2.common import envs
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.replay.episode import Names, write_episode


class Task:
    """Shapes of a config's task.

    Attributes: observation (gymnasium Dict), actions (size of an action), discrete.
    """

    def __init__(self, config):
        env = envs.make_env(config.task, config)
        self.observation: Mapping[str, gymnasium.spaces.Box] = env.observation_space
        self.actions = env.action_space.shape[0]
        self.discrete = isinstance(env.action_space, OneHotSpace)
        env.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Observation key -> shape, as the agent takes it."""
        return {key: space.shape for key, space in self.observation.items()}

    def rows(self, *leading: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Return random rows, key -> [*leading, ...], without begin or end of an episode."""
        rng = np.random.default_rng(seed)
        rows = {
            key: _values(rng, (*leading, *space.shape), space.dtype)
            for key, space in self.observation.items()
        }
        if self.discrete:
            rows["action"] = np.eye(self.actions, dtype=np.float32)[
                rng.integers(self.actions, size=leading)
            ]
        else:
            rows["action"] = rng.uniform(-1, 1, (*leading, self.actions)).astype(np.float32)
        rows["reward"] = rng.normal(size=leading).astype(np.float32)
        return rows | {
            key: np.zeros(leading, bool) for key in ("is_first", "is_last", "is_terminal")
        }

    def batch(self, config) -> dict[str, np.ndarray]:
        """Return a batch like those of the replay, key -> [B, T, ...]."""
        rows = self.rows(config.dataset.batch, config.dataset.length)
        rows["is_first"][:, 0] = True
        return rows

    def fill(self, directory: Path, steps: int, length: int = 1000) -> None:
        """Write episodes of `length` steps into a replay's directory, at least `steps` in all."""
        directory.mkdir(parents=True, exist_ok=True)
        names = Names()
        for index in range(-(-steps // length)):
            episode = self.rows(length + 1, seed=index)
            episode["is_first"][0] = episode["is_last"][-1] = episode["is_terminal"][-1] = True
            write_episode(directory, names.new(), episode)


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 256 if dtype == np.uint8 else 2, shape, dtype)
