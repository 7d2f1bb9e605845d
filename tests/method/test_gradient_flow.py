"""Where gradients must flow and where they must not."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    flat,
    make_batch,
    make_behavior,
    make_model,
    random_start,
    small_config,
    tensors_of,
    weights_of,
)

from dreamerv2.common.nn import dists

SEED, STEP = tf.constant([1, 2], tf.int32), tf.constant(0, tf.int64)
VECTOR = {"position": (3,)}


def norm_of(tape, loss, variables):
    """Norm of the gradient; 0 where there is none."""
    grads = tape.gradient(loss, variables, unconnected_gradients="zero")
    return float(tf.linalg.global_norm([tf.convert_to_tensor(grad) for grad in grads]))


def imagined(change, discrete):
    config = small_config({"imag_horizon": 3}, change)
    model = make_model(config, shapes=VECTOR)
    behavior = make_behavior(config, model, discrete)
    rng = np.random.default_rng(3)
    stoch = np.eye(4)[rng.integers(0, 4, (2, 3, 3))]
    start = {"deter": tf.constant(rng.normal(size=(2, 3, 6))), "stoch": tf.constant(stoch)}
    return model, behavior, start


# --- straight-through ---


@pytest.mark.parametrize(
    "draw", [lambda d: d.sample(tf.constant([[0.1, 0.9], [0.4, 0.6]])), lambda d: d.mode()]
)
def test_the_gradient_of_a_sample_is_that_of_its_probabilities(draw):
    rng = np.random.default_rng(0)
    logits, pull = tf.constant(rng.normal(size=(2, 2, 5))), tf.constant(rng.normal(size=(2, 2, 5)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        sample = tf.reduce_sum(pull * draw(dists.OneHot(logits)))
        probs = tf.reduce_sum(pull * tf.nn.softmax(logits))
    one, other = tape.gradient(sample, logits), tape.gradient(probs, logits)
    np.testing.assert_allclose(one, other, rtol=1e-12)
    p, g = tf.nn.softmax(logits).numpy(), pull.numpy()
    np.testing.assert_allclose(one, p * (g - (p * g).sum(-1, keepdims=True)), rtol=1e-9)


def test_truncated_samples_have_the_gradient_of_the_inverse_cdf_also_at_the_edge(monkeypatch):
    mean, std, eps = 0.9, 0.7, 1e-6
    for u in (0.3, 0.9999999):

        def sample(m, s, u=u):
            return dists.TruncNormal(m, s).sample(tf.constant([[u]], tf.float64))

        m, s = tf.constant([[mean]], tf.float64), tf.constant([[std]], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch((m, s))
            value = sample(m, s)
        grads = tape.gradient(value, (m, s))
        with monkeypatch.context() as patch:
            patch.setattr(dists.TruncNormal, "LIMIT", 2.0)  # the inverse CDF itself
            for grad, step in zip(grads, ((eps, 0), (0, eps)), strict=True):
                ends = [sample(m + sign * step[0], s + sign * step[1]) for sign in (1, -1)]
                quotient = (ends[0] - ends[1]) / (2 * eps)
                assert np.abs(grad - quotient) < 1e-6, "clipping must not break the gradient"


# --- heads ---


@pytest.mark.parametrize("grad_heads", [(), ("reward",), ("decoder", "discount")])
def test_only_grad_heads_shape_the_latent(grad_heads):
    model = make_model(small_config({"grad_heads": grad_heads}))
    data, noise = model.preprocess(tensors_of(make_batch())), model.noise(3, 5, SEED)
    with tf.GradientTape(persistent=True) as tape:
        metrics = model.loss(data, random_start(model), noise)[3]
    keys = {"image": "decoder", "speed": "decoder", "reward": "reward", "discount": "discount"}
    for key, head in keys.items():
        loss = metrics[f"{key}_loss"]
        for part in (model.encoder, model.rssm):
            reaches = norm_of(tape, loss, part.trainable_variables) > 0
            assert reaches == (head in grad_heads), f"{key} with grad_heads {grad_heads}"
        assert norm_of(tape, loss, model.heads[head].trainable_variables) > 0, f"{head} must learn"


# --- actor and critic ---


@pytest.mark.parametrize("discrete", [True, False], ids=["reinforce", "dynamics"])
@pytest.mark.parametrize("still", ["actor", "critic"])
def test_updates_touch_only_their_own_variables(still, discrete):
    frozen = {f"{still}_opt.lr": 0.0, f"{still}_opt.wd": 0.0, "slow_target_update": 100}
    model, behavior, start = imagined(frozen, discrete)
    other = {"actor": "critic", "critic": "actor"}[still]
    behavior.updates.assign(1)  # no copy to the slow critic is due
    before = weights_of(model, behavior)
    behavior.update(model, start, tf.zeros((2, 3), bool), model.imagined_reward, SEED, STEP)
    after = weights_of(model, behavior)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    weights = {key for key in changed if "_opt/" not in key} - {"task/updates"}
    assert weights and all(key.startswith(f"task/{other}/") for key in weights), weights


def losses_of(model, behavior, start, watch=()):
    """Tape and losses of one imagined batch, recorded from every variable and `watch`."""
    start = flat(start)
    noise = model.imagination_noise(6, behavior.discrete, SEED)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(watch)
        seq = model.imagine(behavior.policy, start, tf.zeros(6, bool), noise)
        target, value = behavior.target(seq, model.imagined_reward(seq))
        actor, _ = behavior.actor_loss(seq, target, value, STEP)
        critic, _ = behavior.critic_loss(seq, target)
    return tape, actor, critic


def test_reinforce_does_not_flow_through_the_dynamics():
    model, behavior, start = imagined({}, True)
    tape, actor, _ = losses_of(model, behavior, start)
    assert norm_of(tape, actor, model.trainable_variables) == 0, "the world model has a gradient"
    assert norm_of(tape, actor, behavior.slow_critic.trainable_variables) == 0
    assert norm_of(tape, actor, behavior.critic.trainable_variables) == 0
    assert norm_of(tape, actor, behavior.actor.trainable_variables) > 0


def test_start_states_of_imagination_are_constants():
    model, behavior, start = imagined({}, False)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(start)
        moved = {key: 1.0 * value for key, value in start.items()}
        terminal = tf.zeros((2, 3), bool)
        metrics = behavior.update(model, moved, terminal, model.imagined_reward, SEED, STEP)
    for key in ("actor_loss", "critic_loss", "critic_target"):
        grads = tape.gradient(metrics[key], list(start.values()))
        assert grads == [None, None], f"{key} has a gradient to the posterior"


def test_a_policy_has_no_gradient_to_the_features_it_reads():
    """pi(a | sg(feat)): the first action must not move the start state through the policy."""
    model, behavior, start = imagined({"actor_grad": "dynamics"}, False)
    start = flat(start)
    noise = model.imagination_noise(6, behavior.discrete, SEED)
    with tf.GradientTape() as tape:
        tape.watch(start)
        seq = model.imagine(behavior.policy, start, tf.zeros(6, bool), noise)
        action = seq["action"][1]
    assert tape.gradient(action, list(start.values())) == [None, None]
