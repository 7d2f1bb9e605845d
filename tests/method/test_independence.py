"""The rows of a batch do not depend on each other."""

import numpy as np
import tensorflow as tf
from small_models import (
    SHAPES,
    assert_close,
    make_batch,
    make_behavior,
    make_model,
    numpy_of,
    random_start,
    small_config,
    tensors_of,
)

SEED = tf.constant([1, 2], tf.int32)
ORDER = [2, 0, 3, 1]


def run(model, raw, start, noise):
    """Total loss, posterior states, per-state results and gradients."""
    with tf.GradientTape() as tape:
        data = model.preprocess(tensors_of(raw))
        total, post, outputs, _ = model.loss(data, start, noise)
    grads = tape.gradient(total, model.trainable_variables, unconnected_gradients="zero")
    return total, post, outputs, grads


def model_case():
    model = make_model(small_config())
    return model, make_batch(batch=4), random_start(model, 4), model.noise(4, 5, SEED)


def test_permuting_the_batch_permutes_the_results():
    model, raw, start, noise = model_case()
    total, post, outputs, grads = run(model, raw, start, noise)
    moved = run(
        model,
        {key: value[ORDER] for key, value in raw.items()},
        {key: tf.gather(value, ORDER) for key, value in start.items()},
        noise | {"post": tf.gather(noise["post"], ORDER)},
    )
    assert_close(moved[0], total, "total loss")
    for one, other in zip((post, outputs), moved[1:3], strict=True):
        for key in one:
            assert_close(other[key], numpy_of(one[key])[ORDER], f"permuted {key}")
    for one, other in zip(grads, moved[3], strict=True):
        assert_close(other, one, "gradient, a mean over the batch")


def test_a_reset_in_one_row_changes_no_other_row():
    model, raw, start, noise = model_case()
    raw["is_first"][:] = False
    before = run(model, raw, start, noise)
    raw["is_first"][1, 2] = True
    after = run(model, raw, start, noise)
    for one, other in zip(before[1:3], after[1:3], strict=True):
        for key in one:
            left, right = numpy_of((one[key], other[key]))
            rows = [0, 2, 3]
            assert np.array_equal(left[rows], right[rows]), f"{key} of another row changed"
            assert np.array_equal(left[1, :2], right[1, :2]), f"{key} before the reset changed"
    assert not np.allclose(before[1]["deter"][1, 2:], after[1]["deter"][1, 2:])


def test_after_a_reset_nothing_of_the_past_is_left():
    model, raw, start, noise = model_case()
    raw["is_first"][:] = False
    raw["is_first"][:, 2] = True
    before = run(model, raw, start, noise)
    for key in ("action", "image", "wide", "position", "speed", "reward"):
        raw[key][:, :2] = raw[key][:, :2][::-1]
    start = {key: value + 1 for key, value in start.items()}
    raw["action"][:, 2] = 7  # the action of a first row led nowhere
    after = run(model, raw, start, noise)
    for key in before[1]:
        assert np.array_equal(before[1][key][:, 2:], after[1][key][:, 2:]), f"{key} remembers"


def test_the_future_does_not_reach_the_past():
    model, raw, start, noise = model_case()
    before = run(model, raw, start, noise)[1]
    for key in SHAPES:
        raw[key][:, 3:] = raw[key][:, 3:][::-1]
    after = run(model, raw, start, noise)[1]
    for key in before:
        assert np.array_equal(before[key][:, :3], after[key][:, :3]), f"{key} knows the future"
        assert not np.array_equal(before[key][:, 3:], after[key][:, 3:])


def test_a_row_alone_is_the_row_in_a_batch():
    model, raw, start, noise = model_case()
    whole = run(model, raw, start, noise)

    def row(x):
        return x[2:3]

    alone = run(
        model,
        {key: row(value) for key, value in raw.items()},
        {key: row(value) for key, value in start.items()},
        noise | {"post": row(noise["post"])},
    )
    for key in whole[2]:
        assert_close(alone[2][key], row(whole[2][key]), f"{key} of a batch of one")


def test_permuting_the_start_states_permutes_imagination():
    model = make_model(small_config(), shapes={"position": (3,)})
    behavior = make_behavior(model.config, model, discrete=False)
    start, terminal = random_start(model, 4), tf.constant([False, True, False, True])
    start = {key: start[key] for key in ("deter", "stoch")}
    noise = model.imagination_noise(4, behavior.noise_shape, SEED)
    one = model.imagine(behavior.policy, start, terminal, noise)
    moved = {key: tf.gather(noise[key], ORDER, axis=1) for key in ("prior", "action")}
    other = model.imagine(
        behavior.policy,
        {key: tf.gather(value, ORDER) for key, value in start.items()},
        tf.gather(terminal, ORDER),
        noise | moved,
    )
    for key in one:
        assert_close(other[key], numpy_of(one[key])[:, ORDER], f"imagined {key}")
    returns = [behavior.target(seq, model.imagined_reward(seq))[0] for seq in (one, other)]
    assert_close(returns[1], numpy_of(returns[0])[:, ORDER], "lambda-returns")
