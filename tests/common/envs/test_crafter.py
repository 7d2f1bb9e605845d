"""Crafter: rewards and achievements, the same worlds everywhere, and worlds made ahead."""

import time

import numpy as np
import pytest
from env_contract import EnvContract, env_config, need, play

from dreamerv2.common.envs import make_env, make_vector_env
from dreamerv2.common.errors import UserError

pytestmark = need("crafter", "crafter")


class TestCrafter(EnvContract):
    steps = 80

    def make(self, seed=0):
        return make_env("crafter_reward", env_config(), seed=seed)


def test_crafter_logs_achievements_and_the_true_reward():
    env = make_env("crafter_noreward", env_config())
    rows = play(env, 150)
    achieved = [key for key in env.observation_space if key.startswith("log_achievement_")]
    assert len(achieved) == 22
    assert max(row[0][key] for row in rows for key in achieved) >= 1, "random play achieves nothing"
    assert all(row[1] == 0 for row in rows), "noreward gave a reward"
    assert any(row[0]["log_reward"] != 0 for row in rows), "the true reward is not logged"


def test_crafter_is_evaluated_with_reward():
    rows = play(make_env("crafter_noreward", env_config(), mode="eval"), 150)
    assert any(row[1] != 0 for row in rows)
    assert all(np.float32(row[1]) == row[0]["log_reward"] for row in rows)


def test_crafter_death_terminates():
    env = make_env("crafter_reward", env_config())
    ends = [row for row in play(env, 260) if row[2] or row[3]]
    assert ends and all(row[2] and not row[3] for row in ends)


def test_crafter_is_the_same_in_every_process():
    """The original walks through sets of objects in the order of their memory addresses."""
    actions = np.eye(17, dtype=np.float32)[np.random.default_rng(0).integers(17, size=(300, 2))]
    envs = make_vector_env("crafter_reward", env_config(), 2, "process", seeds=[3, 3])
    envs.reset()
    junk = [[object() for _ in range(n)] for n in range(300)]  # moves what is made after it
    local = make_env("crafter_reward", env_config(), seed=3)
    local.reset()
    for action in actions[:, 0]:
        images = envs.step(np.stack([action, action]))[0]["image"]
        image, _, over, _, _ = local.step(action)
        assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], image["image"])
        if over:
            break
    assert junk
    envs.close()


def looks_of(world) -> tuple:
    """All that a world of Crafter holds, and the state of its random numbers."""
    things = [(type(thing).__name__, *thing.pos) for thing in world.objects]
    return world._mat_map.tolist(), things, world.random.get_state()[1].tolist()


def test_crafter_worlds_made_ahead_are_those_of_crafter():
    import crafter

    from dreamerv2.common.envs.crafter import _OrderedWorld

    env = make_env("crafter_reward", env_config(), seed=5)
    original = crafter.Env(seed=5)
    original._world.__class__ = _OrderedWorld
    ahead, first = 0, None
    for episode in range(3):
        image = env.reset()[0]["image"]
        assert np.array_equal(image, original.reset()), f"another image in episode {episode}"
        world = env.unwrapped._game._world
        assert looks_of(world) == looks_of(original._world), f"another world in episode {episode}"
        first = first or looks_of(world)
        for _ in range([0, 500, 10_000][episode]):  # nothing, a part and all of it made ahead
            ahead += env.unwrapped.work_ahead()
    assert not env.unwrapped.work_ahead() and 500 < ahead < 10_000
    env.reset(seed=5)
    again = looks_of(env.unwrapped._game._world)
    assert again == first, "a reset with a seed does not begin its series again"


def test_a_worker_makes_the_next_world_of_crafter_while_it_waits():
    envs = make_vector_env("crafter_reward", env_config(), 1, "process", seeds=[0])
    took = []
    for pause in (0, 1, 0, 1, 0, 1):
        envs.reset()
        time.sleep(pause)
        start = time.perf_counter()
        envs.reset()
        took.append(time.perf_counter() - start)
    envs.close()
    assert min(took[1::2]) < 0.5 * min(took[::2]), (
        f"seconds per reset, with and without time: {took}"
    )


def test_crafter_refuses_other_names_and_action_repeat():
    with pytest.raises(UserError, match="crafter_reward and crafter_noreward, not 'crafter_rewrd'"):
        make_env("crafter_rewrd", env_config())
    with pytest.raises(UserError, match="action_repeat 1, not 4"):
        make_env("crafter_reward", env_config(action_repeat=4))
