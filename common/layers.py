"""Layers as small tf.Module classes with explicit variables, all made in __init__.

Shapes are written with N for any number of leading dimensions unless said otherwise. Each layer
multiplies in `init.dtype`; see tfutils.wide for what stays in float32.
"""

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


class Dense(tf.Module):
    """y = x W + b: [N, inputs] -> [N, units]."""

    def __init__(self, init: Init, inputs: int, units: int):
        super().__init__()
        self.dtype = init.dtype
        self.kernel = init.glorot((inputs, units))
        self.bias = init.fill((units,), 0, "bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.part(x, 0, self.kernel.shape[0])

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
        size = kernel.shape[0]
        # A CPU is slow at few output pixels of many channels. As one product they are quick, unless
        # the batch is so small that rearranging the kernel takes longer.
        if not gpus() and size % 2 == 0 and max(x.shape[1:3]) < 2 * size and x.shape[0] > 64:
            return tf.nn.bias_add(_conv_by_product(x, kernel), bias)
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 2, "VALID"), bias)


def _conv_by_product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A stride-2 VALID convolution with an even kernel size, as one matrix product."""
    size, _, inputs, depth = kernel.shape
    half = size // 2
    height, width = ((n - size) // 2 + 1 for n in x.shape[1:3])
    # With 2x2 pixels in one, stride 2 becomes 1: a patch is half*half shifted views, side by side.
    packed = tf.nn.space_to_depth(x[:, : 2 * (height + half - 1), : 2 * (width + half - 1)], 2)
    views = [packed[:, i : i + height, j : j + width] for i in range(half) for j in range(half)]
    patches = tf.reshape(tf.concat(views, -1), (-1, size * size * inputs))
    # Rows of the kernel in the patches' order: view (2), pixel within the view (2), channel.
    order = tf.transpose(tf.reshape(kernel, (half, 2, half, 2, inputs, depth)), (0, 2, 1, 3, 4, 5))
    return tf.reshape(patches @ tf.reshape(order, (-1, depth)), (-1, height, width, depth))


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
            shape = (batch, 2 * (height - 1) + size, 2 * (width - 1) + size, depth)
            y = tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID")
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
