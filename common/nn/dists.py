"""Probability distributions of the model and the policy, in at least float32.

Densities, entropies and divergences come from TensorFlow Probability. Samples are made here from
uniform noise u in [0, 1), by inverting the cumulative distribution: the caller owns the noise, so
a step is a function of its arguments, the same under a loop, XLA or a debugger.

N stands for any leading dimensions.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from dreamerv2.common.nn.precision import at_least_float32

tfd = tfp.distributions


def straight_through(sample: tf.Tensor, probs: tf.Tensor) -> tf.Tensor:
    """Return the sample, with the gradient of the probabilities (paper, algorithm 1)."""
    return tf.stop_gradient(sample) + (probs - tf.stop_gradient(probs))


# --- noise ---


def fold(seed: tf.Tensor, index: int) -> tf.Tensor:
    """Return the seed of one part of a step: int32 [2] -> int32 [2], not negative."""
    # XLA and TensorFlow make different numbers of a negative seed.
    return tf.bitwise.bitwise_and(tf.random.experimental.stateless_fold_in(seed, index), 2**31 - 1)


def uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Return stateless float32 noise in [0, 1).

    Args:
        shape: shape of the result.
        seed: int32 [2], not negative; each use needs its own, from `fold`.
    """
    # Philox by name, since the automatic choice differs between devices. Floats from its bits by
    # hand, since XLA makes other floats of the same bits, and so a compiled update other noise.
    bits = tf.random.stateless_uniform(shape, seed, None, None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24


def draw(seed: tf.Tensor, **shapes: Sequence[int]) -> dict[str, tf.Tensor]:
    """Return uniform noise in [0, 1) for each use of a step's seed: name -> float32 of that shape.

    The uses are numbered in their order, and each has a stream of its own.

    Args:
        seed: int32 [2], (stream, counter).
    """
    return {
        name: uniform(shape, fold(seed, index))
        for index, (name, shape) in enumerate(shapes.items())
    }


# --- distributions ---


def _normal_quantile(u: tf.Tensor) -> tf.Tensor:
    # u = 0 would be minus infinity; half of float32's resolution keeps both tails symmetric.
    return tf.math.ndtri(tf.clip_by_value(u, 2**-24, 1 - 2**-24))


class OneHot:
    """Categorical over the last axis, one-hot samples with straight-through gradients.

    Args:
        logits: [N, C].
        event: how many axes before the classes belong to one event; log_prob, entropy and KL sum
            over them.
    """

    def __init__(self, logits: tf.Tensor, event: int = 0):
        self.logits = at_least_float32(logits)
        dist = tfd.OneHotCategorical(logits=self.logits, dtype=self.logits.dtype)
        self.dist = tfd.Independent(dist, event)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """Noise [N] -> one-hot [N, C]: the first class whose cumulative probability exceeds u."""
        probs = tf.nn.softmax(self.logits)
        size = probs.shape[-1]
        # The cumulative sum as a product with a triangle of ones: a fast matmul on any device.
        triangle = tf.linalg.band_part(tf.ones((size, size), probs.dtype), 0, -1)
        cumulative = tf.reshape(tf.reshape(probs, (-1, size)) @ triangle, probs.shape)
        # Relative to the last sum, which is 1 but for rounding: a GPU's product has 10 bits.
        bar = tf.cast(noise, probs.dtype)[..., None] * cumulative[..., -1:]
        below = tf.cast(cumulative <= bar, tf.int32)
        # Rounding can lift the bar to the last cumulative probability; the last class takes those.
        index = tf.minimum(tf.reduce_sum(below, -1), size - 1)
        return straight_through(tf.one_hot(index, size, dtype=probs.dtype), probs)

    def mode(self) -> tf.Tensor:
        size = self.logits.shape[-1]
        best = tf.one_hot(tf.argmax(self.logits, -1), size, dtype=self.logits.dtype)
        return straight_through(best, tf.nn.softmax(self.logits))

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.dist.log_prob(tf.cast(value, self.logits.dtype))

    def entropy(self) -> tf.Tensor:
        return self.dist.entropy()


class Normal:
    """Independent normals over the last `event` axes.

    Args:
        mean: [N, ...].
        std: the same shape, or a number; with 1, -log_prob is half a squared error and a constant.
        event: how many trailing axes make one event; log_prob and entropy sum over them.
    """

    def __init__(self, mean: tf.Tensor, std: tf.Tensor | float = 1.0, event: int = 1):
        self.mean = at_least_float32(mean)
        self.std = at_least_float32(tf.convert_to_tensor(std, None, self.mean.dtype))
        self.dist = tfd.Independent(tfd.Normal(self.mean, self.std), event)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        return self.mean + self.std * _normal_quantile(tf.cast(noise, self.mean.dtype))

    def mode(self) -> tf.Tensor:
        return self.mean

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.dist.log_prob(tf.cast(value, self.mean.dtype))

    def entropy(self) -> tf.Tensor:
        return self.dist.entropy()


class Bernoulli:
    """Yes or no, per element, summed over the last `event` axes. Targets may lie between 0 and 1.

    Args:
        logits: [N, ...].
    """

    def __init__(self, logits: tf.Tensor, event: int = 0):
        self.logits = at_least_float32(logits)
        self.dist = tfd.Independent(tfd.Bernoulli(self.logits, dtype=self.logits.dtype), event)
        self.mean = tf.sigmoid(self.logits)

    def mode(self) -> tf.Tensor:
        return tf.cast(self.logits > 0, self.logits.dtype)

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.dist.log_prob(tf.cast(value, self.logits.dtype))

    def entropy(self) -> tf.Tensor:
        return self.dist.entropy()


class Uniform:
    """Uniform on [-1, 1], independent over the last axis; `like` [N, A] gives the shape."""

    def __init__(self, like: tf.Tensor):
        self.like = at_least_float32(like)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        return 2 * tf.cast(noise, self.like.dtype) - 1

    def mode(self) -> tf.Tensor:
        return tf.zeros_like(self.like)


class TruncNormal:
    """Normals on [-1, 1], independent over the last axis.

    Args:
        mean: [N, A] location of the untruncated normal, itself in [-1, 1].
        std: [N, A] its scale.
    """

    LIMIT = 1 - 1e-6  # the density is zero, its logarithm infinite, on the edge itself

    def __init__(self, mean: tf.Tensor, std: tf.Tensor):
        self.mean, self.std = at_least_float32(mean), at_least_float32(std)
        self.base = tfd.Normal(self.mean, self.std)
        self.dist = tfd.Independent(tfd.TruncatedNormal(self.mean, self.std, -1, 1), 1)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """Noise [N, A] -> [N, A] in [-LIMIT, LIMIT], differentiable in mean and std."""
        low, high = self.base.cdf(-1.0), self.base.cdf(1.0)
        u = low + (high - low) * tf.cast(noise, self.mean.dtype)
        value = self.mean + self.std * _normal_quantile(u)
        clipped = tf.clip_by_value(value, -self.LIMIT, self.LIMIT)
        return value + tf.stop_gradient(clipped - value)

    def mode(self) -> tf.Tensor:
        return tf.clip_by_value(self.mean, -self.LIMIT, self.LIMIT)

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.dist.log_prob(tf.cast(value, self.mean.dtype))

    def entropy(self) -> tf.Tensor:
        return self.dist.entropy()


class TanhNormal:
    """tanh of a normal, independent over the last axis.

    Its entropy has no closed form: it is that of the normal plus E[log(1 - tanh(x)^2)], which
    Gauss-Hermite quadrature gives without noise.

    Args:
        mean: [N, A] of the normal under the tanh.
        std: [N, A].
    """

    # Nodes and weights of the 20-point rule for the standard normal.
    NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
    LIMIT = 1 - 1e-6

    def __init__(self, mean: tf.Tensor, std: tf.Tensor):
        self.mean, self.std = at_least_float32(mean), at_least_float32(std)
        self.base = tfd.Normal(self.mean, self.std)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        noise = _normal_quantile(tf.cast(noise, self.mean.dtype))
        return tf.tanh(self.mean + self.std * noise)

    def mode(self) -> tf.Tensor:
        """tanh of the normal's mode, which is the median here."""
        return tf.tanh(self.mean)

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.clip_by_value(tf.cast(value, self.mean.dtype), -self.LIMIT, self.LIMIT)
        inner = tf.atanh(value)
        return tf.reduce_sum(self.base.log_prob(inner) - self._log_slope(inner), -1)

    def entropy(self) -> tf.Tensor:
        nodes = tf.constant(self.NODES, self.mean.dtype)
        weights = tf.constant(self.WEIGHTS / self.WEIGHTS.sum(), self.mean.dtype)
        inner = self.mean[..., None] + self.std[..., None] * nodes
        stretch = tf.reduce_sum(weights * self._log_slope(inner), -1)
        return tf.reduce_sum(self.base.entropy() + stretch, -1)

    @staticmethod
    def _log_slope(x: tf.Tensor) -> tf.Tensor:
        # log(1 - tanh(x)^2), written so that it does not underflow for large |x|
        return 2 * (float(np.log(2)) - x - tf.nn.softplus(-2 * x))


def kl_divergence(p: OneHot | Normal, q: OneHot | Normal) -> tf.Tensor:
    """KL(p || q), summed over the axes of one event: [N]."""
    return tfd.kl_divergence(p.dist, q.dist)
