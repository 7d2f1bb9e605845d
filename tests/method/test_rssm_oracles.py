import numpy as np
import pytest
import tensorflow as tf
from numpy_rssm import NumpyRSSM
from small_models import (
    GAUSSIAN,
    LAYER_NORM,
    assert_close,
    in_types,
    numpy_of,
    randomize,
    small_config,
    weights_of,
)

from dreamerv2.common.nn.variables import Init
from dreamerv2.rssm import RSSM

EMBED, ACTIONS = 5, 3
VARIANTS = {
    "categorical": {},
    "with layer norm": LAYER_NORM,
    "Gaussian": GAUSSIAN,
    "Gaussian, sigmoid": GAUSSIAN | {"rssm.std_act": "sigmoid", "rssm.min_std": 0.3},
    "Gaussian, softplus": GAUSSIAN | {"rssm.std_act": "softplus"},
    "ensemble": {"rssm.ensemble": 3},
    "Gaussian ensemble": GAUSSIAN | {"rssm.ensemble": 2},
}
# At the start, at the end and twice in a row, in each sequence another way.
RESETS = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], bool)


class Case:
    """An RSSM with random weights, its oracle, and random inputs."""

    def __init__(self, change, dtype="float64"):
        self.config = small_config(change).rssm
        init = Init(np.random.default_rng(0), dtype) / "world_model/rssm"
        self.rssm = RSSM(init, EMBED, ACTIONS, self.config)
        randomize(self.rssm, np.random.default_rng(1))
        self.oracle = NumpyRSSM(weights_of(self.rssm), self.config)
        rng, size = np.random.default_rng(2), RESETS.shape
        self.embed = tf.constant(rng.normal(size=(*size, EMBED)), dtype)
        self.action = tf.constant(rng.normal(size=(*size, ACTIONS)), dtype)
        self.noise = {
            "post": tf.constant(rng.uniform(size=(*size, self.config.stoch)), dtype),
            "ensemble": tf.constant(rng.uniform(size=size[1]), "float32"),
        }
        zero = self.rssm.initial(size[0])
        values = {key: rng.normal(size=value.shape) for key, value in zero.items()}
        self.start = {key: tf.constant(values[key], zero[key].dtype) for key in zero}

    def observe(self):
        args = (self.embed, self.action, RESETS, self.noise, self.start)
        return self.rssm.observe(*args[:2], tf.constant(RESETS), *args[3:]), (
            self.oracle.observe(*numpy_of(args))
        )


@in_types(VARIANTS, "categorical", "Gaussian", "ensemble")
def test_posterior_and_prior_of_a_sequence(variant, dtype):
    case = Case(VARIANTS[variant], dtype)
    actual, expected = case.observe()
    for name, states, oracle in zip(("posterior", "prior"), actual, expected, strict=True):
        for key in oracle:
            assert_close(states[key], oracle[key], f"{name} {key}")


@pytest.mark.parametrize("variant", ["categorical", "with layer norm", "Gaussian"])
def test_acting_filters_as_training_does(variant):
    """Single posterior steps, as an agent takes them, give the states of the whole sequence."""
    case = Case(VARIANTS[variant])
    post, _ = case.observe()[0]
    state = case.start
    for t in range(RESETS.shape[1]):
        noise = case.noise["post"][:, t]
        inputs = (case.action[:, t], case.embed[:, t], tf.constant(RESETS[:, t]), noise)
        state = case.rssm.obs_step(state, *inputs)
        for key in state:
            assert_close(state[key], post[key][:, t], f"{key} at step {t}")


@in_types(VARIANTS, "categorical", "Gaussian", "ensemble")
def test_prior_steps_and_open_loop(variant, dtype):
    case = Case(VARIANTS[variant], dtype)
    noise = {"prior": case.noise["post"], "ensemble": case.noise["ensemble"]}
    states = case.rssm.imagine(case.action, noise, case.start)
    start, action, noise = numpy_of((case.start, case.action, noise))
    for b in range(len(action)):
        state = {key: value[b] for key, value in start.items()}
        for t in range(action.shape[1]):
            u, pick = noise["prior"][b, t], noise["ensemble"][t]
            state = case.oracle.img_step(state, action[b, t], u, pick)
            for key in state:
                assert_close(states[key][b, t], state[key], f"imagined {key}")


def test_without_noise_the_posterior_takes_its_mode():
    case = Case({})
    inputs = (case.start, case.action[:, 0], case.embed[:, 0], tf.constant([False] * 3))
    state = case.rssm.obs_step(*inputs, None)
    best = np.eye(4)[np.argmax(state["logit"], -1)]
    assert_close(state["stoch"], best, "mode of the classes")
    case = Case(GAUSSIAN)
    state = case.rssm.obs_step(case.start, *inputs[1:], None)
    assert_close(state["stoch"], state["mean"], "mode of the normal")
