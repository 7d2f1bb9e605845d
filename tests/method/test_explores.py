"""Plan2explore visits states that random actions do not reach."""

import gymnasium
import numpy as np
import pytest

import train
from dreamerv2.common import envs
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import gym
from dreamerv2.common.run.driver import Driver, RandomPolicy

SIZE = 15  # cells in each direction
STEPS = 1500
OPTIONS = {
    "precision": "32",
    "expl_behavior": "plan2explore",
    "time_limit": 30,  # a random walk of 30 steps ends about 5 cells from where it began
    "steps": STEPS,
    "prefill": 200,
    "pretrain": 20,
    "train_every": 2,
    "eval_every": 1e9,
    "log_every": 500,
    "replay": {"minlen": 10, "maxlen": 10},
    "dataset": {"batch": 16, "length": 10},
    "rssm": {"hidden": 64, "deter": 64, "stoch": 8, "discrete": 8},
    r".*\.mlp_layers": [64],
    r".*\.layers": 1,
    r".*\.units": 64,
    "imag_horizon": 10,
    r"(model|actor|critic)_opt\.lr": 3e-3,
    "expl_opt.lr": 1e-3,
    "expl_intr_scale": 10.0,
    "expl_reward_norm.momentum": 0.99,
    "disag_models": 5,
    "discount": 0.95,
    "actor_ent": 1e-2,
    "slow_target_update": 20,
    "loss_scales.kl": 0.3,
}


class Grid(gymnasium.Env):
    """A square of cells without any reward; every episode starts in the same corner.

    Args:
        seen: the set to which each visited cell is added.
    """

    observation_space = gymnasium.spaces.MultiDiscrete([SIZE, SIZE])
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, seen):
        self.seen = seen

    def reset(self, *, seed=None, options=None):
        self.place = np.zeros(2, int)
        return self._observe(), {}

    def step(self, action):
        axis, forward = divmod(int(action), 2)
        self.place[axis] = np.clip(self.place[axis] + 2 * forward - 1, 0, SIZE - 1)
        return self._observe(), 0.0, False, False, {}

    def _observe(self):
        self.seen.add(tuple(self.place))
        return self.place.copy()


@pytest.mark.slow  # most of a minute
def test_plan2explore_visits_more_states_than_random_actions(tmp_path):
    config = Config(paths.load_configs()["defaults"]).update({**OPTIONS, "logdir": str(tmp_path)})
    cells = {"train": set(), "eval": set()}

    def make_envs(mode, count, seeds):
        return envs.vectorize([lambda: gym.wrap(Grid(cells[mode]), config)])

    def cells_of_random_actions(seed):
        cells["random"] = set()
        vector = make_envs("random", 1, [seed])
        Driver(vector)(RandomPolicy(vector.single_action_space, seed), steps=STEPS)
        return len(cells["random"])

    random = np.mean([cells_of_random_actions(seed) for seed in range(5)])
    train.train(config, make_envs, train.make_agent)
    curious = len(cells["train"])
    assert curious >= 1.5 * random, f"plan2explore saw {curious} cells, random actions {random}"
