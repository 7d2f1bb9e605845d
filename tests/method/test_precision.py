"""The same update in other types and compiled in other ways."""

import re

import numpy as np
import pytest
import tensorflow as tf
from small_agents import batches, build, largest_difference, train
from small_models import (
    SHAPES,
    VECTORS,
    make_batch,
    make_behavior,
    make_model,
    random_start,
    small_config,
    tensors_of,
)

from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn import device, dists
from dreamerv2.common.nn.dists import fold, uniform
from dreamerv2.common.nn.nets import Head
from dreamerv2.common.nn.optim import recording
from dreamerv2.common.nn.variables import Init, named_variables

SEED = tf.constant([1, 2], tf.int32)
TINY = {r".*\.layers": 1, r".*mlp_layers": [4]}
# Relative; a rounded logit changes about one sample in a thousand, which costs most of this.
TOLERANCES = {"float16": 0.01, "bfloat16": 0.05}


def model_metrics(dtype):
    """Losses of one model, with one set of weights, on one batch."""
    wider = {"rssm": {"hidden": 32, "deter": 32, "stoch": 8, "discrete": 8}}
    config = small_config(wider)
    model = make_model(config, dtype)
    for variable in model.trainable_variables:
        variable.assign(variable / 2)
    (raw,) = batches(1, SHAPES, batch=8, length=10)
    data, noise = model.preprocess(tensors_of(raw)), model.noise(8, 10, SEED)
    total, _, outputs, metrics = model.loss(data, random_start(model, 8), noise)
    assert all(value.dtype.size >= 4 for value in metrics.values()), "a loss in low precision"
    return {key: float(value) for key, value in (metrics | {"total": total}).items()}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_low_precision_losses_agree_with_float32(dtype):
    reference, actual = model_metrics("float32"), model_metrics(dtype)
    for key, value in reference.items():
        error = abs(actual[key] - value) / max(abs(value), 0.1)
        assert error <= TOLERANCES[dtype], f"{key} in {dtype}: {actual[key]}, not {value}"
    assert actual != reference, "nothing was computed in low precision"


@pytest.mark.parametrize("precision", ["16", "bfloat16"])
def test_an_agent_learns_in_low_precision(precision):
    agent = build({"precision": precision, "jit": False})
    before = {k: v.numpy() for k, v in named_variables(agent).items()}
    (metrics,), state = train(agent, batches(1))
    assert all(np.isfinite(value) for value in metrics.values())
    assert ("model_loss_scale" in metrics) == (precision == "16"), "only float16 is scaled"
    assert state["deter"].dtype == agent.dtype and state["logit"].dtype == tf.float32
    trained = [v for v in agent.trainable_variables if "slow" not in v.name]
    assert all(v.dtype == tf.float32 for v in trained), "weights are kept in float32"
    for variable in trained:
        moved = not np.array_equal(variable, before[variable.name[:-2]])
        assert moved, f"{variable.name} was not updated"


@pytest.fixture(scope="module")
def compiled():
    """Metrics of three updates of the agent as it is by default, and the agent."""
    agent = build(shapes=SHAPES)
    rows, _ = train(agent, batches(3, SHAPES))
    return agent, rows


def test_compiled_or_line_by_line_is_the_same_update(compiled):
    agent = build({"jit": False}, shapes=SHAPES)
    rows, _ = train(agent, batches(2, SHAPES))
    assert largest_difference(rows, compiled[1][:2]) < 1e-4, "jit False computes something else"


def test_an_update_is_traced_once(compiled):
    agent, _ = compiled
    _, state = train(agent, batches(1, SHAPES), step=10)
    train(agent, batches(2, SHAPES, seed=5), state, step=20)
    assert len(agent._update.graphs) == 1


@pytest.mark.parametrize("discrete", [True, False])
def test_compiled_or_line_by_line_is_the_same_action(discrete):
    """In float32 the policy is compiled by XLA, on a CPU too."""
    change = {"expl_noise": 0.3}
    one, two = build(change, discrete=discrete), build(change, {"jit": False}, discrete=discrete)
    raw = batches(1, discrete=discrete)[0]
    states = [None, None]
    for step in range(5):
        obs = {key: value[:2, step] for key, value in raw.items()}
        for mode in ("train", "eval"):
            acted = [a.policy(obs, s, step, mode) for a, s in zip((one, two), states, strict=True)]
            (left, _), (right, _) = acted
            assert np.allclose(left["action"], right["action"], atol=1e-5), f"{mode}, step {step}"
        states = [state for _, state in acted]
        deter = [latent["deter"].numpy() for latent, _ in states]
        assert np.allclose(*deter, atol=1e-5) and np.abs(deter[0]).max() > 0.01


def test_acting_is_compiled_once_per_mode_and_refuses_actions_that_are_not_finite(compiled):
    agent, _ = compiled
    obs = {key: value[:2, 0] for key, value in batches(1, SHAPES)[0].items()}
    for mode in ("train", "eval"):
        state = None
        for step in range(3):
            action, state = agent.policy(obs, state, step, mode)
        assert action["action"].shape == (2, 3) and action["action"].dtype == np.float32
    assert len(agent._act.graphs) == 2
    obs["position"] = obs["position"] * np.nan
    with pytest.raises(UserError, match="finite in float32: look for very large observations.$"):
        agent.policy(obs)


