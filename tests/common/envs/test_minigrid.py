import numpy as np
import pytest
from env_contract import EnvContract, env_config, need

from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UserError

pytestmark = need("minigrid", "minigrid")


class TestMiniGrid(EnvContract):
    def make(self, seed=0):
        return make_env("minigrid_MultiRoom-N2-S4", env_config(), seed=seed)


@pytest.mark.parametrize("name", ["DoorKey-6x6", "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToObj-v0"])
def test_minigrid_names(name):
    obs, _ = make_env(f"minigrid_{name}", env_config()).reset()
    assert obs["image"].shape == (64, 64, 3) and obs["direction"].sum() == 1


def test_minigrid_unknown_name_says_the_nearest():
    with pytest.raises(UserError, match="no environment 'DorKey-6x6'. Did you mean 'DoorKey-6x6'"):
        make_env("minigrid_DorKey-6x6", env_config())


def test_minigrid_step_limit_truncates():
    env = make_env("minigrid_Empty-5x5", env_config())
    env.reset()
    turn = np.eye(7, dtype=np.float32)[0]
    flags = [env.step(turn)[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]
