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
    """Return float32 noise in [0, 1); each use needs its own seed, int32 [2] from `fold`."""
    # Philox by name, since the automatic choice differs between devices. Floats from its bits by
    # hand, since XLA makes other floats of the same bits, and so a compiled update other noise.
    bits = tf.random.stateless_uniform(shape, seed, None, None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24


def draw(seed: tf.Tensor, **shapes: Sequence[int]) -> dict[str, tf.Tensor]:
    """Return uniform noise for each use of a step's seed, from a stream for each in their order."""
    return {name: uniform(shapes[name], fold(seed, i)) for i, name in enumerate(shapes)}


# --- distributions ---


def _normal_quantile(u: tf.Tensor) -> tf.Tensor:
    # u = 0 would be minus infinity; half of float32's resolution keeps both tails symmetric.
    return tf.math.ndtri(tf.clip_by_value(u, 2**-24, 1 - 2**-24))


class Distribution:
    """Log-probability and entropy of `dist`, from TensorFlow Probability.

    They sum over one event: the trailing axes of parameters and samples that `event` counts,
    without the classes of a OneHot.
    """

    LIMIT = 1 - 1e-6  # on the edges -1 and 1 themselves a density is zero, its logarithm infinite
    dist: tfd.Distribution

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.dist.log_prob(tf.cast(value, self.dist.dtype))

    def entropy(self) -> tf.Tensor:
        return self.dist.entropy()


class OneHot(Distribution):
    """Categorical of logits [N, C], one-hot samples with straight-through gradients."""

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


class Normal(Distribution):
    """Independent normals; with std 1, -log_prob is half a squared error and a constant."""

    def __init__(self, mean: tf.Tensor, std: tf.Tensor | float = 1.0, event: int = 1):
        self.mean = at_least_float32(mean)
        self.std = at_least_float32(tf.convert_to_tensor(std, None, self.mean.dtype))
        self.dist = tfd.Independent(tfd.Normal(self.mean, self.std), event)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        return self.mean + self.std * _normal_quantile(tf.cast(noise, self.mean.dtype))

    def mode(self) -> tf.Tensor:
        return self.mean


class Bernoulli(Distribution):
    """Yes or no for each of the logits; targets may lie between 0 and 1."""

    def __init__(self, logits: tf.Tensor, event: int = 0):
        self.logits = at_least_float32(logits)
        self.dist = tfd.Independent(tfd.Bernoulli(self.logits, dtype=self.logits.dtype), event)
        self.mean = tf.sigmoid(self.logits)

    def mode(self) -> tf.Tensor:
        return tf.cast(self.logits > 0, self.logits.dtype)


class Uniform:
    """Uniform on [-1, 1], in the shape of `like`."""

    def __init__(self, like: tf.Tensor):
        self.like = at_least_float32(like)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        return 2 * tf.cast(noise, self.like.dtype) - 1


class TruncNormal(Distribution):
    """Independent normals, [N, A], of mean in [-1, 1], cut off at -1 and 1."""

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


class TanhNormal(Distribution):
    """tanh of independent normals, [N, A].

    Its entropy has no closed form: it is that of the normal plus E[log(1 - tanh(x)^2)], which
    Gauss-Hermite quadrature gives without noise.
    """

    # Nodes and weights of the 20-point rule for the standard normal.
    NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)

    def __init__(self, mean: tf.Tensor, std: tf.Tensor):
        self.mean, self.std = at_least_float32(mean), at_least_float32(std)
        self.base, self.tanh = tfd.Normal(self.mean, self.std), tfp.bijectors.Tanh()
        self.dist = tfd.Independent(tfd.TransformedDistribution(self.base, self.tanh), 1)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        noise = _normal_quantile(tf.cast(noise, self.mean.dtype))
        return tf.tanh(self.mean + self.std * noise)

    def mode(self) -> tf.Tensor:
        return tf.tanh(self.mean)

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.cast(value, self.mean.dtype)
        return self.dist.log_prob(tf.clip_by_value(value, -self.LIMIT, self.LIMIT))

    def entropy(self) -> tf.Tensor:
        nodes = tf.constant(self.NODES, self.mean.dtype)
        weights = tf.constant(self.WEIGHTS / self.WEIGHTS.sum(), self.mean.dtype)
        inner = self.mean[..., None] + self.std[..., None] * nodes
        stretch = tf.reduce_sum(weights * self.tanh.forward_log_det_jacobian(inner), -1)
        return tf.reduce_sum(self.base.entropy() + stretch, -1)


def kl_divergence(p: OneHot | Normal, q: OneHot | Normal) -> tf.Tensor:
    """KL(p || q), summed over the axes of one event: [N]."""
    return tfd.kl_divergence(p.dist, q.dist)
