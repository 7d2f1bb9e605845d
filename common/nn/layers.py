"""Layers as small tf.Module classes with explicit variables, all made in __init__.

Shapes are written with N for any number of leading dimensions unless said otherwise. Each layer
multiplies in `init.dtype`; precision.py says which operations stay in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dreamerv2.common.nn import kernels
from dreamerv2.common.nn.precision import at_least_float32, weight
from dreamerv2.common.nn.recurrence import linear
from dreamerv2.common.nn.variables import Init

ACTIVATIONS = {
    "none": tf.identity,
    "elu": kernels.elu,
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


class Share(NamedTuple):
    """The share of a layer's last inputs in its result, computed beforehand: W_x x."""

    value: tf.Tensor


class Dense(tf.Module):
    """y = W x + b: [N, inputs] -> [N, units]."""

    def __init__(self, init: Init, inputs: int, units: int):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((inputs, units))
        self.bias = init.fill((units,), 0, "bias")

    def __call__(self, *parts: tf.Tensor | Share) -> tf.Tensor:
        """Apply the layer to the concatenation of the parts; the last may be its `share`."""
        *first, last = parts
        if isinstance(last, Share):
            return self._first(first) + last.value
        return self._first(parts)

    def share(self, x: tf.Tensor) -> Share:
        """Multiply the last inputs before the others are known, to leave it out of a loop."""
        kernel = weight(self.kernel, self.dtype)[-x.shape[-1] :]
        return Share(tf.tensordot(tf.cast(x, self.dtype), kernel, 1))

    def _first(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """Multiply the first inputs, or all, with their rows of W, and add b."""
        parts = [tf.cast(part, self.dtype) for part in parts]
        x = parts[0] if len(parts) == 1 else tf.concat(parts, -1)

        def weights():
            kernel, size = weight(self.kernel, self.dtype), x.shape[-1]
            kernel = kernel if size == kernel.shape[0] else kernel[:size]
            return kernel, weight(self.bias, self.dtype)

        # On two axes TensorFlow fuses product, bias and activation.
        y = linear(tf.reshape(x, (-1, x.shape[-1])), weights)
        return y if x.shape.rank == 2 else tf.reshape(y, (*x.shape[:-1], y.shape[-1]))


class LayerNorm(tf.Module):
    """Normalizes the last axis to mean 0 and variance 1, then scales and shifts; in float32."""

    def __init__(self, init: Init, size: int):
        super().__init__()
        self.scale = init.fill((size,), 1, "scale")
        self.offset = init.fill((size,), 0, "offset")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        wide = at_least_float32(x)
        mean, variance = tf.nn.moments(wide, -1, keepdims=True)
        scaled = (wide - mean) * tf.math.rsqrt(variance + 1e-3)
        return tf.cast(scaled * self.scale + self.offset, x.dtype)


class NormAct(tf.Module):
    """An optional LayerNorm, then the activation: the end of a linear layer."""

    def __init__(self, init: Init, size: int, norm: str, act: str):
        super().__init__()
        self.norm = LayerNorm(init / "norm", size) if norm == "layer" else tf.identity
        self.act = ACTIVATIONS[act]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.act(self.norm(x))


class Conv(tf.Module):
    """A stride-2 VALID convolution, an optional LayerNorm, then an activation.

    [B, H, W, inputs] -> [B, (H-k)//2+1, (W-k)//2+1, depth].
    """

    convolve = staticmethod(kernels.conv2d)

    def __init__(
        self, init: Init, inputs: int, depth: int, size: int, norm: str = "none", act: str = "none"
    ):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((size, size, *self._channels(inputs, depth)))
        self.bias = init.fill((depth,), 0, "bias")
        self.after = NormAct(init, depth, norm, act)

    def _channels(self, inputs: int, depth: int) -> tuple[int, int]:
        return inputs, depth

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = self.convolve(x, weight(self.kernel, self.dtype))
        return self.after(kernels.add_bias(y, weight(self.bias, self.dtype)))


class ConvTranspose(Conv):
    """A stride-2 VALID transposed convolution, an optional LayerNorm, then an activation.

    [B, H, W, inputs] -> [B, 2(H-1)+k, 2(W-1)+k, depth].
    """

    convolve = staticmethod(kernels.conv2d_transpose)

    def _channels(self, inputs: int, depth: int) -> tuple[int, int]:
        return depth, inputs


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
        parts = self.norm(at_least_float32(self.dense(x, state)))
        reset, cand, update = tf.split(parts, 3, -1)
        cand = tf.tanh(tf.sigmoid(reset) * cand)
        update = tf.sigmoid(update - 1)
        return tf.cast(update * cand + (1 - update) * at_least_float32(state), state.dtype)
