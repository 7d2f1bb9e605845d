import numpy as np
import numpy_layers as oracle
import pytest
import tensorflow as tf
from small_models import assert_close, numpy_of, randomize, small_config, weights_of

from dreamerv2.common.nn import device as devices
from dreamerv2.common.nn import kernels, layers
from dreamerv2.common.nn.nets import Decoder, Encoder
from dreamerv2.common.nn.variables import Init

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def build(kind, dtype, *args):
    """A randomized layer called `part`, and its weights."""
    layer = kind(Init(np.random.default_rng(0), dtype) / "part", *args)
    randomize(layer, np.random.default_rng(1))
    return layer, weights_of(layer)


def tensor(rng, shape, dtype):
    return tf.constant(rng.normal(size=shape), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_dense(dtype, shape):
    layer, weights = build(layers.Dense, dtype, 5, 7)
    x = tensor(np.random.default_rng(2), (2, *shape), dtype)
    assert_close(layer(x), oracle.dense(weights, "part", numpy_of(x)), "Wx + b")


@DTYPES
@pytest.mark.parametrize("shape", [(4,), (4, 5)])
def test_a_share_computed_beforehand_is_part_of_the_product(dtype, shape):
    layer, weights = build(layers.Dense, dtype, 5, 7)
    x = tensor(np.random.default_rng(2), (*shape, 5), dtype)
    first, middle, last = x[..., :2], x[..., 2:4], x[..., 4:]
    expected = oracle.dense(weights, "part", numpy_of(x))
    assert_close(layer(first, middle, last), expected, "W [x, y, z] + b")
    assert_close(layer(first, middle, layer.share(last)), expected, "W [x, y] + (W z + b)")


@DTYPES
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 5)])
def test_layer_norm(dtype, shape):
    layer, weights = build(layers.LayerNorm, dtype, shape[-1])
    x = 3 * tensor(np.random.default_rng(2), shape, dtype) + 1
    assert_close(layer(x), oracle.layer_norm(weights, "part", numpy_of(x)), "layer norm")


@DTYPES
@pytest.mark.parametrize(("batch", "inputs", "size"), [(1, 3, 4), (5, 8, 2), (3, 1, 16)])
def test_gru_cell(dtype, batch, inputs, size):
    layer, weights = build(layers.GRUCell, dtype, inputs, size)
    rng = np.random.default_rng(2)
    x, h = tensor(rng, (batch, inputs), dtype), tensor(rng, (batch, size), dtype)
    expected = oracle.gru(weights, "part", numpy_of(x), numpy_of(h))
    assert_close(layer(x, h), expected, "GRU step")


@DTYPES
@pytest.mark.parametrize(
    ("batch", "size", "inputs", "depth", "kernel"),
    [(2, (8, 8), 1, 3, 4), (1, (9, 6), 2, 5, 3), (3, (5, 5), 4, 2, 5), (1, (4, 4), 3, 2, 4)]
    + [(2, (7, 6), 3, 9, 4), (2, (6, 7), 1, 2, 6), (1, (9, 3), 2, 3, 2)]
    # Large batches of small images are computed another way.
    + [(70, (4, 4), 2, 3, 4), (65, (7, 6), 3, 2, 4), (80, (3, 2), 2, 3, 2), (66, (6, 9), 1, 2, 6)],
)
def test_convolution(dtype, batch, size, inputs, depth, kernel):
    layer, weights = build(layers.Conv, dtype, inputs, depth, kernel)
    x = tensor(np.random.default_rng(2), (batch, *size, inputs), dtype)
    window, bias = weights["part/kernel"], weights["part/bias"]
    expected = oracle.over_images(oracle.conv, numpy_of(x), window, bias)
    assert_close(layer(x), expected, "stride-2 VALID convolution")


@DTYPES
@pytest.mark.parametrize(
    ("batch", "size", "inputs", "depth", "kernel"),
    [(2, (1, 1), 5, 3, 5), (1, (1, 1), 2, 1, 4), (2, (3, 3), 2, 3, 4), (1, (2, 5), 3, 1, 6)]
    + [(2, (3, 2), 2, 9, 4), (1, (2, 3), 2, 3, 5), (3, (1, 2), 4, 1, 2), (70, (2, 3), 2, 9, 4)],
)
def test_transposed_convolution(dtype, batch, size, inputs, depth, kernel):
    layer, weights = build(layers.ConvTranspose, dtype, inputs, depth, kernel)
    x = tensor(np.random.default_rng(2), (batch, *size, inputs), dtype)
    window, bias = weights["part/kernel"], weights["part/bias"]
    expected = oracle.over_images(oracle.conv_transpose, numpy_of(x), window, bias)
    assert_close(layer(x), expected, "stride-2 VALID transposed convolution")


