"""The same seed gives the same numbers; a checkpoint continues with the very next ones."""

import numpy as np
import pytest
from small_agents import batches, build, train

from dreamerv2.common.errors import UserError
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.learner import Learner, match_variables


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
        np.concatenate([np.ravel(x) for x in agent._policy_noise(mode == "eval", 3, True).values()])
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


class Batches:
    """A dataset whose place can be saved, like sequences.Dataset."""

    provenance = "a test"

    def __init__(self):
        self.data, self.at = batches(6), 0

    def __next__(self):
        self.at += 1
        self.placed = self.data[self.at - 1]
        return self.placed

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


@pytest.mark.parametrize("precision", ["32", "16", "bfloat16"])
def test_a_checkpoint_continues_bit_by_bit(precision, tmp_path):
    """After two updates: save, make everything anew, load, two more updates."""
    options = {"precision": precision, "jit": False, "slow_target_update": 2}
    options["reward_norm.momentum"] = 0.9
    learner = Learner(build(options), Batches(), tmp_path)
    for step in range(2):
        learner.update(step)
    learner.metrics()
    Checkpoint(tmp_path / "checkpoints").save(2, *learner.save())
    expected = next_metrics(learner)

    resumed = Learner(build(options), Batches(), tmp_path)
    for variable in resumed.agent.variables:  # whatever is not loaded gives itself away
        variable.assign(variable * 0 + 3)
    step, arrays, state = Checkpoint(tmp_path / "checkpoints").load()
    resumed.load(arrays, state)
    assert step == 2 and resumed.updates == 2 and resumed.dataset.at == 2
    assert next_metrics(resumed) == expected, "the resumed run computes other numbers"
    one, other = learner.save(), resumed.save()
    assert one[1] == other[1]
    for key in one[0]:
        assert np.array_equal(one[0][key], other[0][key]), f"{key} differs after two more updates"


def next_metrics(learner):
    """Metrics of the next two updates, one after the other."""
    rows = []
    for step in (2, 3):
        learner.update(step)
        rows.append(learner.metrics())
    return rows


def test_counters_of_older_float16_checkpoints_fit():
    agent = build({"precision": "16", "jit": False})
    arrays, _ = agent.save()
    old = {
        k: v.astype(np.int32) if k.endswith("loss_scale_finite") else v for k, v in arrays.items()
    }
    assert any(value.dtype == np.int32 for value in old.values())
    fitted = match_variables(agent, old)
    assert {k: v.dtype for k, v in fitted.items()} == {k: v.dtype for k, v in arrays.items()}


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    learner = Learner(build({"jit": False}), Batches(), tmp_path)
    arrays, state = learner.save()
    other = Learner(build({"jit": False, "rssm.deter": 9}), Batches(), tmp_path)
    with pytest.raises(UserError, match="another architecture"):
        other.load(arrays, state)