def test_noise_does_not_depend_on_how_it_is_compiled():
    def draw(seed):
        return uniform((50, 7), fold(seed, 3))

    ways = draw, tf.function(draw), tf.function(draw, jit_compile=True)
    for stream in (1, 75161150, 2**31 - 1):  # folding the first two gives a negative number
        one, two, three = (way(tf.constant([stream, 1], tf.int32)).numpy() for way in ways)
        assert np.array_equal(one, two) and np.array_equal(one, three), "other numbers"
        assert one.min() >= 0 and one.max() < 1 and abs(one.mean() - 0.5) < 0.05
    one, two = dists.draw(SEED, one=(5,), two=(5,)).values()
    assert not np.array_equal(one, two), "uses share noise"


@pytest.mark.slow
def test_xla_computes_the_same_update(monkeypatch):
    """On a GPU the update is compiled by XLA; here the same compilation for the CPU.

    With both gradients of the actor, so that the whole way through the dynamics is compiled.
    """
    tiny = TINY | {"imag_horizon": 2, "actor_grad": "both", r"(actor|critic)_opt\.opt": "sgd"}
    data = batches(2, VECTORS)
    plain, _ = train(build(tiny, {"jit": False}), data)
    monkeypatch.setattr(device, "gpus", lambda: ["a GPU"])
    rows, _ = train(build(tiny), data)
    assert largest_difference(rows, plain) < 1e-4, "XLA computes something else"


@pytest.mark.slow
def test_xla_knows_how_many_steps_each_loop_over_time_has():
    """Otherwise a GPU reports back to the host after every step whether there is another."""
    model = make_model(small_config(TINY), "float32", VECTORS)
    data = model.preprocess(tensors_of(make_batch(VECTORS, 2, 9)))
    start, noise = random_start(model, 2), model.noise(2, 9, SEED)

    def learn(start, noise):
        with recording(model.rssm) as tape:
            loss = model.loss(data, start, noise)[0]
        return tape.gradient(loss, model.rssm.trainable_variables)

    assert trips(learn, start, noise) == ["9", "9"], "filtering forwards, and its gradient"
    start = {key: start[key] for key in ("deter", "stoch")}
    policy, noise = (
        make_behavior(model.config, model).policy,
        model.imagination_noise(2, True, SEED, 7),
    )

    def imagine(start, noise):
        return model.imagine(policy, start, tf.zeros(2, bool), noise)

    assert trips(imagine, start, noise) == ["7"], "imagination"


def trips(function, *args):
    """Of every loop of a function under XLA the number of its steps; None if XLA does not know."""
    function = tf.function(function, jit_compile=True, autograph=False)
    text = function.experimental_get_compiler_ir(*args)(stage="optimized_hlo")
    loops = [line for line in text.splitlines() if " while(" in line]
    found = [re.search(r'"known_trip_count":{"n":"(\d+)"}', line) for line in loops]
    return [match and match[1] for match in found]


def test_the_actor_is_scored_on_the_very_actions_it_chose():
    """Rounded to bfloat16, an action near 1 becomes 1, whose log-probability is another one."""
    model = make_model(small_config(), "bfloat16")
    start = {k: v for k, v in random_start(model, 6).items() if k in ("deter", "stoch")}
    noise = model.imagination_noise(6, False, SEED)
    size = model.rssm.feat_size
    std = tf.constant(0.3)
    weights = tf.constant(np.random.default_rng(0).normal(size=(size, model.actions)), tf.float32)

    def policy(feat):
        return dists.TanhNormal(tf.cast(feat, tf.float32) @ weights, std)

    seq = model.imagine(policy, start, tf.zeros(6, bool), noise)
    chosen = policy(seq["feat"][0]).sample(noise["action"][0])
    np.testing.assert_array_equal(seq["action"][1], chosen)


def test_a_head_predicts_more_finely_than_bfloat16():
    """A value of 5 rounded to bfloat16 is off by up to 1/64, more than many an action is worth."""
    config = Config({"layers": 2, "units": 16, "act": "elu", "norm": "none", "dist": "mse"})
    head = Head(Init(np.random.default_rng(0), tf.bfloat16), 8, (), config)
    feat = tf.constant(np.random.default_rng(1).normal(size=(100, 8)), tf.bfloat16)
    value = head(feat).mode()
    rounded = tf.cast(tf.cast(value, tf.bfloat16), tf.float32)
    assert np.mean(value.numpy() != rounded.numpy()) > 0.9, "the last layer was rounded to 8 bits"


def test_no_variable_is_int32():
    """TensorFlow keeps those on the host, out of reach of a function compiled for a GPU."""
    changes = {"precision": "16", "jit": False, "expl_behavior": "plan2explore"}
    kinds = {variable.dtype for variable in build(changes).variables}
    assert tf.int64 in kinds and tf.int32 not in kinds


def test_one_overflow_poisons_no_later_update():
    """A number that float16 cannot hold: its update may be skipped, those after it take place."""
    agent = build({"precision": "16", "jit": False, "reward_norm": {"momentum": 0.9}})
    data = batches(8)
    for number, batch in enumerate(data):
        batch["is_first"][:] = False
        # The state before a sequence begins may be anything, also NaN.
        batch["is_first"][:, 0] = number == 3
    data[1]["position"][0, 2] = 1e5
    state = None
    for number, batch in enumerate(data):
        state, metrics = agent.train(batch, state)
        assert all(np.isfinite(value).all() for value in state.values()), "NaN is carried on"
        if number == 2:
            state = tf.nest.map_structure(lambda x: x * np.nan, state)
    assert all(float(metrics[f"{k}_finite"]) for k in ("model", "actor", "critic")), "still NaN"
    assert np.isfinite(agent.task_behavior.reward_norm.mag.numpy())
