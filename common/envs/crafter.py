"""Crafter (Hafner 2021, arXiv 2109.06780): ``crafter_reward`` and ``crafter_noreward``."""

import collections
import json
from collections.abc import Mapping
from pathlib import Path

import crafter
import gymnasium
import numpy as np
from crafter.engine import World

from dreamerv2.common.envs import wrappers
from dreamerv2.common.errors import UserError, cannot_write, nearest

NAMES = ("reward", "noreward")


def make(name: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make Crafter; ``noreward`` trains with reward 0, but is evaluated with the true one."""
    if name not in NAMES:
        raise UserError(
            f"Crafter has the tasks crafter_reward and crafter_noreward, not 'crafter_{name}'."
            + nearest(name, NAMES)
        )
    if config.action_repeat != 1:
        raise UserError(f"Crafter runs with action_repeat 1, not {config.action_repeat}.")
    env = Crafter(tuple(config.render_size), name == "reward" or mode == "eval", seed)
    env = wrappers.standardize(env, config)
    logdir = getattr(config, "logdir", "")
    return StatsRecorder(env, Path(logdir).expanduser() / f"crafter_{mode}") if logdir else env


class StatsRecorder(gymnasium.Wrapper):
    """Append a line to ``directory``/stats.jsonl for every finished episode.

    The lines are those of crafter.Recorder, from which the official score is computed: length,
    reward (the true one), and the count of every achievement. (That recorder would miss an episode
    which ends by the option time_limit.)
    """

    def __init__(self, env: gymnasium.Env, directory: Path):
        super().__init__(env)
        self._path = directory / "stats.jsonl"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._length, self._reward = 0, 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._length += 1
        self._reward += float(obs["log_reward"])
        if terminated or truncated:
            self._write(obs)
        return obs, reward, terminated, truncated, info

    def _write(self, obs: dict) -> None:
        stats = {"length": self._length, "reward": round(self._reward, 1)}
        for key, count in obs.items():
            if key.startswith("log_achievement_"):
                stats[key.removeprefix("log_")] = int(count)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:  # one write, since several environments append
                file.write(json.dumps(stats) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error


class Crafter(gymnasium.Env):
    """The game, with 'image' and entries that are logged but not trained on.

    'log_achievement_X' counts achievement X in this episode; 'log_reward' is the true reward, also
    where the agent gets none. Death terminates the episode; 10,000 steps truncate it.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, size: tuple[int, int] = (64, 64), reward: bool = True, seed: int = 0):
        self._size = size
        self._reward = reward
        names = crafter.constants.achievements
        self._achievements = {name: f"log_achievement_{name}" for name in names}
        self._start(seed)
        scalar = gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32)
        logs = dict.fromkeys(["log_reward", *self._achievements.values()], scalar)
        image = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"image": image, **logs})
        self.action_space = gymnasium.spaces.Discrete(len(crafter.constants.actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode in a new world; a seed fixes this world and those after it."""
        if seed is not None:
            self._start(seed)
        return self._observe(self._game.reset(), dict.fromkeys(self._achievements, 0), 0.0), {}

    def step(self, action: int):
        """One step of the game."""
        image, reward, done, info = self._game.step(int(action))
        obs = self._observe(image, info["achievements"], info["reward"])
        terminated = done and info["discount"] == 0
        return obs, float(reward), terminated, done and not terminated, {}

    def render(self) -> np.ndarray:
        """A larger picture, uint8 [576, 576, 3]."""
        return self._game.render((576, 576))

    def _start(self, seed: int) -> None:
        """Begin the series of worlds that belongs to a seed."""
        height, width = self._size
        self._game = crafter.Env(size=(width, height), reward=self._reward, seed=seed)
        self._game._world.__class__ = _OrderedWorld

    def _observe(self, image: np.ndarray, achievements: dict, reward: float) -> dict:
        logs = {name: np.float32(achievements[key]) for key, name in self._achievements.items()}
        return {"image": image, "log_reward": np.float32(reward), **logs}


class _OrderedWorld(World):
    """Crafter's world, identical in every run with the same seed.

    The original takes 'the third cow' from sets of objects, whose order depends on memory
    addresses. Here objects stay in the order in which they were added.
    """

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._chunks = collections.defaultdict(_OrderedSet)


class _OrderedSet(dict):
    """The methods of a set that Crafter uses, in order of insertion."""

    remove = dict.pop

    def add(self, item) -> None:
        """Add at the end, unless present."""
        self[item] = None
