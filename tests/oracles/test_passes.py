"""ELU and biases in bfloat16: large tensors take passes by XLA, with the same results."""

import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.common import passes

UNIT = 2.0**-8  # of bfloat16: the distance of 1 from the next number


@pytest.fixture
def by_xla(monkeypatch):
    """The names of the passes by XLA that were made."""
    made = []

    def noted(name):
        original = getattr(passes, name)

        def note(*args):
            made.append(name)
            return original(*args)

        return note

    for name in ("_sum_and_elu", "_elu_gradient", "_add_eighths"):
        monkeypatch.setattr(passes, name, noted(name))
    return made


def numbers(shape, dtype="bfloat16"):
    """Normal numbers of many magnitudes, rounded to the type."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 2, shape)
    return tf.constant(x, dtype)


def solve(function, *inputs):
    """Result and gradients of a compiled function, in float64."""

    @tf.function
    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        pull = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7 - 2, y.shape), y.dtype)
        return y, *tape.gradient(y, inputs, pull)

    return [np.asarray(x, np.float64) for x in run(*inputs)]


def expected(x, bias):
    """ELU of x + bias and its gradients for the pull of `solve`, in float64."""
    x, bias = np.asarray(x, np.float64), np.asarray(bias, np.float64)
    y = np.where(x + bias > 0, x + bias, np.expm1(np.minimum(x + bias, 0)))
    pull = (np.arange(y.size) % 7 - 2).reshape(y.shape)
    to_x = pull * np.where(y > 0, 1, y + 1)
    return y, to_x, to_x.sum(tuple(range(y.ndim - 1)))


SHAPES = pytest.mark.parametrize("shape", [(2048, 512), (37, 29, 31, 33), (3, 700, 500)])


@SHAPES
def test_elu_of_a_sum_in_one_pass(shape, by_xla):
    x, bias = numbers(shape), numbers(shape[-1:])
    y, to_x, to_bias = solve(passes.elu_of_sum, x, bias)
    assert by_xla == ["_sum_and_elu", "_elu_gradient", "_add_eighths"]
    want_y, want_x, want_bias = expected(x, bias)
    np.testing.assert_allclose(y, want_y, rtol=UNIT, atol=1e-7, err_msg="elu(x + b)")
    np.testing.assert_allclose(to_x, want_x, rtol=UNIT, atol=2 * UNIT, err_msg="dx")
    scale = np.abs(want_bias).max()
    np.testing.assert_allclose(to_bias, want_bias, rtol=UNIT, atol=UNIT * scale, err_msg="db")


@SHAPES
def test_bias_and_elu_one_after_the_other(shape, by_xla):
    x, bias = numbers(shape), numbers(shape[-1:])
    y, to_x, to_bias = solve(lambda x, bias: passes.elu(passes.add_bias(x, bias)), x, bias)
    assert by_xla == ["_elu_gradient", "_add_eighths"], "the product before fuses bias and ELU"
    want_y, want_x, want_bias = expected(x, bias)
    # TensorFlow rounds x + b, exp(x + b) and the difference from 1.
    np.testing.assert_allclose(y, want_y, rtol=3 * UNIT, atol=UNIT, err_msg="elu(x + b)")
    np.testing.assert_allclose(to_x, want_x, rtol=3 * UNIT, atol=5 * UNIT, err_msg="dx")
    scale = np.abs(want_bias).max()
    np.testing.assert_allclose(to_bias, want_bias, rtol=UNIT, atol=UNIT * scale, err_msg="db")


def test_what_is_not_finite_stays_so():
    x = tf.concat([tf.fill([2**19, 3], np.nan), tf.fill([2**19, 3], np.inf)], 0)
    x = tf.cast(tf.concat([x, tf.fill([2**19, 3], -np.inf)], 0), "bfloat16")
    y, to_x, to_bias = solve(passes.elu_of_sum, x, tf.zeros(3, "bfloat16"))
    assert np.isnan(y[: 2**19]).all()
    assert (y[2**19 : 2**20] == np.inf).all()
    assert (y[2**20 :] == -1).all()
    assert np.isnan(to_x[: 2**19]).all()
    assert np.isnan(to_bias).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_small_tensors_and_wide_types_stay_with_tensorflow(dtype, by_xla):
    shape = (300, 50) if dtype == "bfloat16" else (2048, 512)
    x, bias = numbers(shape, dtype), numbers(shape[-1:], dtype)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype != "bfloat16" else {"rtol": 0.05, "atol": 0.02}
    joined = solve(passes.elu_of_sum, x, bias)
    apart = solve(lambda x, bias: passes.elu(passes.add_bias(x, bias)), x, bias)
    assert by_xla == []
    for name, one, other, wanted in zip("y dx db".split(), joined, apart, expected(x, bias)):
        np.testing.assert_array_equal(one, other, f"{name}, joined and apart")
        if name != "db" or dtype != "bfloat16":
            np.testing.assert_allclose(one, wanted, **close, err_msg=name)


def test_a_debugger_steps_through_tensorflows_own_operations(by_xla):
    x = tf.ones((2048, 512), "bfloat16")
    passes.elu(passes.add_bias(x, tf.ones(512, "bfloat16")))
    passes.elu_of_sum(x, tf.ones(512, "bfloat16"))
    assert by_xla == []
