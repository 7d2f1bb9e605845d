"""The effect of each option of exploration, computed another way."""

import types

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from small_models import (
    VECTORS,
    assert_close,
    make_batch,
    make_behavior,
    make_model,
    numpy_of,
    randomize,
    small_config,
    tensors_of,
    weights_of,
)

from dreamerv2 import exploration
from dreamerv2.agent import Agent
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.dists import uniform
from dreamerv2.common.nn.variables import Init

SEED = tf.constant([3, 7], tf.int32)
STEP = tf.constant(0, tf.int64)
NAMES = ["plan2explore", "Plan2Explore", "model_loss", "ModelLoss", "random", "Random"]


def explorer(*changes, kind="plan2explore", discrete=True):
    """An exploration behavior with random weights, and all that it learns from."""
    config = small_config({"expl_behavior": kind}, *changes)
    model = make_model(config, "float32", VECTORS)
    task = make_behavior(config, model, discrete)
    init = Init(np.random.default_rng(2), model.dtype)
    behavior = exploration.make(init / "expl", config, model, task)
    if isinstance(behavior, tf.Module):
        randomize(behavior, np.random.default_rng(3))
    data = model.preprocess(tensors_of(make_batch(VECTORS, discrete=discrete)))
    _, post, outputs, _ = model.loss(data, model.rssm.initial(3), model.noise(3, 5, SEED))
    outputs = outputs | post | {"feat": model.rssm.feat(post)}
    return types.SimpleNamespace(
        behavior=behavior, model=model, task=task, data=data, post=post, outputs=outputs
    )


def imagined(world, horizon=4, states=6, seed=0):
    """An imagined sequence of random features and actions."""
    rng = np.random.default_rng(seed)
    feat = rng.normal(size=(horizon + 1, states, world.model.rssm.feat_size))
    action = np.eye(3)[rng.integers(0, 3, (horizon + 1, states))]
    return {"feat": tf.constant(feat, tf.float32), "action": tf.constant(action, tf.float32)}


def log_density(target, guess):
    """Of a unit normal, summed over the last axis."""
    size = target.shape[-1]
    return -0.5 * ((target - guess) ** 2).sum(-1) - size / 2 * np.log(2 * np.pi)


@pytest.mark.parametrize(
    ("target", "offset", "conditioned"),
    [
        *[(target, 1, True) for target in ("stoch", "deter", "feat", "embed")],
        *[("stoch", offset, conditioned) for offset in (0, 1, 4) for conditioned in (True, False)],
    ],
)
def test_ensemble_predicts_the_target_so_many_steps_ahead(target, offset, conditioned):
    options = {"disag_target": target, "disag_offset": offset, "disag_action_cond": conditioned}
    world = explorer(options)
    feat, action = world.outputs["feat"], world.data["action"]
    first = world.data["is_first"].numpy()
    goal = numpy_of(world.outputs[target]).reshape(3, 5, -1)
    total = 0.0
    for head in world.behavior.heads:
        terms, ahead = [], max(offset, 1)
        for t in range(5 - ahead):  # a_{t+1} leads out of z_t
            inputs = tf.concat([feat[:, t], action[:, t + 1]], -1) if conditioned else feat[:, t]
            density = log_density(goal[:, t + offset], numpy_of(head(inputs).mode()))
            # Another sequence of the batch row is not where it leads.
            terms += [*density[~first[:, t + 1 : t + ahead + 1].any(1)]]
        total -= np.mean(terms)
    loss = world.behavior.loss(feat, world.outputs, world.data)
    assert_close(loss, total, "the ensemble's loss")


def test_an_ensemble_with_nothing_to_predict_has_no_loss():
    world = explorer()
    data = {**world.data, "is_first": tf.ones_like(world.data["is_first"])}
    assert world.behavior.loss(world.outputs["feat"], world.outputs, data) == 0


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("models", [2, 5])
def test_intrinsic_reward_is_the_deviation_between_the_models(models, log):
    world = explorer({"disag_models": models, "disag_log": log})
    seq = imagined(world)
    assert len(world.behavior.heads) == models
    inputs = tf.concat([seq["feat"][:-1], seq["action"][1:]], -1)
    guesses = np.stack([numpy_of(head(inputs).mode()) for head in world.behavior.heads])
    expected = guesses.std(0).mean(-1)
    reward = world.behavior.reward(world.model, seq)
    assert_close(reward, np.log(expected) if log else expected, "disagreement")


