"""Layers as small tf.Module classes with explicit variables, all made in __init__.

Shapes are written with N for any number of leading dimensions unless said otherwise. Each layer
multiplies in `init.dtype`; see tfutils.wide for what stays in float32.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dreamerv2.common.tfutils import Init, gpus, weight, wide

ACTIVATIONS = {
    "none": tf.identity,
    "elu": tf.nn.elu,
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
        """groups [N, S, C], each of them one-hot; None where a plain product is quicker."""
        # On a GPU, and on a CPU in 16 bit, it is. Line by line in a debugger it is plainer.
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
        return tf.nn.bias_add(y, weight(self.bias, self.dtype))

    def part(self, x: tf.Tensor, start: int, stop: int) -> tf.Tensor:
        """Return x times the rows start..stop of W, plus b: the share of some of the inputs."""
        # On two axes, and as bias_add: TensorFlow then fuses product, bias and activation.
        flat = tf.reshape(tf.cast(x, self.dtype), (-1, x.shape[-1]))
        y = tf.nn.bias_add(flat @ self.rows(start, stop), weight(self.bias, self.dtype))
        return y if x.shape.rank == 2 else tf.reshape(y, (*x.shape[:-1], y.shape[-1]))

    def rows(self, start: int, stop: int) -> tf.Tensor:
        """Return the rows start..stop of W in the compute type."""
        kernel = weight(self.kernel, self.dtype)
        return kernel if stop - start == kernel.shape[0] else kernel[start:stop]


class LateProduct:
    """A product inside a loop whose weight gradient is formed after the loop, at once.

    A loop that multiplies by W at every step makes the gradient of W as a sum of T small products,
    each of which reads and writes all of W (in 16 bit, with T roundings). Here step t computes
    y_t = x_t sg(W) + o_t. What flows back to o_t is the gradient of y_t, so that after the loop
    dW = sum_t x_t^T dy_t is a single product over T * B rows.

    Use: pass `offsets[t]` to `step` in the loop, stack the x it was called with and hand them to
    `finish`.

    Args:
        kernel: W [inputs, units] in the compute type.
        offset: [T, B, units], what is added at each step, such as the bias.
    """

    def __init__(self, kernel: tf.Tensor, offset: tf.Tensor):
        self.inputs = kernel.shape[0]
        self._kernel, self._seen = tf.stop_gradient(kernel), None

        @tf.custom_gradient
        def link(kernel, offset):
            def grad(upstream):
                flat = lambda x: tf.reshape(x, (-1, x.shape[-1]))  # noqa: E731
                return tf.matmul(flat(self._seen), flat(upstream), transpose_a=True), upstream

            return tf.identity(offset), grad

        self.offsets = link(kernel, offset)

    def step(self, x: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """x [B, inputs] and offsets[t] [B, units] -> [B, units]."""
        return x @ self._kernel + offset

    def finish(self, inputs: tf.Tensor) -> None:
        """Take the x of every step, [T, B, inputs]; call before the gradient is asked for."""
        self._seen = tf.stop_gradient(inputs)


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


class Conv(tf.Module):
    """A stride-2 VALID convolution: [B, H, W, inputs] -> [B, (H-k)//2+1, (W-k)//2+1, depth]."""

    def __init__(self, init: Init, inputs: int, depth: int, size: int):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((size, size, inputs, depth))
        self.bias = init.fill((depth,), 0, "bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = weight(self.kernel, self.dtype), weight(self.bias, self.dtype)
        outputs = [(n - kernel.shape[0]) // 2 + 1 for n in x.shape[1:3]]
        if not few_windows(x.shape[0], outputs):
            y = tf.nn.conv2d(x, kernel, 2, "VALID")
        elif max(outputs) > 2:
            y = _conv_of_few_windows(x, kernel)
        else:
            y = _conv_by_product(x, kernel)
        return tf.nn.bias_add(y, bias)


def few_windows(count: int, outputs: Sequence[int]) -> bool:
    """Whether patches of that many images, with a window per output pixel, are worth making.

    A CPU makes them in little time if the windows are few, and multiplies them faster than oneDNN
    walks over the image. In a small batch rearranging the kernel takes longer.
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
        to_x = _add_patches(patches, tuple(x.shape), size)
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
    """A stride-2 VALID transposed convolution: [B, H, W, inputs] -> [B, 2(H-1)+k, .., depth]."""

    def __init__(self, init: Init, inputs: int, depth: int, size: int):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((size, size, depth, inputs))
        self.bias = init.fill((depth,), 0, "bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        kernel = weight(self.kernel, self.dtype)
        batch, height, width, inputs = x.shape
        size, _, depth, _ = kernel.shape
        if height == width == 1:  # one pixel meets every tap once: a single matrix product
            y = tf.matmul(
                tf.reshape(x, (-1, inputs)), tf.reshape(kernel, (-1, inputs)), False, True
            )
            y = tf.reshape(y, (batch, size, size, depth))
        elif not gpus() and size % 2 == 0 and depth < 8:
            y = _conv_transpose_by_phase(x, kernel)
        else:
            few = few_windows(batch, (height, width))
            y = (_transpose_of_few_windows if few else _transpose)(x, kernel)
        return tf.nn.bias_add(y, weight(self.bias, self.dtype))


@tf.custom_gradient
def _conv_transpose_by_phase(x: tf.Tensor, kernel: tf.Tensor):
    """A stride-2 VALID transposed convolution with an even kernel size and few output channels.

    Output pixels of one parity (even or odd row and column) meet every other tap of the kernel, so
    that the four parities are one plain convolution with four times the channels. CPUs are three
    times as fast at it; its gradient is quicker the usual way.
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
        to_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream,
            filter_sizes=kernel.shape,
            out_backprop=x,
            strides=[1, 2, 2, 1],
            padding="VALID",
        )
        return tf.nn.conv2d(upstream, kernel, 2, "VALID"), to_kernel

    return y, grad


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