@pytest.mark.parametrize(
    ("kind", "shape", "depth", "kernel"),
    [
        (layers.Conv, (2, 6, 6, 2), 3, 3),
        (layers.Conv, (2, 7, 6, 2), 3, 4),
        (layers.Conv, (1, 9, 8, 2), 3, 4),
        (layers.Conv, (70, 7, 6, 2), 3, 4),
        (layers.Conv, (65, 4, 5, 3), 2, 4),
        (layers.Conv, (66, 9, 8, 2), 3, 4),
        (layers.ConvTranspose, (2, 1, 1, 3), 2, 5),
        (layers.ConvTranspose, (2, 3, 2, 3), 2, 4),
        (layers.ConvTranspose, (1, 2, 2, 3), 9, 4),
        (layers.ConvTranspose, (2, 2, 3, 2), 2, 3),
        (layers.ConvTranspose, (66, 3, 2, 2), 9, 3),
        (layers.ConvTranspose, (65, 2, 3, 1), 8, 4),
    ],
)
@pytest.mark.parametrize("device", ["CPU", "GPU", "switched off"])
def test_gradients_of_convolutions(kind, shape, depth, kernel, device, monkeypatch):
    """By finite differences, for the input, the kernel and the bias; each device has its ways."""
    monkeypatch.setattr(devices, "gpus", lambda: ["a GPU"] * (device == "GPU"))
    monkeypatch.setattr(kernels, "FAST_CONVOLUTIONS", device != "switched off")
    layer, _ = build(kind, "float64", shape[-1], depth, kernel)
    rng = np.random.default_rng(2)
    x = tensor(rng, shape, "float64")
    pull = tensor(rng, layer(x).shape, "float64")

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x) * pull)
        return tape.gradient(value, [x, layer.kernel, layer.bias])

    grads = gradients()
    graph = tf.function(gradients, jit_compile=device == "GPU")
    for eager, compiled in zip(grads, graph(), strict=True):
        assert_close(compiled, eager, "the same gradient in a graph")
    shift = 0.0
    direction = [tensor(rng, grad.shape, "float64") for grad in grads]
    expected = sum(float(tf.reduce_sum(g * d)) for g, d in zip(grads, direction, strict=True))
    ends = []
    for sign in (1e-4, -2e-4):  # linear in each, so that a central difference is nearly exact
        shift = shift + sign * direction[0]
        layer.kernel.assign_add(sign * direction[1])
        layer.bias.assign_add(sign * direction[2])
        ends.append(float(tf.reduce_sum(layer(x + shift) * pull)))
    assert abs((ends[0] - ends[1]) / 2e-4 - expected) < 1e-7 * max(1, abs(expected))


@pytest.mark.parametrize("name", sorted(oracle.ACTIVATIONS))
def test_activations(name):
    x = np.linspace(-4, 4, 41)
    assert_close(layers.ACTIVATIONS[name](tf.constant(x)), oracle.ACTIVATIONS[name](x), name)


@DTYPES
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("keys", [("image", "wide", "position"), ("image",), ("position", "more")])
def test_encoder_and_decoder(dtype, norm, keys):
    config = small_config({r".*\.norm": norm})
    every = {"image": (12, 12, 1), "wide": (12, 12, 2), "position": (3,), "more": (2,)}
    shapes, rng = {key: every[key] for key in keys}, np.random.default_rng(2)
    obs = {key: tensor(rng, (2, 3, *shape), dtype) for key, shape in shapes.items()}
    layer, weights = build(Encoder, dtype, shapes, config.encoder)
    expected = oracle.encoder(weights, "part", numpy_of(obs), shapes, config.encoder)
    assert_close(layer(obs), expected, "embedding")
    assert layer.size == expected.shape[-1], "the encoder announces another size"
    layer, weights = build(Decoder, dtype, 5, shapes, config.decoder)
    feat = tensor(rng, (2, 3, 5), dtype)
    means = oracle.decoder(weights, "part", numpy_of(feat), shapes, config.decoder)
    actual = layer(feat)
    assert set(actual) == set(keys)
    for key in keys:
        assert_close(actual[key].mode(), means[key], f"mean of {key}")


def test_glorot_limits_and_zero_biases():
    init = Init(np.random.default_rng(0), "float64")
    for shape, fans in [((300, 200), 500), ((4, 4, 30, 60), 16 * 90), ((5, 5, 20, 40), 25 * 60)]:
        values = init.glorot(shape).numpy()
        limit = np.sqrt(6 / fans)
        assert 0.99 * limit < np.abs(values).max() <= limit, "Glorot-uniform limit"
        assert abs(values.std() - limit / np.sqrt(3)) < 0.02 * limit, "uniform within the limit"
    assert not layers.Dense(init, 2, 3).bias.numpy().any()
