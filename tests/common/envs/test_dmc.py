import numpy as np
import pytest
from env_contract import EnvContract, env_config, need

from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UserError

pytestmark = need("mujoco", "dmc")  # importing dm_control itself would choose a backend


class TestWalker(EnvContract):
    steps = 5

    def make(self, seed=0):
        return make_env("dmc_walker_walk", env_config(action_repeat=2), seed=seed)


@pytest.mark.slow
class TestManipulation(EnvContract):
    steps = 3

    def make(self, seed=0):
        return make_env("dmc_manip_reach_site", env_config(), seed=seed)


@pytest.mark.slow
class TestRodent(EnvContract):
    steps = 2

    def make(self, seed=0):
        return make_env("dmc_locom_rodent_two_touch", env_config(), seed=seed)


@pytest.mark.parametrize(
    ("task", "vectors"),
    [
        ("walker_walk", {"orientations", "height", "velocity"}),
        ("cup_catch", {"position", "velocity"}),
        ("ball_in_cup_catch", {"position", "velocity"}),
        ("point_mass_easy", {"position", "velocity"}),
        ("lqr_lqr_2_1", {"position", "velocity"}),
    ],
)
def test_dmc_names_and_observations(task, vectors):
    env = make_env(f"dmc_{task}", env_config(render_size=(32, 48)))
    obs, _ = env.reset()
    assert set(obs) == vectors | {"image"}
    assert obs["image"].shape == (32, 48, 3) and obs["image"].std() > 0
    action = np.zeros(env.action_space.shape, np.float32)
    env.step(action)
    env.close()


def test_dmc_time_limit_of_the_suite_truncates():
    env = make_env("dmc_cartpole_balance", env_config(action_repeat=100, render_size=(8, 8)))
    env.reset()
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(10)]
    assert flags == [(False, False)] * 9 + [(False, True)]
    env.close()


def test_dmc_discount_zero_terminates():
    import dm_env
    from dm_control import suite

    from dreamerv2.common.envs.dmc import DMC

    inner = suite.load("cartpole", "balance")
    env = DMC(lambda seed: inner, None, 0, action_repeat=3)
    observation = env.reset()[0]
    inner.step = lambda action: dm_env.termination(1.0, observation)
    assert env.step(np.zeros(1))[1:4] == (1.0, True, False), "went on after the end"


def test_dmc_action_repeat_adds_rewards():
    action = np.ones(1, np.float32)
    single, double = (
        make_env("dmc_cartpole_balance", env_config(render_size=(8, 8), action_repeat=n), seed=2)
        for n in (1, 2)
    )
    single.reset(), double.reset()
    steps = [single.step(action) for _ in range(2)]
    obs, reward = double.step(action)[:2]
    assert reward == pytest.approx(sum(step[1] for step in steps))
    assert np.array_equal(obs["position"], steps[1][0]["position"])
    single.close(), double.close()


def test_dmc_camera_of_the_quadruped_is_the_third():
    images = []
    for camera in (-1, 2, 0):
        env = make_env("dmc_quadruped_walk", env_config(dmc_camera=camera), seed=0)
        images.append(env.reset()[0]["image"])
        env.close()
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("task", ["manip_reach_site", "locom_rodent_two_touch"])
def test_dmc_tasks_that_see_need_rendering(task, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(UserError, match=f"'dmc_{task}' .* needs rendering, .* 'off' .* unset it"):
        make_env(f"dmc_{task}", env_config())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("waker_walk", "no control suite task 'waker_walk'. Did you mean 'walker_walk'"),
        ("cup_cach", "Did you mean 'ball_in_cup_catch'"),
        ("manip_reach_sit", "no manipulation task 'reach_sit'. Did you mean 'reach_site'"),
        ("locom_rodent_to_touch", "Did you mean 'rodent_two_touch'"),
        ("cartpole_balance", "dmc_camera is 99, but the task has 2 cameras"),
    ],
)
def test_dmc_tasks_and_cameras_that_do_not_exist_are_refused(task, message):
    with pytest.raises(UserError, match=message):
        make_env(f"dmc_{task}", env_config(dmc_camera=99))
