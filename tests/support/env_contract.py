"""The contract of every environment, as tests to inherit: a new suite needs ``make`` alone."""

import types

import gymnasium
import numpy as np
import pytest

from dreamerv2.common.envs.spaces import RESERVED, OneHotSpace


def env_config(**changes) -> types.SimpleNamespace:
    """Return the part of a config that environments read, with small and fast values."""
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
    """Return a mark that skips, with the reason, where a suite's package is missing."""
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
    """Take random actions; return (obs, reward, terminated, truncated) of each row."""
    rng = np.random.default_rng(0)
    rows = [(env.reset(seed=seed)[0], 0.0, False, False)]
    for _ in range(steps):
        rows.append(env.step(draw_action(env.action_space, rng))[:4])
        if rows[-1][2] or rows[-1][3]:
            rows.append((env.reset()[0], 0.0, False, False))
    return rows


def same_rows(first: list[tuple], second: list[tuple]) -> bool:
    """Return True if two results of ``play`` are equal in every bit."""
    return len(first) == len(second) and all(
        a[1:] == b[1:] and all(np.array_equal(a[0][k], b[0][k]) for k in a[0])
        for a, b in zip(first, second, strict=True)
    )


class EnvContract:
    """Inherit, and define ``make(self, seed=0)``; ``steps`` bounds the length of a run."""

    steps = 20

    def make(self, seed: int = 0) -> gymnasium.Env:
        raise NotImplementedError

    def test_spaces_and_every_row_keep_the_contract(self):
        env = self.make()
        check_spaces(env)
        keys, rows = set(env.observation_space), play(env, self.steps)
        for obs, reward, terminated, truncated in rows:
            assert set(obs) == keys
            for key, space in env.observation_space.items():
                assert obs[key].shape == space.shape and obs[key].dtype == space.dtype, key
            assert np.isfinite(reward)
            assert terminated in (True, False) and truncated in (True, False)
        for (first, *_), (second, *_) in zip(rows, rows[1:]):
            assert not any(np.shares_memory(first[key], second[key]) for key in keys), (
                "a later observation overwrites an earlier one"
            )
        env.close()

    def test_a_seed_fixes_everything_and_another_changes_it(self):
        envs = [self.make(seed) for seed in (5, 5, 6)]
        first, again, other = (play(env, self.steps, s) for env, s in zip(envs, (5, 5, 6)))
        for env in envs:
            env.close()
        assert same_rows(first, again), "two environments with one seed differ"
        assert not same_rows(first, other), "the seed changes nothing"


def check_spaces(env: gymnasium.Env) -> None:
    """Assert that the spaces are those of the contract."""
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    for key, space in env.observation_space.items():
        image = space.dtype == np.uint8 and len(space.shape) == 3
        vector = space.dtype == np.float32 and len(space.shape) <= 1
        assert image or vector, f"{key} is neither image nor vector: {space}"
        assert key not in RESERVED, f"{key} would overwrite a key of the transition"
    space = env.action_space
    assert space.dtype == np.float32 and len(space.shape) == 1
    if not isinstance(space, OneHotSpace):
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        assert (space.low[bounded] == -1).all() and (space.high[bounded] == 1).all()
