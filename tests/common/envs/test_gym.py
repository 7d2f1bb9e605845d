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


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, 200), ({"action_repeat": 2, "time_limit": 10}, 10)]
)
def test_time_limits_truncate_in_agent_steps(changes, steps):
    env = make_env("gym_Pendulum-v1", env_config(**changes))
    for _ in range(2):
        env.reset()
        flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(steps)]
        assert flags == [(False, False)] * (steps - 1) + [(False, True)]


def test_a_module_of_the_current_folder_is_found_from_the_console_command(tmp_path, python):
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
    said, problems = python(script, cwd=tmp_path).communicate()
    assert said == "(1, 4)\n(1, 4)\n", problems


FORM = "is no task; write gym_NAME-v0 or gym_MODULE:NAME-v0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, FORM) for name in (":", ":CartPole-v1", "gymnasium:", ".x:A-v0", "a:b:C-v0")),
        ("Missing-v0", "cannot make 'Missing-v0': .*package_that_is_not_there"),
        ("Ant-v3", "cannot make 'Ant-v3': .*robotics"),
        ("NoSuch/Game-v5", "name the module: gym_MODULE:NAME"),
        ("FetchReach-v4", r"no environment 'FetchReach-v4'\. If a package"),  # not Reacher
        ("CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("Pong-v4", "Did you mean 'atari_pong'"),
        ("ALE/Pong-v5", "Did you mean 'atari_pong'"),
        ("SpaceInvadersNoFrameskip-v4", "Did you mean 'atari_space_invaders'"),
        ("Pong-ramDeterministic-v4", "Did you mean 'atari_pong'"),
        ("MiniGrid-DoorKey-6x6-v0", "Did you mean 'minigrid_DoorKey-6x6'"),
        ("BabyAI-GoToObj-v0", "Did you mean 'minigrid_BabyAI-GoToObj'"),
        ("CrafterReward-v1", "Did you mean 'crafter_reward'"),
        ("dm_control/walker-walk-v0", "Did you mean 'dmc_walker_walk'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_id_that_cannot_be_made_is_refused_with_a_remedy(name, message, monkeypatch):
    foreign = ("ALE/", "MiniGrid-", "BabyAI-", "Crafter")  # as if no suite had registered them
    known = {k: v for k, v in gymnasium.registry.items() if not k.startswith(foreign)}
    known = {k: v for k, v in known.items() if "Pong" not in k and "Invaders" not in k}
    monkeypatch.setattr(gymnasium.envs.registration, "registry", known)
    gymnasium.register("Missing-v0", entry_point="package_that_is_not_there:Env")
    with pytest.raises(UserError, match=message):
        gym.make(name, env_config())


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
    [("eval", "", "rgb_array"), ("train", "", None), ("eval", "make", None)]
    + [("eval", "render", None)],
)
def test_evaluation_renders_what_can_be_rendered(mode, broken, expected, monkeypatch):
    Filmed.unclosed = 0
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    gymnasium.register("Filmed-v0", entry_point=Filmed, kwargs={"broken": broken})
    env = make_env("gym_Filmed-v0", env_config(mode=mode))
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
