"""Environments with the API of the old package gym, of any version."""

import types

import gymnasium
import numpy as np
import pytest
from env_contract import env_config, play

from dreamerv2.common.envs import gym
from dreamerv2.common.errors import UserError


def old_space(kind, **fields):
    """A space of old gym, which is not gymnasium's class but has its name and fields."""
    return type(kind, (types.SimpleNamespace,), {})(**fields)


class OldGym:
    """The API of gym 0.21: reset returns the observation, step four entries, seed is a method."""

    observation_space = old_space(
        "Box", low=np.zeros(1), high=np.ones(1), shape=(1,), dtype=np.dtype("float64")
    )
    action_space = old_space("Discrete", n=2)
    metadata = {}

    def __init__(self, cut_off):
        self.cut_off = cut_off
        self.count = 0
        self.seeds = []

    def seed(self, seed=None):
        self.seeds.append(seed)

    def reset(self):
        self.count = 0
        return np.array([0.0])

    def step(self, action):
        self.count += 1
        info = {"TimeLimit.truncated": True} if self.cut_off and self.count == 3 else {}
        return np.array([float(self.count)]), 1.0, self.count == 3, info

    def render(self, mode="human"):
        return mode


class OldGymFive(OldGym):
    """The API of gym 0.26."""

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        return super().reset(), {}

    def step(self, action):
        obs, reward, done, info = super().step(action)
        return obs, reward, done and not self.cut_off, done and self.cut_off, info


@pytest.mark.parametrize("kind", [OldGym, OldGymFive])
@pytest.mark.parametrize("cut_off", [True, False])
def test_old_gym_with_four_or_five_entries(kind, cut_off):
    inner = kind(cut_off)
    env = gym.wrap(inner, env_config())
    assert env.observation_space["observation"].shape == (1,) and env.action_space.n == 2
    rows = play(env, 3, seed=11)
    assert inner.seeds[0] == 11 and set(inner.seeds[1:]) <= {None}, "seeded again"
    assert [row[0]["observation"][0] for row in rows] == [0, 1, 2, 3, 0]
    assert rows[3][2:] == (not cut_off, cut_off), "a time limit was taken for a termination"
    assert env.render() == "rgb_array"
    env.close()


@pytest.mark.parametrize(
    ("info", "flags"),
    [
        ({"is_terminal": False}, (False, True)),
        ({"is_terminal": True}, (True, False)),
        ({"is_terminal": True, "TimeLimit.truncated": True}, (True, False)),
        ({"is_terminal": np.False_}, (False, True)),
        (None, (True, False)),
    ],
)
def test_an_old_info_says_whether_the_end_is_terminal(info, flags):
    class Informed(OldGym):
        def reset(self):
            return super().reset(), info

        def step(self, action):
            return *super().step(action)[:3], info

    rows = play(gym.wrap(Informed(False), env_config()), 3)
    assert [row[0]["observation"][0] for row in rows] == [0, 1, 2, 3, 0]
    assert [row[2:] for row in rows[:4]] == [(False, False)] * 3 + [flags]


@pytest.mark.parametrize(
    ("frame", "mode"), [(np.zeros((4, 4, 3), np.uint8), "rgb_array"), (None, None)]
)
def test_old_gym_that_says_it_renders_is_tried(frame, mode):
    class Rendering(OldGym):
        metadata = {"render.modes": ["human", "rgb_array"]}

        def render(self, mode="human"):
            if frame is None:
                raise RuntimeError("no display")
            return frame

    assert gym.wrap(Rendering(False), env_config(mode="eval")).render_mode == mode
    assert gym.wrap(Rendering(False), env_config()).render_mode is None, "training films nothing"
    assert gym.wrap(OldGym(False), env_config(mode="eval")).render_mode is None


class Passing:
    """A wrapper of old gym: what reset is given goes on to the environment inside."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)


class Keywords(OldGymFive):
    """Its reset takes any keywords, which may be a seed."""

    def reset(self, **kwargs):
        return super().reset(**kwargs)


@pytest.mark.parametrize("kind", [OldGym, OldGymFive, Keywords])
def test_a_wrapped_old_gym_is_seeded_in_its_own_way(kind):
    inner = kind(False)
    play(gym.wrap(Passing(Passing(inner)), env_config()), 3, seed=7)
    assert [seed for seed in inner.seeds if seed is not None] == [7]


def test_an_environment_of_todays_api_that_holds_another_is_seeded_itself():
    class Outer(gymnasium.Env):
        observation_space, action_space = OldGym.observation_space, OldGym.action_space
        seeds = []

        def __init__(self, env):
            self.env = env

        def reset(self, **kwargs):
            self.seeds.append(kwargs.get("seed"))
            super().reset(**kwargs)
            return self.env.reset(), {}

    gym.wrap(Outer(OldGym(False)), env_config()).reset(seed=7)
    assert Outer.seeds == [7]


def test_a_step_of_another_form_is_explained():
    class Pair(OldGym):
        def step(self, action):
            return 1, 2

    env = gym.wrap(Pair(False), env_config())
    env.reset()
    with pytest.raises(UserError, match=r"must return \(obs, reward, terminated, .*info\)"):
        env.step(np.array([1, 0], np.float32))
