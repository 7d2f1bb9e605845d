"""Networks made of the layers: encoder, decoder and multi-layer heads."""

import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from dreamerv2.common.errors import UserError
from dreamerv2.common.nn import dists
from dreamerv2.common.nn.layers import Conv, ConvTranspose, Dense, NormAct
from dreamerv2.common.nn.precision import at_least_float32
from dreamerv2.common.nn.variables import Init

Shapes = Mapping[str, tuple[int, ...]]  # key -> shape of one observation, without batch


def select_keys(shapes: Shapes, cnn_keys: str, mlp_keys: str) -> tuple[list[str], list[str]]:
    """Split observation keys into images ([H, W, C]) and vectors ([D]) by the two patterns."""
    images = [k for k, s in shapes.items() if len(s) == 3 and re.match(cnn_keys, k)]
    vectors = [k for k, s in shapes.items() if len(s) == 1 and re.match(mlp_keys, k)]
    return images, vectors


class MLP(tf.Module):
    """`layers` times dense -> norm -> act: [N, inputs] -> [N, units]."""

    def __init__(self, init: Init, inputs: int, units: Sequence[int], act: str, norm: str):
        super().__init__()
        sizes = [inputs, *units]
        self.steps = []
        for i, (size, unit) in enumerate(zip(sizes, sizes[1:], strict=False)):
            part = init / f"dense{i}"
            self.steps += [Dense(part, size, unit), NormAct(part, unit, norm, act)]
        self.size = sizes[-1]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        batch = x.shape[:-1]
        x = tf.reshape(x, (-1, x.shape[-1]))  # once for all layers: TensorFlow then fuses them
        for step in self.steps:
            x = step(x)
        return tf.reshape(x, (*batch, self.size))


class Head(tf.Module):
    """An MLP that ends in a distribution of shape [N, *shape]; () for a number.

    The last layer multiplies in float32 at least: bfloat16 would round a value of 5 to 1/32, more
    than one action is often worth.
    """

    def __init__(self, init: Init, inputs: int, shape: tuple[int, ...], config):
        super().__init__()
        self.shape, self.dist, self.config = tuple(shape), config.dist, config
        units = [config.units] * config.layers
        self.mlp = MLP(init, inputs, units, config.act, config.norm)
        init = init.at_least_float32()
        self.out = Dense(init / "out", self.mlp.size, int(tf.TensorShape(shape).num_elements()))
        if self.dist in ("normal", "tanh_normal", "trunc_normal"):
            self.std = Dense(init / "std", self.mlp.size, self.out.kernel.shape[1])

    def __call__(self, x: tf.Tensor):
        x = self.mlp(x)
        out, event = self._reshape(self.out(x)), len(self.shape)
        if self.dist == "mse":
            return dists.Normal(out, 1.0, event)
        if self.dist == "binary":
            return dists.Bernoulli(out, event)
        if self.dist == "onehot":
            return dists.OneHot(out)
        std = self._reshape(self.std(x))
        if self.dist == "normal":
            return dists.Normal(out, tf.nn.softplus(std) + self.config.min_std, event)
        if self.dist == "tanh_normal":  # the mean stays where tanh still has a slope
            return dists.TanhNormal(5 * tf.tanh(out / 5), tf.nn.softplus(std) + self.config.min_std)
        return dists.TruncNormal(tf.tanh(out), 2 * tf.sigmoid(std / 2) + self.config.min_std)

    def _reshape(self, y: tf.Tensor) -> tf.Tensor:
        """[N, size] -> [N, *shape]."""
        return tf.reshape(at_least_float32(y), (*y.shape[:-1], *self.shape))


