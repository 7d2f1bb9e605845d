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


class Case:
    """An RSSM with random weights, its oracle, and random inputs."""

    def __init__(self, change, dtype="float64", batch=3, length=6):
        self.config = small_config(change).rssm
        init = Init(np.random.default_rng(0), dtype) / "world_model/rssm"
        self.rssm = RSSM(init, EMBED, ACTIONS, self.config)
        randomize(self.rssm, np.random.default_rng(1))
        self.oracle = NumpyRSSM(weights_of(self.rssm), self.config)
        rng, size = np.random.default_rng(2), (batch, length)
        self.embed = tf.constant(rng.normal(size=(*size, EMBED)), dtype)
        self.action = tf.constant(rng.normal(size=(*size, ACTIONS)), dtype)
        self.noise = {
            "post": tf.constant(rng.uniform(size=(*size, self.config.stoch)), dtype),
            "ensemble": tf.constant(rng.uniform(size=length), "float32"),
        }
        zero = self.rssm.initial(batch)
        values = {key: rng.normal(size=value.shape) for key, value in zero.items()}
        self.start = {key: tf.constant(values[key], zero[key].dtype) for key in zero}

    def observe(self, is_first):
        args = (self.embed, self.action, is_first, self.noise, self.start)
        return self.rssm.observe(*args[:2], tf.constant(is_first), *args[3:]), (
            self.oracle.observe(*numpy_of(args))
        )


def resets(pattern, batch=3, length=6):
    if pattern == "random":
        return np.random.default_rng(7).uniform(size=(batch, length)) < 0.4
    flags = np.zeros((batch, length), bool)
    places = {"none": [], "at the start": [0], "at the end": [-1], "twice in a row": [2, 3]}
    places["everywhere"] = range(length)
    flags[:, list(places[pattern])] = True
    return flags


@in_types(VARIANTS, "categorical", "Gaussian", "ensemble")
def test_posterior_and_prior_of_a_sequence(variant, dtype):
    case = Case(VARIANTS[variant], dtype)
    actual, expected = case.observe(resets("random"))
    for name, states, oracle in zip(("posterior", "prior"), actual, expected, strict=True):
        for key in oracle:
            assert_close(states[key], oracle[key], f"{name} {key}")


@pytest.mark.parametrize(
    ("pattern", "batch", "length"),
    [
        *[(name, 3, 6) for name in ("none", "at the start", "at the end", "everywhere")],
        *[("twice in a row", batch, 4) for batch in (1, 2)],
    ],
)
def test_resets_anywhere_in_the_sequence(pattern, batch, length):
    case = Case({}, batch=batch, length=length)
    actual, expected = case.observe(resets(pattern, batch, length))
    for states, oracle in zip(actual, expected, strict=True):
        for key in oracle:
            assert_close(states[key], oracle[key], f"{key} with resets {pattern}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loop_in_a_graph_is_the_loop_line_by_line(variant):
    case = Case(VARIANTS[variant])
    flags = tf.constant(resets("random"))
    args = (case.embed, case.action, flags, case.noise, case.start)
    eager, graph = case.rssm.observe(*args), tf.function(case.rssm.observe)(*args)
    for one, other in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        assert_close(other, one, "tf.while_loop")


@pytest.mark.parametrize("variant", ["categorical", "with layer norm", "Gaussian"])
def test_acting_filters_as_training_does(variant):
    """Single posterior steps, as an agent takes them, give the states of the whole sequence."""
    case, flags = Case(VARIANTS[variant]), resets("random")
    post, _ = case.observe(flags)[0]
    state = case.start
    for t in range(flags.shape[1]):
        noise = case.noise["post"][:, t]
        inputs = (case.action[:, t], case.embed[:, t], tf.constant(flags[:, t]), noise)
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
