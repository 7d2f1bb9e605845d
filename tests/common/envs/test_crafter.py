"""Crafter: rewards, achievements, and the same worlds in every process."""

import json

import numpy as np
import pytest
from env_contract import EnvContract, env_config, need, play

from dreamerv2.common.envs import make_env, make_vector_env
from dreamerv2.common.errors import UserError

pytestmark = need("crafter", "crafter")
crafter = pytest.importorskip("crafter")
recorder = pytest.importorskip("crafter.recorder")


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


def test_crafter_draws_a_picture_larger_than_what_the_agent_sees():
    env = make_env("crafter_reward", env_config())
    env.reset()
    assert env.render_mode == "rgb_array" and env.render().shape == (576, 576, 3)


def test_crafter_is_evaluated_with_reward():
    rows = play(make_env("crafter_noreward", env_config(), mode="eval"), 150)
    assert any(row[1] != 0 for row in rows)
    assert all(np.float32(row[1]) == row[0]["log_reward"] for row in rows)


def test_crafter_death_terminates():
    env = make_env("crafter_reward", env_config())
    ends = [row for row in play(env, 260) if row[2] or row[3]]
    assert ends and all(row[2] and not row[3] for row in ends)


def test_worlds_are_those_of_crafter_and_equal_in_every_process():
    """The original walks through sets of objects in the order of their memory addresses."""
    actions = np.eye(17, dtype=np.float32)[np.random.default_rng(0).integers(17, size=120)]
    envs = make_vector_env("crafter_reward", env_config(), 1, "process", "train", [3])
    junk = [[object() for _ in range(n)] for n in range(300)]  # moves later objects in memory
    local = make_env("crafter_reward", env_config(), seed=3)
    first = local.reset()[0]["image"]
    assert np.array_equal(envs.reset()[0]["image"][0], first)
    assert np.array_equal(crafter.Env(seed=3).reset(), first)
    for action in actions:
        images = envs.step(action[None])[0]["image"]
        obs, _, over, _, _ = local.step(action)
        assert np.array_equal(images[0], obs["image"])
        if over:
            break
    envs.close()
    assert junk and not np.array_equal(local.reset()[0]["image"], first), "one world repeats"
    assert np.array_equal(local.reset(seed=3)[0]["image"], first), "a seed begins its series"


def test_crafter_refuses_other_names_and_action_repeat():
    with pytest.raises(UserError, match="crafter_reward and crafter_noreward, not 'crafter_rewrd'"):
        make_env("crafter_rewrd", env_config())
    with pytest.raises(UserError, match="action_repeat 1, not 4"):
        make_env("crafter_reward", env_config(action_repeat=4))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_episode_leaves_a_line_of_crafters_own_statistics(tmp_path, mode):
    config = env_config(logdir=str(tmp_path), time_limit=30)
    env = make_env("crafter_noreward", config, mode)
    official = recorder.StatsRecorder(crafter.Env(seed=0, length=30), tmp_path / "official")
    env.reset(seed=0), official.reset()
    for step in range(60):
        action = step % 17
        env.step(np.eye(17, dtype=np.float32)[action])
        if official.step(action)[2]:
            env.reset(), official.reset()
    folders = (f"crafter_{mode}", "official")
    files = [(tmp_path / name / "stats.jsonl").read_text().splitlines() for name in folders]
    ours, theirs = (json.loads(lines[0]) for lines in files)
    assert len(files[0]) == 2 and ours == theirs and list(ours) == list(theirs)
    assert sum("achievement" in key for key in ours) == 22 and ours["reward"] != 0


def test_statistics_that_cannot_be_written_are_reported_in_a_sentence(tmp_path):
    (tmp_path / "crafter_train").write_text("a file where a folder must be")
    env = make_env("crafter_reward", env_config(logdir=str(tmp_path), time_limit=1))
    env.reset()
    with pytest.raises(UserError, match="Could not write .*stats.jsonl: .*exists"):
        env.step(np.eye(17, dtype=np.float32)[0])
