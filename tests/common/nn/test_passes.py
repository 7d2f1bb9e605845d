"""ELU and biases in bfloat16: exact sums, and for large tensors passes by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.common.nn import passes
from dreamerv2.common.nn.convolutions import Conv, ConvTranspose
from dreamerv2.common.nn.layers import Dense, NormAct
from dreamerv2.common.nn.tfutils import Init

UNIT = 2.0**-8  # the largest relative error of rounding to bfloat16
PASSES = ("_sum_and_elu", "_elu_gradient", "_add_eighths")


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

    for name in PASSES:
        monkeypatch.setattr(passes, name, noted(name))
    return made


def numbers(shape, dtype="bfloat16"):
    """Normal numbers of many magnitudes, rounded to the type."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 2, shape)
    return tf.constant(x, dtype)


def solve(function, *inputs):
    """Result and gradients of a compiled function, in float64."""

    @tf.function(autograph=False)
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
    assert by_xla == list(PASSES)
    want_y, want_x, want_bias = expected(x, bias)
    np.testing.assert_allclose(y, want_y, rtol=UNIT, atol=1e-7, err_msg="elu(x + b)")
    np.testing.assert_allclose(to_x, want_x, rtol=UNIT, atol=2 * UNIT, err_msg="dx")
    scale = np.abs(want_bias).max()
    np.testing.assert_allclose(to_bias, want_bias, rtol=UNIT, atol=UNIT * scale, err_msg="db")


@SHAPES
def test_bias_and_elu_one_after_the_other(shape, by_xla):
    x, bias = numbers(shape), numbers(shape[-1:])
    y, to_x, to_bias = solve(lambda x, bias: passes.elu(passes.add_bias(x, bias)), x, bias)
    assert by_xla == ["_elu_gradient", "_add_eighths"], "forward, oneDNN may fuse them"
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
    assert set(np.unique(to_x[2**19 : 2**20])) == set(range(-2, 5)), "slope 1"
    assert not to_x[2**20 :].any(), "slope 0"
    assert np.isnan(to_bias).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_small_tensors_and_other_types_stay_with_tensorflow(dtype, by_xla):
    shape = (300, 50) if dtype == "bfloat16" else (2048, 512)
    x, bias = numbers(shape, dtype), numbers(shape[-1:], dtype)
    low = tf.as_dtype(dtype).size < 4
    close = {"rtol": 0.05, "atol": 0.02} if low else {"rtol": 1e-5, "atol": 1e-6}
    joined = solve(passes.elu_of_sum, x, bias)
    apart = solve(lambda x, bias: passes.elu(passes.add_bias(x, bias)), x, bias)
    assert by_xla == []
    wanted = expected(x, bias)
    for name, one, other, want in zip("y dx db".split(), joined, apart, wanted, strict=True):
        np.testing.assert_array_equal(one, other, f"{name}, joined and apart")
        scale = max(1, np.abs(want).max()) if name == "db" else 1
        np.testing.assert_allclose(one / scale, want / scale, **close, err_msg=name)


def test_a_gpu_leaves_them_to_xla(monkeypatch, by_xla):
    monkeypatch.setattr(passes, "gpus", lambda: ["one"])
    solve(passes.elu_of_sum, numbers((2048, 512)), numbers((512,)))
    solve(lambda x, bias: passes.elu(passes.add_bias(x, bias)), numbers((2048, 512)), numbers(512))
    assert by_xla == []


def test_a_debugger_steps_through_tensorflows_own_operations(by_xla):
    x, bias = tf.ones((2048, 512), "bfloat16"), tf.ones(512, "bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(bias)
        y = passes.elu(passes.add_bias(x, bias)) + passes.elu_of_sum(x, bias)
    np.testing.assert_array_equal(tape.gradient(y, bias), np.full(512, 4096))
    assert by_xla == []


LAYERS = {
    "dense": (lambda init: Dense(init, 8, 256), (4096, 8)),
    "convolution": (lambda init: Conv(init, 1, 64, 4), (64, 34, 34, 1)),
    "transposed convolution": (lambda init: ConvTranspose(init, 2, 16, 3), (256, 8, 8, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
def test_the_gradient_of_a_bias_is_exact(name, large, by_xla):
    """TensorFlow's own sum of ones ends at 256."""
    make, (count, *shape) = LAYERS[name]
    layer = make(Init(np.random.default_rng(0), "bfloat16") / "part")
    count = count if large else count // 2

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            y = layer(tf.zeros((count, *shape), "bfloat16"))
        return y, tape.gradient(y, layer.bias, tf.ones_like(y))

    y, gradient = run()
    rows = np.prod(y.shape[:-1])
    assert rows > 256
    np.testing.assert_allclose(gradient, np.full(gradient.shape, rows), rtol=UNIT)
    assert ("_add_eighths" in by_xla) == large


def test_layers_make_these_passes(by_xla):
    init = Init(np.random.default_rng(0), "bfloat16")
    dense, act = Dense(init / "dense", 8, 256), NormAct(init, 256, "none", "elu")
    transposed = ConvTranspose(init / "conv", 2, 16, 3, "none", "elu")

    def trace(call, inputs):
        by_xla.clear()
        inputs = tf.TensorSpec(inputs, tf.bfloat16)
        tf.function(lambda x: tf.gradients(call(x), x), autograph=False).get_concrete_function(
            inputs
        )
        return by_xla

    assert trace(lambda x: act(dense(x)), (4096, 8)) == ["_elu_gradient", "_add_eighths"]
    assert trace(transposed, (256, 8, 8, 2)) == list(PASSES)
