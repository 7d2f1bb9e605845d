"""Layers as small tf.Module classes with explicit variables, all made in __init__.

Shapes are written with N for any number of leading dimensions unless said otherwise. Each layer
multiplies in `init.dtype`; see tfutils.wide for what stays in float32.
"""

import tensorflow as tf

from dreamerv2.common.nn.passes import add_bias, elu, elu_of_sum
from dreamerv2.common.nn.tfutils import Init, gpus, weight, wide

ACTIVATIONS = {
    "none": tf.identity,
    "elu": elu,
    "relu": tf.nn.relu,
    "selu": tf.nn.selu,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "gelu": tf.nn.gelu,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "softplus": tf.nn.softplus,
    "leaky_relu": tf.nn.leaky_relu,
}


class OneHots(tf.experimental.ExtensionType):
    """Where the ones are in the one-hot groups that the inputs of a layer begin with.

    Their share of x W is a sum of rows of W, one per group.

    Attributes:
        rows: int32 [N, S], of each group the row of W that its one meets.
        size: how many inputs the S groups of C have, S * C.
    """

    rows: tf.Tensor
    size: int

    def __getitem__(self, index) -> "OneHots":
        return OneHots(self.rows[index], self.size)

    @classmethod
    def of(cls, groups: tf.Tensor) -> "OneHots | None":
        """groups [N, S, C], each of them one-hot; None where the plain product is kept."""
        # Measured to be faster on a CPU in float32 only. In a debugger the product is plainer.
        if gpus() or groups.dtype.size < 4 or tf.executing_eagerly():
            return None
        return cls(_hot_rows(groups), groups.shape[-2] * groups.shape[-1])


@tf.function(jit_compile=True, autograph=False)
def _hot_rows(groups: tf.Tensor) -> tf.Tensor:
    count, classes = groups.shape[-2:]
    return tf.argmax(groups, -1, tf.int32) + classes * tf.range(count)


@tf.function(jit_compile=True, autograph=False)
def _add_rows(y: tf.Tensor, kernel: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    # XLA never makes the [N, S, units] of the gathered rows.
    return y + tf.reduce_sum(tf.gather(kernel, rows), -2)


def _one_hot_product(x: tf.Tensor, kernel: tf.Tensor, hot: OneHots) -> tf.Tensor:
    """x W, with the gradients of x W."""

    @tf.custom_gradient
    def product(x, kernel):
        def grad(upstream):
            to_x = tf.matmul(upstream, kernel, transpose_b=True)
            return to_x, tf.matmul(x, upstream, transpose_a=True)

        rest = x[:, hot.size :] @ kernel[hot.size :]
        return _add_rows(rest, kernel, hot.rows), grad

    return product(x, kernel)


class Dense(tf.Module):
    """y = x W + b: [N, inputs] -> [N, units]."""

    def __init__(self, init: Init, inputs: int, units: int):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((inputs, units))
        self.bias = init.fill((units,), 0, "bias")

    def __call__(self, x: tf.Tensor, hot: OneHots | None = None) -> tf.Tensor:
        """x [N, inputs]; where its ones are, if it begins with one-hot groups and N is one axis."""
        if hot is None:
            return self.part(x, 0, self.kernel.shape[0])
        y = _one_hot_product(tf.cast(x, self.dtype), weight(self.kernel, self.dtype), hot)
        return add_bias(y, weight(self.bias, self.dtype))

    def part(self, x: tf.Tensor, start: int, stop: int) -> tf.Tensor:
        """Return x times the rows start..stop of W, plus b: the share of some of the inputs."""
        # On two axes, and as bias_add: TensorFlow then fuses product, bias and activation.
        flat = tf.reshape(tf.cast(x, self.dtype), (-1, x.shape[-1]))
        y = add_bias(flat @ self.rows(start, stop), weight(self.bias, self.dtype))
        return y if x.shape.rank == 2 else tf.reshape(y, (*x.shape[:-1], y.shape[-1]))

    def rows(self, start: int, stop: int) -> tf.Tensor:
        """Return the rows start..stop of W in the compute type."""
        kernel = weight(self.kernel, self.dtype)
        return kernel if stop - start == kernel.shape[0] else kernel[start:stop]


class LayerNorm(tf.Module):
    """Normalizes the last axis to mean 0 and variance 1, then scales and shifts; in float32."""

    def __init__(self, init: Init, size: int):
        super().__init__()
        self.scale = init.fill((size,), 1, "scale")
        self.offset = init.fill((size,), 0, "offset")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(wide(x), -1, keepdims=True)
        scaled = (wide(x) - mean) * tf.math.rsqrt(variance + 1e-3)
        return tf.cast(scaled * self.scale + self.offset, x.dtype)


class NormAct(tf.Module):
    """What follows a linear layer: an optional LayerNorm, then the activation."""

    def __init__(self, init: Init, size: int, norm: str, act: str):
        super().__init__()
        self.norm = LayerNorm(init / "norm", size) if norm == "layer" else tf.identity
        self.act = ACTIVATIONS[act]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.act(self.norm(x))

    def of_sum(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """The same of x + bias, in fewer passes if it is an ELU alone."""
        if self.norm is tf.identity and self.act is elu:
            return elu_of_sum(x, bias)
        return self(add_bias(x, bias))


class GRUCell(tf.Module):
    """The recurrence of the RSSM: [B, inputs], [B, size] -> [B, size].

    One dense layer on [x, h] gives three pre-activations, LayerNorm goes over all 3*size, then
    r = sigmoid(.), c = tanh(r * .), u = sigmoid(. - 1) and h' = u*c + (1-u)*h. The -1 makes a fresh
    cell remember.
    """

    def __init__(self, init: Init, inputs: int, size: int):
        super().__init__()
        self.dense = Dense(init, inputs + size, 3 * size)
        self.norm = LayerNorm(init / "norm", 3 * size)

    def __call__(self, x: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        return self.gates(self.dense(tf.concat([x, state], -1)), state)

    def gates(self, parts: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Pre-activations [B, 3*size], state [B, size] -> next state [B, size]."""
        reset, cand, update = tf.split(self.norm(wide(parts)), 3, -1)
        cand = tf.tanh(tf.sigmoid(reset) * cand)
        update = tf.sigmoid(update - 1)
        return tf.cast(update * cand + (1 - update) * wide(state), state.dtype)
