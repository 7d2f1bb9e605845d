"""The contract of every environment, as tests to inherit: a new suite needs ``make`` alone."""

import types

import gymnasium
import numpy as np
import pytest

from dreamerv2.common.envs.spaces import RESERVED, OneHotSpace


def env_config(**changes) -> types.SimpleNamespace:
    """The keys of the config that environments read, with small and fast values."""
    values = {
        "render_size": (64, 64),
        "action_repeat": 1,
        "time_limit": 0,
        "atari_grayscale": True,
        "atari_all_actions": False,
        "dmc_camera": -1,
        "envs": 1,
        "envs_parallel": "none",
        "env_restarts": 0,
        "env_timeout": 0,
    }
    return types.SimpleNamespace(**{**values, **changes})


def need(package, extra):
    """A mark that skips, with the reason, where a suite's package is missing."""
    try:
        __import__(package)
    except ImportError:
        return pytest.mark.skip(reason=f"{package} is missing: pip install dreamerv2[{extra}]")
    return pytest.mark.filterwarnings("ignore")


def draw_action(space: gymnasium.Space, rng: np.random.Generator) -> np.ndarray:
    """A random action of either kind of space."""
    if isinstance(space, OneHotSpace):
        return np.eye(space.n, dtype=np.float32)[rng.integers(space.n)]
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    return rng.uniform(low, high).astype(np.float32)


def play(env: gymnasium.Env, steps: int, seed: int = 0) -> list[tuple]:
    """What random actions lead to: (obs, reward, terminated, truncated) for each row."""
    rng = np.random.default_rng(seed)
    rows = [(env.reset()[0], 0.0, False, False)]
    for _ in range(steps):
        rows.append(env.step(draw_action(env.action_space, rng))[:4])
        if rows[-1][2] or rows[-1][3]:
            rows.append((env.reset()[0], 0.0, False, False))
    return rows


def same_rows(first: list[tuple], second: list[tuple]) -> bool:
    """Whether two recordings of ``play`` are equal in every bit."""
    return len(first) == len(second) and all(
        a[1:] == b[1:] and all(np.array_equal(a[0][k], b[0][k]) for k in a[0])
        for a, b in zip(first, second, strict=True)
    )


class EnvContract:
    """Inherit, and define ``make(self, seed=0)``; ``steps`` bounds the length of each test."""

    steps = 20

    def make(self, seed: int = 0) -> gymnasium.Env:
        raise NotImplementedError

    def test_observation_space_is_a_dict_of_images_vectors_and_scalars(self):
        env = self.make()
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        for key, space in env.observation_space.items():
            image = space.dtype == np.uint8 and len(space.shape) == 3
            vector = space.dtype == np.float32 and len(space.shape) <= 1
            assert image or vector, f"{key} is neither image nor vector: {space}"
            assert key not in RESERVED, f"{key} would overwrite a key of the transition"
        env.close()

    def test_action_space_is_one_hot_or_a_box_scaled_to_one(self):
        env = self.make()
        space = env.action_space
        assert space.dtype == np.float32 and len(space.shape) == 1
        if not isinstance(space, OneHotSpace):
            bounded = np.isfinite(space.low) & np.isfinite(space.high)
            assert (space.low[bounded] == -1).all() and (space.high[bounded] == 1).all()
        env.close()

    def test_every_observation_and_reward_keeps_the_promise(self):
        env = self.make()
        keys = set(env.observation_space)
        for obs, reward, terminated, truncated in play(env, self.steps):
            assert set(obs) == keys
            for key, space in env.observation_space.items():
                assert obs[key].shape == space.shape and obs[key].dtype == space.dtype, key
            assert np.isfinite(reward)
            assert terminated in (True, False) and truncated in (True, False)
        env.close()

    def test_observations_are_not_overwritten_by_later_ones(self):
        env = self.make()
        obs, _ = env.reset()
        kept = {key: np.array(value) for key, value in obs.items()}
        rng = np.random.default_rng(0)
        for _ in range(3):
            env.step(draw_action(env.action_space, rng))
        assert all(np.array_equal(obs[key], kept[key]) for key in kept)
        env.close()

    def test_a_seed_fixes_everything_and_another_changes_it(self):
        envs = [self.make(seed) for seed in (5, 5, 6)]
        first, again, other = (play(env, self.steps) for env in envs)
        for env in envs:
            env.close()
        assert same_rows(first, again), "two environments with one seed differ"
        assert not same_rows(first, other), "the seed changes nothing"
