import os
import subprocess
import sys
import types

import gymnasium
import numpy as np
import pytest
from env_contract import EnvContract, env_config
from gymnasium import spaces

from dreamerv2.common.envs import gym, make_env
from dreamerv2.common.errors import UserError


class TestCartPole(EnvContract):
    def make(self, seed=0):
        return make_env("gym_CartPole-v1", env_config(), seed=seed)


class TestPendulum(EnvContract):
    def make(self, seed=0):
        return make_env("gym_Pendulum-v1", env_config(), seed=seed)


class TestFrozenLake(EnvContract):
    steps = 60

    def make(self, seed=0):
        return make_env("gym_FrozenLake-v1", env_config(), seed=seed)


def test_a_registered_time_limit_truncates():
    env = make_env("gym_Pendulum-v1", env_config())
    env.reset()
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(200)]
    assert flags == [(False, False)] * 199 + [(False, True)]


def test_action_repeat_and_time_limit_of_the_config_apply():
    env = make_env("gym_Pendulum-v1", env_config(action_repeat=2, time_limit=10))
    env.reset()
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(10)] == [False] * 9 + [True]
    assert env.unwrapped is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSuch/Game-v5", "name the module: gym_MODULE:NAME"),
        ("FetchReach-v4", r"no environment 'FetchReach-v4'\. If a package"),  # not Reacher
        ("CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("Pong-v4", "Did you mean 'atari_pong'"),
        ("ALE/Pong-v5", "Did you mean 'atari_pong'"),
        ("SpaceInvadersNoFrameskip-v4", "Did you mean 'atari_space_invaders'"),
        ("Pong-ramDeterministic-v4", "Did you mean 'atari_pong'"),
        ("MiniGrid-DoorKey-6x6-v0", "Did you mean 'minigrid_DoorKey-6x6'"),
        ("BabyAI-GoToObj-v0", "Did you mean 'minigrid_BabyAI-GoToObj-v0'"),
        ("CrafterReward-v1", "Did you mean 'crafter_reward'"),
        ("dm_control/walker-walk-v0", "Did you mean 'dmc_walker_walk'"),
    ],
)
def test_an_unknown_id_is_refused_and_the_nearest_task_named(name, message, monkeypatch):
    foreign = ("ALE/", "MiniGrid-", "BabyAI-", "Crafter")  # as if no suite had registered them
    known = {k: v for k, v in gymnasium.registry.items() if not k.startswith(foreign)}
    known = {k: v for k, v in known.items() if "Pong" not in k and "Invaders" not in k}
    monkeypatch.setattr(gymnasium.envs.registration, "registry", known)
    with pytest.raises(UserError, match=message):
        gym.make(name, env_config())


def test_a_module_of_the_current_folder_is_found_from_the_console_command(tmp_path):
    module = "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
    (tmp_path / "own_module.py").write_text(module + "gymnasium.register('Own-v0', CartPoleEnv)\n")
    script = tmp_path / "bin" / "command.py"  # Python puts its folder in front of sys.path
    script.parent.mkdir()
    script.write_text(
        "from dreamerv2.common.envs import make_vector_env\n"
        "import types\n"
        "config = types.SimpleNamespace(action_repeat=1, time_limit=0, render_size=(64, 64))\n"
        "for parallel in ('none', 'process'):\n"
        "    args = config, 1, parallel, 'train', [0]\n"
        "    envs = make_vector_env('gym_own_module:Own-v0', *args)\n"
        "    print(envs.reset()[0]['observation'].shape)\n"
        "    envs.close()\n"
    )
    ran = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "(1, 4)\n(1, 4)\n", ran.stderr


def test_a_missing_dependency_is_said_in_a_sentence():
    gymnasium.register("Missing-v0", entry_point="package_that_is_not_there:Env")
    with pytest.raises(UserError, match="cannot make 'Missing-v0': .*package_that_is_not_there"):
        make_env("gym_Missing-v0", env_config())


@pytest.mark.parametrize("name", ["Ant-v3", "GymV21Environment-v0"])
@pytest.mark.filterwarnings("ignore")
def test_an_environment_that_moved_away_is_said_in_a_sentence(name):
    with pytest.raises(UserError, match=f"cannot make '{name}': .*(robotics|shimmy)"):
        make_env(f"gym_{name}", env_config())


@pytest.mark.parametrize("name", [":", ":CartPole-v1", "gymnasium:", ".x:A-v0", "a:b:C-v0"])
def test_a_malformed_name_says_the_right_form(name):
    with pytest.raises(UserError, match="is no task; write gym_NAME-v0 or gym_MODULE:NAME-v0"):
        make_env(f"gym_{name}", env_config())


class Filmed(gymnasium.Env):
    """Shows a picture; ``broken`` names what fails when it is asked to."""

    metadata = {"render_modes": ["human", "rgb_array"]}
    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)
    unclosed = 0

    def __init__(self, render_mode=None, broken=""):
        self.render_mode, self.broken = render_mode, broken
        if broken == "make" and render_mode:
            raise RuntimeError("no display")
        Filmed.unclosed += 1

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def close(self):
        Filmed.unclosed -= 1

    def render(self):
        if self.broken == "render":
            raise RuntimeError("no display")
        return np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("mode", "broken", "expected"),
    [
        ("eval", "", "rgb_array"),
        ("train", "", None),
        ("eval", "make", None),
        ("eval", "render", None),
    ],
)
def test_evaluation_renders_what_can_be_rendered(mode, broken, expected):
    Filmed.unclosed = 0
    gymnasium.register(f"Filmed{broken}-v0", entry_point=Filmed, kwargs={"broken": broken})
    try:
        env = make_env(f"gym_Filmed{broken}-v0", env_config(mode=mode))
    finally:
        del gymnasium.registry[f"Filmed{broken}-v0"]
    assert env.unwrapped.render_mode == expected
    assert env.reset()[0]["observation"].tolist() == [0]
    assert expected is None or env.render().shape == (4, 5, 3)
    env.close()
    assert Filmed.unclosed == 0, "made twice, closed once"


def of_dm_control():
    return types.SimpleNamespace(reset=0, step=0, observation_spec=0, action_spec=0)


def of_several_agents():  # as in PettingZoo, where the spaces are functions
    spaces = {"observation_space": lambda agent: 0, "action_space": lambda agent: 0}
    return types.SimpleNamespace(reset=0, step=0, possible_agents=["a", "b"], **spaces)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (object, "is no environment, because it has no reset and no step"),
        (lambda: "CartPole-v1", r"has no reset .* give gymnasium.make\('CartPole-v1'\)"),
        (of_dm_control, "has no observation_space .* the tasks dmc_DOMAIN_TASK"),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), "vector of environments: .* --envs"),
        (lambda: gymnasium.make_vec("Pendulum-v1", 1), "vector of environments: .* --envs"),
        (of_several_agents, "is for several agents"),
    ],
)
def test_what_is_no_single_environment_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        gym.wrap(make(), env_config())