class Encoder(tf.Module):
    """Images and vectors to one embedding: dict of [N, ...] -> [N, size].

    Images of one size are stacked along their channels and go through stride-2 convolutions of
    depth cnn_depth * (1, 2, 4, 8, ...); vectors are concatenated and go through an MLP.
    """

    def __init__(self, init: Init, shapes: Shapes, config):
        super().__init__()
        self.dtype = init.dtype
        self.images, self.vectors = select_keys(shapes, config.cnn_keys, config.mlp_keys)
        self.size, self.convs = 0, []
        if self.images:
            self._make_convs(init, shapes, config)
        if self.vectors:
            inputs = sum(shapes[key][0] for key in self.vectors)
            self.mlp = MLP(init / "mlp", inputs, config.mlp_layers, config.act, config.norm)
            self.size += self.mlp.size
        if not self.size:
            raise UserError(
                f"No observation is left for the encoder: --encoder.cnn_keys '{config.cnn_keys}'"
                f" and --encoder.mlp_keys '{config.mlp_keys}' match none of {', '.join(shapes)}."
            )

    def _make_convs(self, init, shapes, config):
        height, width, _ = shapes[self.images[0]]
        for key in self.images:
            if shapes[key][:2] != (height, width):
                raise UserError(
                    f"Images must share one size, but '{self.images[0]}' is {height}x{width} and"
                    f" '{key}' is {'x'.join(map(str, shapes[key][:2]))}: set --render_size."
                )
        depth = sum(shapes[key][2] for key in self.images)
        for i, kernel in enumerate(config.cnn_kernels):
            part, inputs, depth = init / f"conv{i}", depth, config.cnn_depth * 2**i
            self.convs.append(Conv(part, inputs, depth, kernel, config.norm, config.act))
            height, width = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1
            if min(height, width) < 1:
                raise UserError(
                    "The image is too small for --encoder.cnn_kernels"
                    f" {' '.join(map(str, config.cnn_kernels))}: use fewer or smaller kernels."
                )
        self.size += height * width * depth

    def __call__(self, obs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        parts = []
        if self.images:
            images = tf.concat([tf.cast(obs[key], self.dtype) for key in self.images], -1)
            x = tf.reshape(images, (-1, *images.shape[-3:]))
            for conv in self.convs:
                x = conv(x)
            parts.append(tf.reshape(x, (*images.shape[:-3], -1)))
        if self.vectors:
            # Saturated: a number too large for float16 must not become infinite.
            vectors = [tf.saturate_cast(obs[key], self.dtype) for key in self.vectors]
            parts.append(self.mlp(tf.concat(vectors, -1)))
        return tf.concat(parts, -1)


class Decoder(tf.Module):
    """Features to one unit-variance Gaussian per image and vector key: [N, inputs] -> dict.

    A dense layer without activation gives one pixel of 32 * cnn_depth channels, which stride-2
    transposed convolutions grow to the image. Vector keys share an MLP.
    """

    def __init__(self, init: Init, inputs: int, shapes: Shapes, config):
        super().__init__()
        self.shapes = dict(shapes)
        self.images, self.vectors = select_keys(shapes, config.cnn_keys, config.mlp_keys)
        if self.images:
            self._make_convs(init, inputs, config)
        if self.vectors:
            self.mlp = MLP(init / "mlp", inputs, config.mlp_layers, config.act, config.norm)
            # An observation may have the name of an image layer.
            layers = ["dense", *(f"conv{i}" for i in range(len(config.cnn_kernels)))]
            clashes = layers if self.images else []
            names = {key: f"vector_{key}" if key in clashes else key for key in self.vectors}
            init, size = init.at_least_float32(), self.mlp.size
            self.outs = {k: Dense(init / name, size, shapes[k][0]) for k, name in names.items()}

    def _make_convs(self, init, inputs, config):
        self.channels, count = [self.shapes[key][2] for key in self.images], len(config.cnn_kernels)
        depth, size = 32 * config.cnn_depth, 1
        self.dense, self.convs = Dense(init / "dense", inputs, depth), []
        for i, kernel in enumerate(config.cnn_kernels):
            part, before, last = init / f"conv{i}", depth, i == count - 1
            depth = sum(self.channels) if last else config.cnn_depth * 2 ** (count - i - 2)
            then = () if last else (config.norm, config.act)
            self.convs.append(ConvTranspose(part, before, depth, kernel, *then))
            size = 2 * (size - 1) + kernel
        for key in self.images:
            if max(self.shapes[key][:2]) != size:
                raise UserError(
                    f"--decoder.cnn_kernels {' '.join(map(str, config.cnn_kernels))} draw"
                    f" {size}x{size} pixels, but '{key}' has"
                    f" {'x'.join(map(str, self.shapes[key][:2]))}: change them or --render_size."
                )

    def __call__(self, feat: tf.Tensor) -> dict[str, dists.Normal]:
        result = {}
        if self.images:
            x = self.dense(feat)
            x = tf.reshape(x, (-1, 1, 1, x.shape[-1]))
            for conv in self.convs:
                x = conv(x)
            height, width, _ = self.shapes[self.images[0]]
            x = x[:, :height, :width]  # all of it, unless images are not square
            x = tf.reshape(x, (*feat.shape[:-1], *x.shape[1:]))
            means = tf.split(x, self.channels, -1)
            result = {k: dists.Normal(m, 1.0, 3) for k, m in zip(self.images, means, strict=True)}
        if self.vectors:
            x = self.mlp(feat)
            result |= {key: dists.Normal(self.outs[key](x), 1.0, 1) for key in self.vectors}
        return result
