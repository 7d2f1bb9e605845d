"""The same seed gives the same numbers; a checkpoint continues with the very next ones."""

import numpy as np
import pytest
from small_agents import batches, build, train

from dreamerv2.learner import match_variables


@pytest.fixture(scope="module")
def reference():
    """Metrics of two updates with seed 0, line by line."""
    return train(build({"jit": False}), batches(2))[0]


def test_the_same_seed_gives_identical_metrics(reference):
    assert train(build({"jit": False}), batches(2))[0] == reference


def test_another_seed_gives_other_metrics(reference):
    rows, _ = train(build({"jit": False, "seed": 1}), batches(2))
    for key in ("model_loss", "actor_loss", "critic_loss", "actor_ent"):
        assert rows[0][key] != reference[0][key], f"{key} does not depend on the seed"


def test_every_update_draws_new_noise():
    still = {f"{part}_opt": {"lr": 0.0, "wd": 0.0} for part in ("model", "actor", "critic")}
    (one, two), _ = train(build({"jit": False}, still), batches(1) * 2)
    assert one["model_kl"] != two["model_kl"], "the posterior was sampled with the same noise"
    assert one["critic_target"] != two["critic_target"], "imagination used the same noise"


def actions_of(agent, modes):
    obs = {key: value[:2, 0] for key, value in batches(1)[0].items()}
    return [agent.policy(obs, None, 0, mode)[0]["action"] for mode in modes]


@pytest.mark.parametrize("discrete", [True, False])
def test_acting_draws_every_number_once(discrete):
    """Neither another step, nor another environment, nor another use sees a number again."""
    agent = build({"jit": False, "expl_noise": 0.3}, discrete=discrete)
    draws = [
        np.concatenate([np.ravel(x) for x in agent._policy_noise(mode == "eval", 3).values()])
        for mode in ("train", "eval", "train", "train", "eval")
        for _ in range(5)
    ]
    numbers = np.concatenate(draws)
    # Float32 has 2**24 of them, so a few meet by chance.
    assert len(numbers) - len(np.unique(numbers)) <= 2, "noise is used twice"


def test_acting_is_reproducible_and_evaluation_does_not_disturb_it():
    change = {"jit": False, "expl_noise": 0.3, "dataset.batch": 3}
    plain = actions_of(build(change, discrete=False), ["train"] * 3)
    mixed = actions_of(build(change, discrete=False), ["train", "eval", "train", "eval", "train"])
    for one, other in zip(plain, mixed[::2], strict=True):
        assert np.array_equal(one, other), "an evaluation moved the policy's random numbers"
    assert not np.array_equal(plain[0], plain[1]), "every step draws new noise"


def test_counters_of_older_float16_checkpoints_fit():
    agent = build({"precision": "16", "jit": False})
    arrays, _ = agent.save()
    old = {
        k: v.astype(np.int32) if k.endswith("loss_scale_finite") else v for k, v in arrays.items()
    }
    assert any(value.dtype == np.int32 for value in old.values())
    fitted = match_variables(agent, old)
    assert {k: v.dtype for k, v in fitted.items()} == {k: v.dtype for k, v in arrays.items()}
