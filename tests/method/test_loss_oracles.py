import itertools

import numpy as np
import numpy_behavior as oracle
import pytest
import tensorflow as tf
from numpy_model import balanced_kl
from numpy_rssm import NumpyRSSM
from small_models import GAUSSIAN, assert_close, small_config

from dreamerv2 import losses
from dreamerv2.common.nn import dists

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
SIZES = pytest.mark.parametrize("size", [(5, 4), (1, 1), (15, 2), (2, 7)])


def latent_states(dtype, discrete, seed, shape=(3, 4)):
    """Parameters of random latent states and the function that makes them a distribution."""
    rng = np.random.default_rng(seed)
    if discrete:
        state = {"logit": rng.normal(size=(*shape, 3, 5))}
    else:
        mean, std = rng.normal(size=(*shape, 6)), rng.uniform(0.3, 1.5, (*shape, 6))
        state = {"mean": mean, "std": std}
    return state, {key: tf.constant(value, dtype) for key, value in state.items()}, dist


def dist(state):
    """Distribution of a latent state, one event per state."""
    if "logit" in state:
        return dists.OneHot(state["logit"], event=1)
    return dists.Normal(state["mean"], state["std"], 1)


@DTYPES
@pytest.mark.parametrize("discrete", [True, False], ids=["categorical", "Gaussian"])
@pytest.mark.parametrize(
    ("balance", "forward", "free_avg"),
    [*itertools.product([0.8, 0.5, 0.0, 1.0], [False, True], [False, True])],
)
def test_kl_balance(balance, forward, free_avg, discrete, dtype):
    arrays, post, dist = latent_states(dtype, discrete, 0)
    prior_arrays, prior, _ = latent_states(dtype, discrete, 1)
    config = small_config({} if discrete else GAUSSIAN)
    rssm = NumpyRSSM({}, config.rssm)
    plain = (rssm.kl(prior_arrays, arrays) if forward else rssm.kl(arrays, prior_arrays)).ravel()
    # Below every KL, between them (both below and above their mean), above every KL
    for free in (0.0, plain.min(), np.sort(plain)[3], plain.mean() * 1.1, plain.max() + 1):
        options = {"balance": balance, "forward": forward, "free_avg": free_avg, "free": free}
        loss, value = losses.kl_balance(post, prior, dist, **options)
        change = {f"kl.{key}": option for key, option in options.items()}
        expected = balanced_kl(rssm, arrays, prior_arrays, config.update(change).kl)
        assert_close(loss, expected[0], f"KL loss with {free} free nats")
        assert_close(value, expected[1], "KL per state")


def returns_case(size, dtype, seed=0):
    rng = np.random.default_rng(seed)
    horizon, batch = size
    arrays = (
        rng.normal(size=size),
        rng.normal(size=(horizon + 1, batch)),
        rng.uniform(0, 1, size) * (rng.uniform(size=size) < 0.9),
    )
    return arrays, [tf.constant(x, dtype) for x in arrays]


@DTYPES
@SIZES
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_lambda_return_is_its_recursion(size, lambda_, dtype):
    arrays, tensors = returns_case(size, dtype)
    actual = losses.lambda_return(*tensors, lambda_)
    assert_close(actual, oracle.lambda_returns(*arrays, lambda_), "lambda-return")


def test_lambda_return_by_hand():
    """H = 2, lambda 0.5, d = 0.5: V_1 = 2 + 0.5 * 8 = 6; V_0 = 1 + 0.5 * (0.5 * 4 + 0.5 * 6)."""
    reward, value = tf.constant([[1.0], [2.0]]), tf.constant([[9.0], [4.0], [8.0]])
    result = losses.lambda_return(reward, value, tf.fill((2, 1), 0.5), 0.5)
    assert result.numpy().ravel().tolist() == [3.5, 6.0]


@DTYPES
@SIZES
def test_imagination_weights(size, dtype):
    (_, _, discount), (_, _, tensor) = returns_case(size, dtype)
    weights = losses.imagination_weights(tensor)
    assert_close(weights, oracle.trajectory_weights(discount), "product of earlier discounts")
    assert np.all(np.asarray(weights)[0] == 1), "the start state weighs one"


@DTYPES
@pytest.mark.parametrize("rho", [1.0, 0.0, 0.3], ids=["reinforce", "dynamics", "both"])
def test_actor_loss(rho, dtype):
    rng = np.random.default_rng(0)
    logp, entropy, target, baseline = rng.normal(size=(4, 6, 5))
    weight, eta = rng.uniform(size=(6, 5)), 0.7
    objective = rho * logp * (target - baseline) + (1 - rho) * target + eta * entropy
    args = [tf.constant(x, dtype) for x in (entropy, target, baseline, weight)]
    loss = losses.actor_loss(tf.constant(logp, dtype), *args, rho, eta)
    assert_close(loss, -(weight * objective).mean(), "actor loss")
    if rho == 0:
        assert_close(losses.actor_loss(None, *args, rho, eta), loss, "no log_prob")


@DTYPES
@SIZES
def test_critic_loss(size, dtype):
    rng = np.random.default_rng(0)
    mean, target, weight = rng.normal(size=(3, *size))
    expected = (weight * (0.5 * (mean - target) ** 2 + 0.5 * np.log(2 * np.pi))).mean()
    mean, target, weight = (tf.constant(x, dtype) for x in (mean, target, weight))
    loss = losses.critic_loss(dists.Normal(mean, 1.0, 0), target, weight)
    assert_close(loss, expected, "weighted squared error")
