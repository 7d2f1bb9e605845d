"""Stride-2 convolutions, and ways to compute them faster than by TensorFlow's own operations.

Each way gives the same result and gradients; docs/performance.md has what it is worth.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dreamerv2.common.nn.layers import NormAct
from dreamerv2.common.nn.passes import add_bias
from dreamerv2.common.nn.tfutils import Init, gpus, weight


class Conv(tf.Module):
    """A stride-2 VALID convolution, an optional LayerNorm, then an activation.

    [B, H, W, inputs] -> [B, (H-k)//2+1, (W-k)//2+1, depth].
    """

    def __init__(
        self, init: Init, inputs: int, depth: int, size: int, norm: str = "none", act: str = "none"
    ):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((size, size, inputs, depth))
        self.bias = init.fill((depth,), 0, "bias")
        self.after = NormAct(init, depth, norm, act)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = weight(self.kernel, self.dtype), weight(self.bias, self.dtype)
        outputs = [(n - kernel.shape[0]) // 2 + 1 for n in x.shape[1:3]]
        if not few_windows(x.shape[0], outputs):
            y = tf.nn.conv2d(x, kernel, 2, "VALID")
        elif max(outputs) > 2:
            y = _conv_of_few_windows(x, kernel)
        else:
            y = _conv_by_product(x, kernel)
        return self.after(add_bias(y, bias))  # not of_sum: oneDNN fuses them with the convolution


def few_windows(count: int, outputs: Sequence[int]) -> bool:
    """Whether patches of that many images, with a window per output pixel, are worth making.

    A CPU makes them in little time if the windows are few, and multiplies them faster than oneDNN
    walks over the image. A small batch, such as the policy's, gains nothing.
    """
    return not gpus() and count > 64 and max(outputs) <= 8


def _patches(x: tf.Tensor, size: int) -> tf.Tensor:
    """Stride-2 windows [B, H, W, C] -> [B * ((H-k)//2+1) * .., k*k*C], in a kernel's order."""
    batch, height, width, channels = x.shape
    taps = np.arange(size)
    row, column = (np.arange(0, n - size + 1, 2)[:, None] + taps for n in (height, width))
    pixel = row[:, None, :, None] * width + column[None, :, None, :]  # [h, w, k, k]
    flat = tf.reshape(x, (batch, height * width, channels))
    return tf.reshape(tf.gather(flat, pixel.ravel(), axis=1), (-1, size * size * channels))


@tf.function(jit_compile=True, autograph=False)
def _add_patches(patches: tf.Tensor, shape: tuple[int, ...], size: int) -> tf.Tensor:
    """Add patches up where `_patches` took them from: -> [B, H, W, C]."""
    batch, height, width, channels = shape
    rows, columns = (range(0, n - size + 1, 2) for n in (height, width))
    windows = (batch, len(rows), len(columns), size, size, channels)
    windows = tf.reshape(patches, windows)
    place = lambda i, n: [i, n - size - i]  # noqa: E731
    return tf.add_n(
        [
            tf.pad(windows[:, i // 2, j // 2], [[0, 0], place(i, height), place(j, width), [0, 0]])
            for i in rows
            for j in columns
        ]
    )


def _kernel_gradient(image: tf.Tensor, pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Sum over windows of patch^T pixel: [B, H, W, C], [B, h, w, D] -> [k, k, C, D]."""
    depth = pixels.shape[-1]
    y = tf.matmul(_patches(image, size), tf.reshape(pixels, (-1, depth)), transpose_a=True)
    return tf.reshape(y, (size, size, -1, depth))


@tf.custom_gradient
def _conv_of_few_windows(x: tf.Tensor, kernel: tf.Tensor):
    """A stride-2 VALID convolution whose kernel's gradient is one matrix product."""

    def grad(upstream):
        to_x = tf.nn.conv2d_transpose(upstream, kernel, x.shape, 2, "VALID")
        return to_x, _kernel_gradient(x, upstream, kernel.shape[0])

    return tf.nn.conv2d(x, kernel, 2, "VALID"), grad


@tf.custom_gradient
def _conv_by_product(x: tf.Tensor, kernel: tf.Tensor):
    """A stride-2 VALID convolution that is one matrix product, as are both of its gradients."""
    size, depth = kernel.shape[0], kernel.shape[-1]
    flat = tf.reshape(kernel, (-1, depth))

    def grad(upstream):
        patches = tf.matmul(tf.reshape(upstream, (-1, depth)), flat, transpose_b=True)
        # In a debugger, line by line.
        add = _add_patches.python_function if tf.executing_eagerly() else _add_patches
        to_x = add(patches, tuple(x.shape), size)
        return to_x, _kernel_gradient(x, upstream, size)

    height, width = ((n - size) // 2 + 1 for n in x.shape[1:3])
    return tf.reshape(_patches(x, size) @ flat, (-1, height, width, depth)), grad


@tf.custom_gradient
def _transpose_of_few_windows(x: tf.Tensor, kernel: tf.Tensor):
    """A stride-2 VALID transposed convolution whose kernel's gradient is one matrix product."""

    def grad(upstream):
        to_x = tf.nn.conv2d(upstream, kernel, 2, "VALID")
        return to_x, _kernel_gradient(upstream, x, kernel.shape[0])

    return _transpose(x, kernel), grad


def _transpose(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[B, H, W, D], [k, k, C, D] -> [B, 2(H-1)+k, .., C]."""
    height, width = (2 * (n - 1) + kernel.shape[0] for n in x.shape[1:3])
    shape = (x.shape[0], height, width, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID")


class ConvTranspose(tf.Module):
    """A stride-2 VALID transposed convolution, an optional LayerNorm, then an activation.

    [B, H, W, inputs] -> [B, 2(H-1)+k, .., depth].
    """

    def __init__(
        self, init: Init, inputs: int, depth: int, size: int, norm: str = "none", act: str = "none"
    ):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((size, size, depth, inputs))
        self.bias = init.fill((depth,), 0, "bias")
        self.after = NormAct(init, depth, norm, act)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        kernel = weight(self.kernel, self.dtype)
        batch, height, width, inputs = x.shape
        size, _, depth, _ = kernel.shape
        if height == width == 1:  # one pixel meets every tap once: a single matrix product
            y = tf.matmul(
                tf.reshape(x, (-1, inputs)), tf.reshape(kernel, (-1, inputs)), False, True
            )
            y = tf.reshape(y, (batch, size, size, depth))
        elif size % 2 == 0 and depth < 8:
            y = _conv_transpose_by_phase(x, kernel)
        else:
            few = few_windows(batch, (height, width))
            y = (_transpose_of_few_windows if few else _transpose)(x, kernel)
        return self.after.of_sum(y, weight(self.bias, self.dtype))


@tf.custom_gradient
def _conv_transpose_by_phase(x: tf.Tensor, kernel: tf.Tensor):
    """A stride-2 VALID transposed convolution with an even kernel size and few output channels.

    Output pixels of one parity (even or odd row and column) meet every other tap of the kernel, so
    that the four parities are one plain convolution with four times the channels. CPUs are three
    times as fast at it, and a GPU four times at one channel. Its gradient is quicker the usual way
    on a CPU, and as products of patches on a GPU.
    """
    batch, height, width, inputs = x.shape
    size, _, depth, _ = kernel.shape
    half = size // 2
    taps = tf.transpose(tf.reshape(kernel, (half, 2, half, 2, depth, inputs)), (0, 2, 5, 1, 3, 4))
    taps = tf.reshape(taps[::-1, ::-1], (half, half, inputs, 4 * depth))
    border = [half - 1, half - 1]
    padded = tf.pad(x, [[0, 0], border, border, [0, 0]])
    y = tf.nn.depth_to_space(tf.nn.conv2d(padded, taps, 1, "VALID"), 2)

    def grad(upstream):
        if gpus():
            patches, pixels = _patches(upstream, size), tf.reshape(x, (-1, inputs))
            to_x = tf.matmul(patches, tf.reshape(kernel, (-1, inputs)))
            to_kernel = tf.matmul(patches, pixels, transpose_a=True)
            return tf.reshape(to_x, x.shape), tf.reshape(to_kernel, kernel.shape)
        to_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream,
            filter_sizes=kernel.shape,
            out_backprop=x,
            strides=[1, 2, 2, 1],
            padding="VALID",
        )
        return tf.nn.conv2d(upstream, kernel, 2, "VALID"), to_kernel

    return y, grad
