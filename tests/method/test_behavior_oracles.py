import functools

import numpy as np
import pytest
import tensorflow as tf
from numpy_behavior import behave
from small_models import (
    GAUSSIAN,
    assert_close,
    flat,
    in_types,
    make_behavior,
    make_model,
    numpy_of,
    small_config,
    weights_of,
)

from dreamerv2.behavior import ActorCritic, RewardNorm
from dreamerv2.common.nn.variables import Init

SEED, STEP = tf.constant([4, 9], tf.int32), tf.constant(500, tf.int64)
VARIANTS = {
    "reinforce": ({}, True),
    "dynamics": ({}, False),
    "both, discrete": ({"actor_grad": "both", "actor_grad_mix": 0.3}, True),
    "both, continuous": ({"actor_grad": "both", "actor_grad_mix": 0.3}, False),
    "dynamics, discrete": ({"actor_grad": "dynamics"}, True),
    "reinforce, continuous": ({"actor_grad": "reinforce"}, False),
    "Gaussian latents": (GAUSSIAN, True),
    "ensemble": ({"rssm.ensemble": 2}, True),
    "fast baseline": ({"slow_baseline": False}, True),
    "no slow critic": ({"slow_target": False}, True),
    "no discount head": ({"pred_discount": False, "grad_heads": ["decoder", "reward"]}, True),
    "other options": ({"discount": 0.8, "discount_lambda": 0.3, "actor_ent": 0.5}, False),
    "reward norm": ({"reward_norm": {"momentum": 0.7, "scale": 2.0, "eps": 0.01}}, True),
}


def start_states(model, batch=2, length=3, seed=3):
    """Posterior states [B, T, ...] and terminal flags, some of them set."""
    rng, config = np.random.default_rng(seed), model.config.rssm
    shape = (batch, length)
    stoch = rng.normal(size=(*shape, *model.rssm.stoch_shape))
    if config.discrete:
        stoch = np.eye(config.discrete)[rng.integers(0, config.discrete, (*shape, config.stoch))]
    deter = np.tanh(rng.normal(size=(*shape, config.deter)))
    start = {"deter": tf.constant(deter, model.dtype), "stoch": tf.constant(stoch, model.dtype)}
    terminal = np.zeros(shape, bool)
    terminal[0, 1] = terminal[-1, -1] = True
    return start, tf.constant(terminal)


@functools.cache
def case(variant, dtype="float64"):
    """Metrics of one update, the expected ones, and the behavior."""
    change, discrete = VARIANTS[variant]
    config = small_config(change)
    model = make_model(config, dtype, {"position": (3,)}, actions=3)
    behavior = make_behavior(config, model, discrete)
    start, terminal = start_states(model)
    noise = model.imagination_noise(6, behavior.discrete, SEED)
    args = numpy_of((*flat((start, terminal)), noise))
    expected = behave(weights_of(model, behavior), config, discrete, *args)
    metrics = behavior.update(model, start, terminal, model.imagined_reward, SEED, STEP)
    return metrics, expected, behavior


@in_types(VARIANTS, "reinforce", "dynamics", "Gaussian latents", "reward norm")
def test_one_update_of_actor_and_critic(variant, dtype):
    metrics, expected, behavior = case(variant, dtype)
    for key in ("actor_loss", "critic_loss"):
        assert_close(metrics[key], expected[key], key)
    assert_close(metrics["actor_ent"], expected["entropy"].mean(), "entropy")
    if behavior.discrete:
        assert_close(metrics["actor_choices"], np.exp(expected["entropy"]).mean(), "choices")
        shares = expected["seq"]["action"][1:].mean((0, 1))
        assert_close(metrics["actor_top_share"], shares.max(), "share of the usual action")
    assert ("actor_choices" in metrics) == behavior.discrete
    assert_close(metrics["critic_target"], expected["target"].mean(), "lambda-returns")
    assert_close(metrics["critic"], expected["critic"].mean(), "values")
    assert_close(metrics["critic_slow"], expected["slow"].mean(), "values of the slow critic")
    error = np.abs(expected["critic"] - expected["target"]).mean()
    assert_close(metrics["critic_error"], error, "error of the values")
    for key in ("reward", "normed"):
        name = "reward" if key == "reward" else "reward_normed"
        assert_close(metrics[f"{name}_mean"], expected[key].mean(), f"mean {name}")
        assert_close(metrics[f"{name}_std"], expected[key].std(), f"deviation of {name}")
    assert_close(behavior.reward_norm.mag, expected["mag"], "running magnitude of rewards")