@pytest.mark.parametrize("kind", ["plan2explore", "model_loss"])
def test_scales_and_norm_mix_intrinsic_and_task_reward(kind):
    norm = {"momentum": 0.5, "scale": 3.0, "eps": 0.1}
    options = {"expl_intr_scale": 0.7, "expl_extr_scale": 0.2, "expl_reward_norm": norm}
    world = explorer(options, kind=kind)
    seq = imagined(world)
    parts = [world.behavior.intrinsic(seq), world.model.imagined_reward(seq)]
    normed = [
        x / (0.5 + 0.5 * np.abs(x).mean() + 0.1) * 3.0 for x in map(numpy_of, parts)
    ]  # the magnitude starts at 1
    expected = 0.7 * normed[0] + 0.2 * normed[1]
    assert_close(world.behavior.reward(world.model, seq), expected, "the mixed reward")


def test_gradient_is_finite_where_all_models_agree():
    """A few models in 16 bit often agree exactly, and a root has no slope at 0."""
    world = explorer({"disag_models": 2})
    first, second = world.behavior.heads
    for variable, other in zip(first.variables, second.variables, strict=True):
        other.assign(variable)
    seq = imagined(world)
    with tf.GradientTape() as tape:
        tape.watch(seq["feat"])
        reward = world.behavior.reward(world.model, seq)
    assert np.isfinite(tape.gradient(reward, seq["feat"])).all()
    assert np.abs(reward).max() < 1e-6, "models that agree are worth nothing"


@pytest.mark.parametrize("name", ["kl", "reward", "discount", "position"])
def test_model_loss_learns_the_loss_that_is_named(name):
    world = explorer({"expl_model_loss": name}, kind="model_loss")
    feat = world.outputs["feat"]
    guess = numpy_of(world.behavior.heads[0](feat).mode())
    target = numpy_of(world.outputs[f"{name}_loss"])
    expected = -log_density(target[..., None], guess[..., None]).mean()
    loss = world.behavior.loss(feat, world.outputs, world.data["action"])
    assert_close(loss, expected, f"the loss of the {name} predictor")


def test_model_loss_of_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="position, speed, reward, discount. Did you mean 'reward'"):
        explorer({"expl_model_loss": "rewards"}, kind="model_loss")


def test_noise_above_one_is_no_share_of_random_actions():
    with pytest.raises(UserError, match="--expl_noise 1.5 is not possible.*at most 1"):
        explorer({"expl_noise": 1.5})
    explorer({"expl_noise": 1.5}, discrete=False)  # a standard deviation


@pytest.mark.parametrize("kind", ["plan2explore", "model_loss"])
@pytest.mark.parametrize("discrete", [True, False])
def test_an_update_trains_exploration_and_nothing_else(kind, discrete):
    world = explorer(kind=kind, discrete=discrete)
    before = weights_of(world.behavior), weights_of(world.model, world.task)
    metrics = world.behavior.update(world.model, world.post, world.outputs, world.data, SEED, STEP)
    after = weights_of(world.behavior), weights_of(world.model, world.task)
    assert all(np.array_equal(before[1][name], after[1][name]) for name in before[1])
    kernels = [name for name in before[0] if name.endswith("kernel") and "slot" not in name]
    assert all((before[0][name] != after[0][name]).any() for name in kernels)
    assert all(np.isfinite(value) for value in metrics.values())


def test_options_of_the_predictors_reach_them():
    options = {"expl_head": {"units": 5, "layers": 1}, "disag_models": 4, "expl_opt.lr": 0.25}
    world = explorer(options, {"expl_opt.opt": "sgd", "expl_opt.clip": 0.0, "expl_opt.wd": 0.0})
    before = weights_of(*world.behavior.heads)
    assert len(before) == 4 * 4 and before["expl/disag3/dense0/kernel"].shape[1] == 5
    with tf.GradientTape() as tape:
        loss = world.behavior.loss(world.outputs["feat"], world.outputs, world.data)
    bias = world.behavior.heads[0].out.bias
    expected = bias - 0.25 * tape.gradient(loss, bias)
    world.behavior.update(world.model, world.post, world.outputs, world.data, SEED, STEP)
    assert_close(bias, expected, "a step of size lr")


# --- who acts ---


