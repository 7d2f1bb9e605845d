import numpy as np
import pytest
from small_agents import build

from dreamerv2.behavior import ActorCritic
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.nn.variables import Init, named_variables
from dreamerv2.world_model import WorldModel


def count(module):
    return sum(int(np.prod(variable.shape)) for variable in module.trainable_variables)


def test_parameters_of_the_paper():
    """The Atari config, grayscale, 6 actions."""
    configs = paths.load_configs()
    config = Config(configs["defaults"]).update(configs["atari"])
    init = Init(np.random.default_rng(0))
    model = WorldModel(init / "world_model", {"image": (64, 64, 1)}, 6, config)
    assert count(model.rssm) == 5_657_648
    assert count(model.encoder) == 1_549_776
    assert count(model.heads["decoder"]) == 10_497_553
    assert count(model.heads["reward"]) == count(model.heads["discount"]) == 1_131_601
    assert count(model) == 19_968_179
    small = config.update({"critic_opt.opt": "sgd", "actor_opt.opt": "sgd"})  # no slots to make
    behavior = ActorCritic(init / "task", small, model, True)
    assert count(behavior.actor) == 1_133_606
    assert count(behavior.critic) == count(behavior.slow_critic) == 1_131_601
    assert not any("world_model" in name for name in named_variables(behavior))


@pytest.mark.parametrize("explorer", ["greedy", "random", "plan2explore", "model_loss"])
def test_every_variable_has_a_name_of_its_own(explorer):
    """A checkpoint maps names to arrays. In float16 there are most variables: the loss scales."""
    agent = build({"expl_behavior": explorer, "precision": "16", "jit": False})
    names = [variable.name for variable in agent.variables]
    assert len(names) == len(set(names)), "two variables share a name"
    assert len(named_variables(agent)) == len(names) == len(agent.expected())


def test_an_optimizer_keeps_two_slots_per_weight():
    agent = build({"jit": False})
    slots = [v for v in agent.variables if "/slot" in v.name]
    weights = [v for v in agent.trainable_variables if "slow_critic" not in v.name]
    assert len(slots) == 2 * len(weights), "a weight is trained by none or by two optimizers"
