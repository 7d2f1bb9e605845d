"""The same results, faster: a reader may skip this file.

Each function equals the plain operation that its docstring names, gradients included, and decides
by itself which way is fastest for a shape, type and device; docs/performance.md has the times.
"""

import math

import numpy as np
import tensorflow as tf

from dreamerv2.common.nn import device
from dreamerv2.common.nn.precision import at_least_float32

FAST_CONVOLUTIONS = True  # False: tf.nn.conv2d and tf.nn.conv2d_transpose alone
EXACT_BFLOAT16 = True  # False: tf.nn.elu and tf.nn.bias_add alone, also for bfloat16 on a CPU


# --- ELU and bias in bfloat16 with float32 accumulation ---
#
# TensorFlow adds up the gradient of a bias in bfloat16, where the sum of 4,096 ones is 256. And it
# takes a pass over memory for each operation of a gradient. XLA joins the passes over a large
# tensor, and computes them in float32. In float32 there is nothing to gain.


def elu(x: tf.Tensor) -> tf.Tensor:
    """tf.nn.elu: x where it is positive, else exp(x) - 1."""
    return _elu(x) if _use_xla(x) else tf.nn.elu(x)


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """tf.nn.bias_add: [N, D], [D] -> [N, D]."""
    return _add_bias(x, bias) if _bfloat16_on_cpu(x) else tf.nn.bias_add(x, bias)


def _bfloat16_on_cpu(x: tf.Tensor) -> bool:
    return EXACT_BFLOAT16 and x.dtype == tf.bfloat16 and not device.gpus()


def _use_xla(x: tf.Tensor) -> bool:
    # A smaller tensor is finished in the time that the call of an XLA function takes.
    large = x.shape.is_fully_defined() and x.shape.num_elements() >= 2**20
    return _bfloat16_on_cpu(x) and large and not tf.executing_eagerly()


@tf.custom_gradient
def _elu(x: tf.Tensor):
    y = tf.nn.elu(x)  # TensorFlow fuses it with the product before it
    return y, lambda upstream: _elu_gradient(upstream, y)


@tf.custom_gradient
def _add_bias(x: tf.Tensor, bias: tf.Tensor):
    return tf.nn.bias_add(x, bias), lambda upstream: (upstream, _bias_gradient(upstream))


@tf.function(jit_compile=True, autograph=False)
def _elu_gradient(upstream: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    slope = tf.where(y > 0, 1.0, at_least_float32(y) + 1)
    return tf.cast(at_least_float32(upstream) * slope, y.dtype)


def _bias_gradient(upstream: tf.Tensor) -> tf.Tensor:
    """Sum over all axes but the last, rounded once."""
    if not _use_xla(upstream):
        return tf.reduce_sum(upstream, tuple(range(upstream.shape.rank - 1)))
    return tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=_partial_sums(upstream)), upstream.dtype)


@tf.function(jit_compile=True, autograph=False)
def _partial_sums(x: tf.Tensor) -> tf.Tensor:
    """Add up eight parts of the rows, or four, two or one: [..., D] -> float32 [rows / 8, D]."""
    # XLA adds whole tensors quickly, and sums over an axis that is not the last slowly.
    rows = math.prod(x.shape[:-1])
    parts = tf.reshape(x, (math.gcd(rows, 8), -1, x.shape[-1]))
    return tf.add_n([at_least_float32(part) for part in tf.unstack(parts)])


# --- stride-2 convolutions ---
#
# A small convolution of a large batch is a product of patches (windows of the image) with the
# kernel, and the kernel's gradient is a product of patches with the gradient of the result. Where
# there are few windows, a CPU makes the patches in little time and multiplies them faster than
# oneDNN walks over the image.