# --- slow critic ---


@pytest.mark.parametrize(("every", "fraction"), [(2, 0.1), (1, 0.05), (100, 1.0)])
def test_slow_critic_schedule(every, fraction):
    """A full copy after the first update, then a mix after every `every` updates."""
    config = small_config(
        {"slow_target_update": every, "slow_target_fraction": fraction, "critic_opt.lr": 0.01},
        {"imag_horizon": 2, r".*\.layers": 1, "pred_discount": False, "grad_heads": ["reward"]},
    )
    model = make_model(config, shapes={"position": (3,)})
    behavior = make_behavior(config, model)
    start, terminal = start_states(model)
    slow = {k: v for k, v in weights_of(behavior).items() if k.startswith("task/slow_critic")}
    for i in range(4):
        behavior.update(model, start, terminal, model.imagined_reward, SEED, STEP)
        now = weights_of(behavior)
        mix = (1.0 if i == 0 else fraction) if i % every == 0 else 0.0
        for key in slow:
            fast = now[key.replace("slow_critic", "critic")]
            slow[key] = mix * fast + (1 - mix) * slow[key]
            assert_close(now[key], slow[key], f"slow critic after update {i}")


def test_slow_critic_starts_as_a_copy_and_may_be_left_out():
    config = small_config()
    model = make_model(config, shapes={"position": (3,)})
    for slow in (True, False):
        init = Init(np.random.default_rng(0), "float64") / "task"
        behavior = ActorCritic(init, config.update({"slow_target": slow}), model, True)
        for one, other in zip(
            behavior.critic.variables, behavior.slow_critic.variables, strict=True
        ):
            assert np.array_equal(one, other)
            assert (one is other) is not slow
        assert any("slow_critic" in key for key in weights_of(behavior)) is slow


# --- reward normalization ---


@pytest.mark.parametrize("momentum", [1.0, 0.99, 0.0])
def test_reward_normalization(momentum):
    options = {"momentum": momentum, "scale": 3.0, "eps": 0.1}
    init = Init(None, "float64", "x")
    norm = RewardNorm(init, small_config({"reward_norm": options}).reward_norm)
    rng, mag = np.random.default_rng(0), 1.0
    for _ in range(5):
        reward = rng.normal(size=(4, 6), scale=5)
        normed, _ = norm(tf.constant(reward))
        mag = momentum * mag + (1 - momentum) * np.abs(reward).mean()
        assert_close(normed, reward / (mag + 0.1) * 3, "r / (mag + eps) * scale")
        assert_close(norm.mag, mag, "running mean of |r|")
        assert_close(norm.undo(normed), reward, "values are reported without it")


def test_the_default_reward_normalization_changes_nothing():
    norm = RewardNorm(Init(None, path="x"), small_config().reward_norm)
    norm.mag.assign(0.01)  # from a checkpoint made with another momentum
    reward = tf.constant([[1.0, -30.0, 0.0]])
    assert np.array_equal(norm(reward)[0], reward)
    assert np.array_equal(norm.undo(reward), reward)


# --- schedules in use ---


def test_schedules_reach_the_losses():
    change = {"actor_ent": "linear(1,0,1000)", "actor_grad": "both", "critic_opt.lr": 1e-3}
    change["actor_opt.lr"] = "linear(3e-3,1e-3,1000)"
    config = small_config(change | {"actor_grad_mix": "warmup(1000,0.8)"})
    model = make_model(config, shapes={"position": (3,)})
    behavior = make_behavior(config, model, discrete=False)
    metrics = behavior.update(model, *start_states(model), model.imagined_reward, SEED, STEP)
    assert_close(metrics["actor_ent_scale"], 0.5, "entropy scale at step 500")
    assert_close(metrics["actor_grad_mix"], 0.4, "mix at step 500")
    assert_close(metrics["actor_lr"], 2e-3, "learning rate at step 500")
    assert "critic_lr" not in metrics, "a constant is no metric"
