"""ELU, the bias before it, and their gradients in bfloat16 on a CPU: exact sums, few passes.

TensorFlow takes a pass over memory for each that oneDNN does not fuse. Where tensors are large, XLA
joins them and computes in float32; docs/performance.md has what it is worth. In float32 there is
nothing to gain. And TensorFlow adds up the gradient of a bias in bfloat16, where 4,096 ones are
256; here it is added up in float32.
"""

import math

import tensorflow as tf

from dreamerv2.common.nn.tfutils import gpus, wide


def elu(x: tf.Tensor) -> tf.Tensor:
    """x where it is positive, else exp(x) - 1."""
    return _elu(x) if _worth(x) else tf.nn.elu(x)


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """[N, D], [D] -> [N, D]."""
    return _add_bias(x, bias) if _bfloat16_on_a_cpu(x) else tf.nn.bias_add(x, bias)


def elu_of_sum(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """ELU of x + bias, for an x that comes from an operation into which oneDNN cannot fuse both."""
    return _elu_of_sum(x, bias) if _worth(x) else tf.nn.elu(add_bias(x, bias))


def _bfloat16_on_a_cpu(x: tf.Tensor) -> bool:
    return x.dtype == tf.bfloat16 and not gpus()


def _worth(x: tf.Tensor) -> bool:
    # A smaller tensor is finished in the time that the call of an XLA function takes.
    large = x.shape.is_fully_defined() and x.shape.num_elements() >= 2**20
    return _bfloat16_on_a_cpu(x) and large and not tf.executing_eagerly()


@tf.custom_gradient
def _elu(x: tf.Tensor):
    y = tf.nn.elu(x)  # TensorFlow fuses it with the product before it
    return y, lambda upstream: _elu_gradient(upstream, y)


@tf.custom_gradient
def _add_bias(x: tf.Tensor, bias: tf.Tensor):
    return tf.nn.bias_add(x, bias), lambda upstream: (upstream, _bias_gradient(upstream))


@tf.custom_gradient
def _elu_of_sum(x: tf.Tensor, bias: tf.Tensor):
    y = _sum_and_elu(x, bias)

    def grad(upstream):
        to_x = _elu_gradient(upstream, y)
        return to_x, _bias_gradient(to_x)

    return y, grad


@tf.function(jit_compile=True, autograph=False)
def _sum_and_elu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    y = wide(x) + wide(bias)
    # expm1 takes twice the time; near 0 two terms of its series are as exact as bfloat16.
    negative = tf.where(y > -0.01, y + 0.5 * y**2, tf.exp(y) - 1)
    return tf.cast(tf.where(y > 0, y, negative), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _elu_gradient(upstream: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    slope = tf.where(y > 0, 1.0, wide(y) + 1)
    return tf.cast(wide(upstream) * slope, y.dtype)


def _bias_gradient(upstream: tf.Tensor) -> tf.Tensor:
    """Sum over all axes but the last, rounded once."""
    if not _worth(upstream):
        return tf.reduce_sum(upstream, tuple(range(upstream.shape.rank - 1)))
    return tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=_add_eighths(upstream)), upstream.dtype)


@tf.function(jit_compile=True, autograph=False)
def _add_eighths(x: tf.Tensor) -> tf.Tensor:
    """Add up eight parts of the rows, or four, two or one: [..., D] -> float32 [rows / 8, D]."""
    # XLA adds whole tensors quickly, and sums over an axis that is not the last slowly.
    rows = math.prod(x.shape[:-1])
    parts = tf.reshape(x, (math.gcd(rows, 8), -1, x.shape[-1]))
    return tf.add_n([wide(part) for part in tf.unstack(parts)])