def conv2d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """tf.nn.conv2d(x, kernel, 2, "VALID").

    [B, H, W, C], [k, k, C, D] -> [B, (H-k)//2+1, (W-k)//2+1, D].
    """
    outputs = [(n - kernel.shape[0]) // 2 + 1 for n in x.shape[1:3]]
    if not _few_windows(x.shape[0], outputs):
        return tf.nn.conv2d(x, kernel, 2, "VALID")
    return _conv_of_few_windows(x, kernel) if max(outputs) > 2 else _conv_by_product(x, kernel)


def conv2d_transpose(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """tf.nn.conv2d_transpose(x, kernel, shape of the result, 2, "VALID").

    [B, H, W, D], [k, k, C, D] -> [B, 2(H-1)+k, 2(W-1)+k, C].
    """
    batch, height, width, inputs = x.shape
    size, _, depth, _ = kernel.shape
    if not FAST_CONVOLUTIONS:
        return _transpose(x, kernel)
    if height == width == 1:  # one pixel meets every weight once: a single matrix product
        kernel = tf.reshape(kernel, (-1, inputs))
        y = tf.matmul(tf.reshape(x, (-1, inputs)), kernel, transpose_b=True)
        return tf.reshape(y, (batch, size, size, depth))
    if size % 2 == 0 and depth < 8:
        return _transpose_by_parity(x, kernel)
    few = _few_windows(batch, (height, width))
    return _transpose_of_few_windows(x, kernel) if few else _transpose(x, kernel)


def _few_windows(batch: int, windows) -> bool:
    """Tell whether patches of so many images pay; the policy's small batch gains nothing."""
    return FAST_CONVOLUTIONS and not device.gpus() and batch > 64 and max(windows) <= 8


def _transpose(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    height, width = (2 * (n - 1) + kernel.shape[0] for n in x.shape[1:3])
    shape = (x.shape[0], height, width, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID")


def _patches(x: tf.Tensor, size: int) -> tf.Tensor:
    """Stride-2 windows [B, H, W, C] -> [B * ((H-k)//2+1) * .., k*k*C], in a kernel's order."""
    batch, height, width, channels = x.shape
    offsets = np.arange(size)
    row, column = (np.arange(0, n - size + 1, 2)[:, None] + offsets for n in (height, width))
    pixel = row[:, None, :, None] * width + column[None, :, None, :]  # [h, w, k, k]
    flat = tf.reshape(x, (batch, height * width, channels))
    return tf.reshape(tf.gather(flat, pixel.ravel(), axis=1), (-1, size * size * channels))


@tf.function(jit_compile=True, autograph=False)
def _add_patches(patches: tf.Tensor, shape: tuple[int, ...], size: int) -> tf.Tensor:
    """Add patches up where `_patches` took them from: -> [B, H, W, C]."""
    batch, height, width, channels = shape
    rows, columns = (range(0, n - size + 1, 2) for n in (height, width))
    windows = tf.reshape(patches, (batch, len(rows), len(columns), size, size, channels))

    def place(i, j):
        padding = [[0, 0], [i, height - size - i], [j, width - size - j], [0, 0]]
        return tf.pad(windows[:, i // 2, j // 2], padding)

    return tf.add_n([place(i, j) for i in rows for j in columns])


def _kernel_gradient(image: tf.Tensor, pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Sum over windows of patch^T pixel: [B, H, W, C], [B, h, w, D] -> [k, k, C, D]."""
    depth = pixels.shape[-1]
    y = tf.matmul(_patches(image, size), tf.reshape(pixels, (-1, depth)), transpose_a=True)
    return tf.reshape(y, (size, size, -1, depth))


@tf.custom_gradient
def _conv_of_few_windows(x: tf.Tensor, kernel: tf.Tensor):
    """conv2d whose gradient to the kernel is one matrix product."""

    def grad(upstream):
        to_x = tf.nn.conv2d_transpose(upstream, kernel, x.shape, 2, "VALID")
        return to_x, _kernel_gradient(x, upstream, kernel.shape[0])

    return tf.nn.conv2d(x, kernel, 2, "VALID"), grad


@tf.custom_gradient
def _conv_by_product(x: tf.Tensor, kernel: tf.Tensor):
    """conv2d that is one matrix product, as are both of its gradients."""
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
    """conv2d_transpose whose gradient to the kernel is one matrix product."""

    def grad(upstream):
        to_x = tf.nn.conv2d(upstream, kernel, 2, "VALID")
        return to_x, _kernel_gradient(upstream, x, kernel.shape[0])

    return _transpose(x, kernel), grad


@tf.custom_gradient
def _transpose_by_parity(x: tf.Tensor, kernel: tf.Tensor):
    """conv2d_transpose for an even kernel size and few output channels.

    Output pixels of one parity (even or odd row and column) meet every other weight of the kernel,
    so that the four parities are one plain convolution with four times the channels. CPUs are three
    times as fast at it, and a GPU four times at one channel. Its gradient is faster the usual way
    on a CPU, and as products of patches on a GPU.
    """
    inputs, (size, _, depth, _) = x.shape[-1], kernel.shape
    half = size // 2
    flat = tf.reshape(kernel, (half, 2, half, 2, depth, inputs))
    flat = tf.transpose(flat, (0, 2, 5, 1, 3, 4))
    flat = tf.reshape(flat[::-1, ::-1], (half, half, inputs, 4 * depth))
    border = [half - 1, half - 1]
    padded = tf.pad(x, [[0, 0], border, border, [0, 0]])
    y = tf.nn.depth_to_space(tf.nn.conv2d(padded, flat, 1, "VALID"), 2)

    def grad(upstream):
        if device.gpus():
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
