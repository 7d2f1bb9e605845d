"""Gradients of production code against finite differences of the NumPy oracle.

Frozen in numpy_dists keeps the values under stop_gradient constant, so that straight-through
samples, KL balancing and detached heads have a difference quotient as well.
"""

import numpy as np
import pytest
import tensorflow as tf
from numpy_behavior import behave
from numpy_dists import Frozen
from numpy_model import model_loss, preprocess
from small_models import (
    GAUSSIAN,
    LAYER_NORM,
    SHAPES,
    make_batch,
    make_behavior,
    make_model,
    numpy_of,
    random_start,
    small_config,
    tensors_of,
    weights_of,
)

from dreamerv2.common.nn.optim import recording
from dreamerv2.common.nn.variables import named_variables

SEED, STEP = tf.constant([1, 2], tf.int32), tf.constant(0, tf.int64)
NO_IMAGES = {r".*\.cnn_keys": "$^"}
MODEL_VARIANTS = {
    "images": {},
    "images, layer norm": LAYER_NORM,
    "plain KL": {"kl.balance": 0.5} | NO_IMAGES,
    "forward KL": {"kl": {"forward": True, "balance": 0.7}} | NO_IMAGES,
    "Gaussian": GAUSSIAN | NO_IMAGES,
    "Gaussian ensemble": {"rssm": {"ensemble": 2, "discrete": 0}} | NO_IMAGES,
    "free nats": {"kl": {"free": 1.0, "free_avg": False}} | NO_IMAGES,
    "detached heads": {"grad_heads": ["reward"], "loss_scales.kl": 0.1} | NO_IMAGES,
}
ACTOR_VARIANTS = {
    "reinforce": ({}, True),
    "dynamics": ({}, False),
    "straight-through dynamics": ({"actor_grad": "dynamics"}, True),
    "both": ({"actor_grad": "both", "actor_grad_mix": 0.4}, False),
    "both, discrete": ({"actor_grad": "both", "actor_grad_mix": 0.4}, True),
    "no discount head": ({"pred_discount": False, "grad_heads": ["decoder", "reward"]}, False),
}


def check_directions(function, weights, gradients, eps=1e-5):
    """Compare g.d with a central difference, along a random direction d for every variable.

    Each must agree to 1e-6 of |g|, the error that eps^2 and rounding leave.
    """
    frozen, rng = Frozen(), np.random.default_rng(0)
    function(weights, frozen)
    moved = 0
    for name, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            frozen.replay()
            ends.append(function(weights | {name: weights[name] + sign * eps * direction}, frozen))
        quotient, size = (ends[0] - ends[1]) / (2 * eps), np.linalg.norm(gradient)
        error = abs(quotient - (gradient * direction).sum())
        assert error <= 1e-6 * max(1, size), (
            f"{name}: {(gradient * direction).sum()}, not {quotient}"
        )
        moved += size > 0
    assert moved >= len(gradients) * 0.8, "most weights must have a gradient"


@pytest.mark.parametrize("variant", MODEL_VARIANTS)
def test_gradient_of_the_model_loss(variant):
    config = small_config(MODEL_VARIANTS[variant])
    model, raw = make_model(config), make_batch(batch=2, length=3)
    shapes = {key: shape or (1,) for key, shape in SHAPES.items()}
    noise, start = model.noise(2, 3, SEED), random_start(model, 2)
    data = model.preprocess(tensors_of(raw))
    variables = named_variables(model)

    def gradients():
        with recording(model) as tape:
            loss = model.loss(data, start, noise)[0]
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    args = (preprocess(raw, SHAPES, config), shapes, config, *numpy_of((noise, start)))
    check_directions(
        lambda weights, sg: model_loss(weights, *args, sg=sg)["total"],
        weights_of(model),
        numpy_of(gradients()),
    )


SLOW = pytest.mark.slow
QUICK_IN_A_GRAPH = ("images", "Gaussian ensemble")


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=() if v in QUICK_IN_A_GRAPH else SLOW) for v in MODEL_VARIANTS],
)
def test_gradients_are_the_same_in_a_graph(variant):
    """The loop over time in Python, as `jit: False` runs it, and in a graph."""
    model = make_model(small_config(MODEL_VARIANTS[variant]))
    data = model.preprocess(tensors_of(make_batch(batch=2, length=3)))
    noise, start = model.noise(2, 3, SEED), random_start(model, 2)

    def gradients():
        with recording(model) as tape:
            loss = model.loss(data, start, noise)[0]
        return tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")

    for one, other in zip(gradients(), tf.function(gradients)(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def imagination_case(change, discrete):
    """Model, behavior and inputs of an imagined update of six start states."""
    config = small_config({"imag_horizon": 3, "actor_ent": 0.1}, change)
    model = make_model(config, shapes={"position": (3,)}, actions=3)
    behavior = make_behavior(config, model, discrete)
    rng = np.random.default_rng(3)
    stoch = np.eye(4)[rng.integers(0, 4, (6, 3))]
    start = {"deter": tf.constant(rng.normal(size=(6, 6))), "stoch": tf.constant(stoch)}
    terminal = tf.constant([False, True, False, False, False, False])
    return config, model, behavior, start, terminal


@pytest.mark.parametrize("variant", ACTOR_VARIANTS)
def test_gradient_of_the_actor_loss(variant):
    change, discrete = ACTOR_VARIANTS[variant]
    config, model, behavior, start, terminal = imagination_case(change, discrete)
    noise = model.imagination_noise(6, behavior.discrete, SEED)
    variables = named_variables(behavior.actor)

    def gradients():
        with recording(behavior.actor) as tape:
            seq = model.imagine(behavior.policy, start, terminal, noise)
            target, value = behavior.target(seq, model.imagined_reward(seq))
            loss, _ = behavior.actor_loss(seq, target, value, STEP)
        return tape.gradient(loss, variables)

    args = numpy_of((start, terminal, noise))
    config = config.update({"reward_norm.eps": 0.0})  # as above, where nothing is normalized
    check_directions(
        lambda weights, sg: behave(weights, config, discrete, *args, sg=sg)["actor_loss"],
        weights_of(model, behavior),
        numpy_of(tf.function(gradients)() if "dynamics" in variant else gradients()),
    )


def test_the_update_steps_along_these_gradients():
    """With sgd, lr 1 and nothing else, the actor's change is minus the gradient of its loss."""
    plain = {"opt": "sgd", "lr": 1.0, "clip": 0.0, "wd": 0.0}
    change = {"actor_opt": plain, "critic_opt": plain, "reward_norm.eps": 0.0}
    for variant in ("reinforce", "dynamics"):
        discrete = ACTOR_VARIANTS[variant][1]
        config, model, behavior, start, terminal = imagination_case(change, discrete)
        noise = model.imagination_noise(6, behavior.discrete, SEED)
        before, args = weights_of(model, behavior), numpy_of((start, terminal, noise))
        batched = {key: value[:, None] for key, value in start.items()}
        behavior.update(model, batched, terminal[:, None], model.imagined_reward, SEED, STEP)
        after = weights_of(model, behavior)
        for part in ("actor", "critic"):
            names = [key for key in before if key.startswith(f"task/{part}/")]
            check_directions(
                lambda weights, sg: behave(weights, config, discrete, *args, sg=sg)[f"{part}_loss"],  # noqa: B023
                before,
                {name: before[name] - after[name] for name in names},
            )
