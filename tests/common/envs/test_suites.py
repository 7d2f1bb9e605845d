import os
import subprocess
import sys

import numpy as np
import pytest
from env_contract import EnvContract, env_config, need

from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UserError

MINIGRID = need("minigrid", "minigrid")
DMC = need("mujoco", "dmc")  # importing dm_control itself would choose a rendering backend


@MINIGRID
class TestMiniGrid(EnvContract):
    def make(self, seed=0):
        return make_env("minigrid_MultiRoom-N2-S4", env_config(), seed=seed)


@DMC
class TestWalker(EnvContract):
    steps = 5

    def make(self, seed=0):
        return make_env("dmc_walker_walk", env_config(action_repeat=2), seed=seed)


@DMC
@pytest.mark.slow
class TestManipulation(EnvContract):
    steps = 3

    def make(self, seed=0):
        return make_env("dmc_manip_reach_site", env_config(), seed=seed)


@DMC
@pytest.mark.slow
class TestRodent(EnvContract):
    steps = 2

    def make(self, seed=0):
        return make_env("dmc_locom_rodent_two_touch", env_config(), seed=seed)


@MINIGRID
@pytest.mark.parametrize("name", ["DoorKey-6x6", "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToObj-v0"])
def test_minigrid_names(name):
    obs, _ = make_env(f"minigrid_{name}", env_config()).reset()
    assert obs["image"].shape == (64, 64, 3) and obs["direction"].sum() == 1


@MINIGRID
def test_minigrid_unknown_name_says_the_nearest():
    with pytest.raises(UserError, match="no environment 'DorKey-6x6'. Did you mean 'DoorKey-6x6'"):
        make_env("minigrid_DorKey-6x6", env_config())


@MINIGRID
def test_minigrid_step_limit_truncates():
    env = make_env("minigrid_Empty-5x5", env_config())
    env.reset()
    turn = np.eye(7, dtype=np.float32)[0]
    flags = [env.step(turn)[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]


@DMC
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


@DMC
def test_dmc_time_limit_of_the_suite_truncates():
    env = make_env("dmc_cartpole_balance", env_config(action_repeat=10, render_size=(8, 8)))
    env.reset()
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]
    env.close()


@DMC
def test_dmc_discount_zero_terminates():
    from dm_control import suite

    from dreamerv2.common.envs.dmc import DMC as Wrapped

    class Ending:
        def __init__(self):
            self.inner = suite.load("cartpole", "balance")

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, action):
            import dm_env

            time_step = self.inner.step(action)
            return dm_env.termination(1.0, time_step.observation)

    env = Wrapped(lambda seed: Ending(), None, 0, action_repeat=3)
    env.reset()
    _, reward, terminated, truncated, _ = env.step(np.zeros(1))
    assert (reward, terminated, truncated) == (1.0, True, False), "went on after the end"


@DMC
def test_dmc_action_repeat_adds_rewards():
    action = np.ones(1, np.float32)
    single = make_env("dmc_cartpole_balance", env_config(render_size=(8, 8)), seed=2)
    double = make_env(
        "dmc_cartpole_balance", env_config(render_size=(8, 8), action_repeat=2), seed=2
    )
    single.reset(), double.reset()
    steps = [single.step(action) for _ in range(2)]
    obs, reward = double.step(action)[:2]
    assert reward == pytest.approx(sum(step[1] for step in steps))
    assert np.array_equal(obs["position"], steps[1][0]["position"])
    single.close(), double.close()


@DMC
def test_dmc_camera_of_the_quadruped_is_the_third():
    images = []
    for camera in (-1, 2, 0):
        env = make_env("dmc_quadruped_walk", env_config(dmc_camera=camera), seed=0)
        images.append(env.reset()[0]["image"])
        env.close()
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


@DMC
def test_dmc_says_how_many_cameras_there_are():
    with pytest.raises(UserError, match="dmc_camera is 99, but the task has 2 cameras"):
        make_env("dmc_cartpole_balance", env_config(dmc_camera=99))


@DMC
@pytest.mark.parametrize("task", ["manip_reach_site", "locom_rodent_two_touch"])
def test_dmc_tasks_that_see_need_rendering(task, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(UserError, match=f"'dmc_{task}' .* needs rendering, .* 'off' .* unset it"):
        make_env(f"dmc_{task}", env_config())


@DMC
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("waker_walk", "no task 'waker_walk'. Did you mean 'walker_walk'"),
        ("cup_cach", "Did you mean 'ball_in_cup_catch'"),
        ("manip_reach_sit", "no manipulation task 'reach_sit'. Did you mean 'reach_site'"),
        ("locom_rodent_to_touch", "Did you mean 'rodent_two_touch'"),
    ],
)
def test_dmc_unknown_names_say_the_nearest(task, message):
    with pytest.raises(UserError, match=message):
        make_env(f"dmc_{task}", env_config())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("atri_pong", "SUITE_NAME with one of the suites atari, crafter, .* Did you mean 'atari'"),
        ("pong", "names no known suite"),
        ("atari", "lacks a name after the suite"),
        ("atari_", "lacks a name after the suite"),
    ],
)
def test_a_task_of_no_suite_is_refused(task, message):
    with pytest.raises(UserError, match=message):
        make_env(task, env_config())


@pytest.mark.parametrize(
    ("task", "package", "extra"),
    [
        ("crafter_reward", "crafter", r"dreamerv2\[crafter\]"),
        ("minigrid_Empty-5x5", "minigrid", r"dreamerv2\[minigrid\]"),
        ("dmc_walker_walk", "dm_control", r"dreamerv2\[dmc\]"),
    ],
)
def test_a_missing_package_says_which_extra_to_install(task, package, extra, monkeypatch):
    suite = f"dreamerv2.common.envs.{task.split('_')[0]}"
    for name in [name for name in sys.modules if name.split(".")[0] == package or name == suite]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails as if not installed
    with pytest.raises(UserError, match=f"'{package}', which is not installed; .*{extra}"):
        make_env(task, env_config())


def test_suites_are_imported_only_when_asked_for():
    code = (
        "import sys; from dreamerv2.common.envs import make_env; "
        "import dreamerv2.common.run.driver;"
        "print([m for m in ('ale_py', 'crafter', 'minigrid', 'dm_control', 'tensorflow', 'PIL')"
        " if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == "[]\n"