def actions_of(options, mode="train", step=0, discrete=True):
    """Actions of an agent in 200 environments whose actor always wants action 0 (or 0.9)."""
    agent = Agent(small_config({"jit": False}, options), VECTORS, 3, discrete)
    wanted = [100.0, 0, 0] if discrete else [np.arctanh(0.9)] * 3
    for actor in {agent.task_behavior.actor, getattr(agent.expl_behavior, "actor", None)} - {None}:
        actor.out.kernel.assign(tf.zeros_like(actor.out.kernel))
        actor.out.bias.assign(wanted)
    obs = {key: np.zeros((200, *shape), np.float32) for key, shape in VECTORS.items()}
    output, _ = agent.policy({**obs, "is_first": np.ones(200, bool)}, None, step, mode)
    return output["action"]


def share_of_first(options, **kwargs):
    return actions_of(options, **kwargs)[:, 0].mean()


@pytest.mark.parametrize("kind", NAMES)
def test_every_kind_of_exploration_acts_by_either_spelling(kind):
    expected = 1 / 3 if kind.lower() == "random" else 1.0
    assert share_of_first({"expl_behavior": kind}) == pytest.approx(expected, abs=0.12)
    assert share_of_first({"expl_behavior": kind}, mode="eval") == 1, "evaluation never explores"


def test_random_continuous_actions_fill_the_interval():
    actions = actions_of({"expl_behavior": "random"}, discrete=False)
    assert actions.shape == (200, 3) and np.abs(actions).max() <= 1
    assert actions.std() == pytest.approx(1 / np.sqrt(3), abs=0.05)


def test_exploration_ends_after_so_many_frames():
    options = {"expl_behavior": "random", "expl_until": 40, "action_repeat": 2}
    assert share_of_first(options, step=19) < 0.5, "frame 38 is before expl_until"
    assert share_of_first(options, step=20) == 1, "from frame 40 on the actor acts"
    assert share_of_first({**options, "expl_until": 0}, step=10**9) < 0.5, "0 means always"


@pytest.mark.parametrize(
    ("option", "noisy", "calm"), [("expl_noise", "train", "eval"), ("eval_noise", "eval", "train")]
)
def test_noise_blurs_the_actions_of_its_own_mode_alone(option, noisy, calm):
    assert share_of_first({option: 0.6}, mode=noisy) == pytest.approx(0.6, abs=0.1)  # 0.4 + 0.6 / 3
    assert share_of_first({option: 0.6}, mode=calm) == 1
    quiet, loud = (actions_of({option: n}, mode="eval", discrete=False) for n in (0.0, 0.5))
    moved = np.abs(loud - quiet).max() > 0.1
    assert moved == (noisy == "eval") and np.abs(loud).max() <= 1


# --- action noise ---


@pytest.mark.parametrize("amount", [0.1, 0.5, 1.0])
def test_discrete_noise_samples_from_the_blurred_action(amount):
    action = tf.constant(np.eye(5)[np.random.default_rng(0).integers(0, 5, 20_000)], tf.float32)
    noisy = exploration.action_noise(action, amount, True, uniform((20_000,), SEED))
    probs = amount / 5 + (1 - amount) * numpy_of(action)
    u = numpy_of(uniform((20_000,), SEED))
    clear = np.abs(np.cumsum(probs, -1) - u[:, None]).min(-1) > 1e-6  # float32 may round the rest
    index = (np.cumsum(probs, -1) <= u[:, None]).sum(-1)
    assert np.array_equal(np.argmax(noisy, -1)[clear], index[clear]), "inverse of the cdf"
    kept = np.mean(np.all(noisy == action, -1))
    assert abs(kept - (1 - amount + amount / 5)) < 0.015, "share of kept actions"
    assert set(np.unique(noisy)) == {0.0, 1.0}, "the action stays one-hot"


@pytest.mark.parametrize("amount", [0.1, 0.8])
def test_continuous_noise_is_normal_and_clipped(amount):
    action = tf.constant(np.random.default_rng(0).uniform(-1, 1, (500, 3)))
    noisy = exploration.action_noise(action, amount, False, uniform((500, 3), SEED))
    u = numpy_of(uniform((500, 3), SEED))
    expected = np.clip(stats.norm.ppf(u, numpy_of(action), amount), -1, 1)
    assert_close(noisy, expected, "clip(N(a, n), -1, 1)")
    assert (np.abs(expected) == 1).any(), "the case must contain clipped actions"
