"""The faster ways equal the plain operations, results and gradients; the switches leave these."""

import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.common.nn import kernels
from dreamerv2.common.nn.layers import Conv, ConvTranspose, Dense
from dreamerv2.common.nn.variables import Init

UNIT = 2.0**-8  # the largest relative error of rounding to bfloat16
LARGE, SMALL = (2048, 512), (300, 50)  # with XLA, and without


def numbers(shape, dtype="bfloat16"):
    """Normal numbers of many magnitudes, rounded to the type."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 2, shape)
    return tf.constant(x, dtype)


def solve(function, *inputs):
    """Result and gradients of a function, in float64."""

    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        pull = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7 - 2, y.shape), y.dtype)
        return y, *tape.gradient(y, inputs, pull)

    results = tf.function(run, autograph=False)(*inputs)
    return [np.asarray(x, np.float64) for x in results]


def elu_after_bias(x, bias):
    return kernels.elu(kernels.add_bias(x, bias))


def expected(x, bias):
    """ELU of x + bias and its gradients for the pull of `solve`, in float64."""
    x, bias = np.asarray(x, np.float64), np.asarray(bias, np.float64)
    y = np.where(x + bias > 0, x + bias, np.expm1(np.minimum(x + bias, 0)))
    pull = (np.arange(y.size) % 7 - 2).reshape(y.shape)
    to_x = pull * np.where(y > 0, 1, y + 1)
    return y, to_x, to_x.sum(tuple(range(y.ndim - 1)))


@pytest.mark.parametrize("shape", [LARGE, (37, 29, 31, 33), (3, 700, 500), SMALL])
def test_bias_and_elu_in_bfloat16(shape):
    x, bias = numbers(shape), numbers(shape[-1:])
    results, wanted = solve(elu_after_bias, x, bias), expected(x, bias)
    scales = 1, 1, np.abs(wanted[2]).max()
    # TensorFlow rounds x + b, exp(x + b) and the difference from 1.
    for name, one, other, scale in zip(("y", "dx", "db"), results, wanted, scales, strict=True):
        error = {"rtol": 3 * UNIT, "atol": 5 * UNIT * scale, "err_msg": name}
        np.testing.assert_allclose(one, other, **error)


def test_numbers_that_are_not_finite_stay_so():
    x = np.repeat([np.nan, np.inf, -np.inf], 2**19)[:, None] * np.ones(3)
    x = tf.constant(x, "bfloat16")
    y, to_x, to_bias = solve(elu_after_bias, x, tf.zeros(3, "bfloat16"))
    nan, up, down = slice(2**19), slice(2**19, 2**20), slice(2**20, None)
    assert np.isnan(y[nan]).all() and (y[up] == np.inf).all() and (y[down] == -1).all()
    assert np.isnan(to_x[nan]).all() and np.isnan(to_bias).all()
    assert set(np.unique(to_x[up])) == set(range(-2, 5)), "slope 1"
    assert not to_x[down].any(), "slope 0"


LAYERS = {
    "dense": (lambda init: Dense(init, 8, 256), (4096, 8)),
    "convolution": (lambda init: Conv(init, 1, 64, 4), (64, 34, 34, 1)),
    "transposed convolution": (lambda init: ConvTranspose(init, 2, 16, 3), (256, 8, 8, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("way", ["large", "small", "debugger"])
def test_the_gradient_of_a_bias_is_exact(name, way):
    """TensorFlow's own sum of ones ends at 256."""
    make, (count, *shape) = LAYERS[name]
    layer = make(Init(np.random.default_rng(0), "bfloat16") / "part")
    count = count // 2 if way == "small" else count

    def run():
        with tf.GradientTape() as tape:
            y = layer(tf.zeros((count, *shape), "bfloat16"))
        return y, tape.gradient(y, layer.bias, tf.ones_like(y))

    y, gradient = (run if way == "debugger" else tf.function(run, autograph=False))()
    rows = np.prod(y.shape[:-1])
    assert rows > 256
    np.testing.assert_allclose(gradient, np.full(gradient.shape, rows), rtol=UNIT)


def test_one_switch_leaves_the_elu_and_bias_of_tensorflow(monkeypatch):
    monkeypatch.setattr(kernels, "EXACT_BFLOAT16", False)
    x, bias = numbers(LARGE), numbers(LARGE[-1:])
    plain = solve(lambda x, bias: tf.nn.elu(tf.nn.bias_add(x, bias)), x, bias)
    for one, other in zip(solve(elu_after_bias, x, bias), plain, strict=True):
        np.testing.assert_array_equal(one, other)
