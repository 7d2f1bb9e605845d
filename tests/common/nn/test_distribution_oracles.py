import numpy as np
import numpy_dists as oracle
import pytest
import tensorflow as tf
from scipy import integrate, stats
from scipy.special import expit
from small_models import assert_close, numpy_of

from dreamerv2.common.nn import dists

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
SHAPES = pytest.mark.parametrize("shape", [(4,), (5, 3), (2, 3, 4)])


def draw(shape, dtype, low=None, seed=0):
    """Normal numbers, or uniform ones between low and 1."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) if low is None else rng.uniform(low, 1, shape)
    return tf.constant(values, dtype)


@DTYPES
@SHAPES
def test_categorical(shape, dtype):
    logits, u = 2 * draw(shape, dtype), draw(shape[:-1], dtype, 0)
    dist, array = dists.OneHot(logits), numpy_of(logits)
    sample = dist.sample(u)
    assert_close(sample, oracle.categorical_sample(array, numpy_of(u)), "inverse of the cdf")
    assert set(np.unique(sample)) <= {0.0, 1.0} and np.all(np.sum(sample, -1) == 1), "one-hot"
    assert_close(
        dist.log_prob(sample), oracle.categorical_log_prob(array, numpy_of(sample)), "log_prob"
    )
    assert_close(dist.entropy(), oracle.categorical_entropy(array), "entropy")
    assert_close(dist.mode(), np.eye(shape[-1])[array.argmax(-1)], "mode")


@DTYPES
def test_events_of_several_categories_sum(dtype):
    p, q = draw((2, 3, 4), dtype), draw((2, 3, 4), dtype, seed=1)
    one, other = dists.OneHot(p, event=1), dists.OneHot(q, event=1)
    expected = oracle.categorical_kl(*numpy_of((p, q))).sum(-1)
    assert_close(dists.kl_divergence(one, other), expected, "KL")
    assert_close(one.entropy(), oracle.categorical_entropy(numpy_of(p)).sum(-1), "entropy")
    sample = one.sample(draw((2, 3), dtype, 0))
    expected = oracle.categorical_log_prob(numpy_of(q), numpy_of(sample)).sum(-1)
    assert_close(other.log_prob(sample), expected, "log_prob")


def test_noise_at_both_ends_still_gives_a_category():
    logits = tf.constant(np.random.default_rng(0).normal(size=(1000, 32)), tf.float32)
    for u in (0.0, 1 - 2**-24):
        sample = dists.OneHot(logits).sample(tf.fill((1000,), tf.constant(u, tf.float32)))
        assert np.all(np.sum(sample, -1) == 1), f"no category at u = {u}"
    impossible = tf.constant([[-np.inf, 0.0, -np.inf]])
    for u in (0.0, 0.5, 1 - 2**-24):
        assert dists.OneHot(impossible).sample(tf.constant([u])).numpy().tolist() == [[0, 1, 0]]


@DTYPES
@SHAPES
def test_normal(shape, dtype):
    mean, std, x = draw(shape, dtype), draw(shape, dtype, 0.1, 1), draw(shape, dtype, seed=2)
    u = draw(shape, dtype, 0.001, 3)
    for event in range(1, len(shape) + 1):
        dist, axes = dists.Normal(mean, std, event), tuple(range(-event, 0))
        m, s, value, noise = numpy_of((mean, std, x, u))
        expected = stats.norm.logpdf(value, m, s).sum(axes)
        assert_close(dist.log_prob(x), expected, "log_prob")
        assert_close(dist.entropy(), stats.norm.entropy(m, s).sum(axes), "entropy")
        assert_close(dist.mode(), m, "mode")
        assert_close(dist.sample(u), stats.norm.ppf(noise, m, s), "inverse of the cdf")
        other = dists.Normal(x, 1.0, event)
        expected = oracle.normal_kl(m, s, value, np.ones_like(s)).sum(axes)
        assert_close(dists.kl_divergence(dist, other), expected, "KL")


@pytest.mark.parametrize("kind", [dists.Normal, dists.TruncNormal, dists.TanhNormal])
def test_samples_stay_finite_at_both_ends_of_the_noise(kind):
    edges = tf.constant([[0.0, 1 - 2**-24]])
    for mean in (-1.0, 0.0, 1.0):
        sample = kind(tf.fill((1, 2), mean), tf.fill((1, 2), 0.1)).sample(edges)
        assert np.isfinite(sample).all(), f"mean {mean}"


@DTYPES
@SHAPES
def test_bernoulli_with_soft_targets(shape, dtype):
    logits, x = 3 * draw(shape, dtype), draw(shape, dtype, 0, 1)
    for event in range(len(shape) + 1):
        dist, axes = dists.Bernoulli(logits, event), tuple(range(-event, 0))
        z, value = numpy_of((logits, x))
        expected = oracle.bernoulli_log_prob(value, z).sum(axes)
        assert_close(dist.log_prob(x), expected, "log_prob")
        assert_close(dist.mean, expit(z), "mean")
        assert_close(dist.mode(), (expit(z) > 0.5).astype(float), "mode")
        probs = expit(z)
        entropy = -(probs * np.log(probs) + (1 - probs) * np.log(1 - probs)).sum(axes)
        assert_close(dist.entropy(), entropy, "entropy")


@DTYPES
@SHAPES
def test_truncated_normal(shape, dtype):
    mean, std = tf.tanh(draw(shape, dtype)), draw(shape, dtype, 0.1, 1) * 2
    u = draw(shape, dtype, 0.001, 2)
    dist, (m, s, noise) = dists.TruncNormal(mean, std), numpy_of((mean, std, u))
    reference = stats.truncnorm((-1 - m) / s, (1 - m) / s, m, s)
    sample = dist.sample(u)
    assert_close(sample, reference.ppf(noise), "inverse of the cdf")
    x = numpy_of(sample)
    assert_close(dist.log_prob(sample), reference.logpdf(x).sum(-1), "log_prob")
    assert_close(dist.entropy(), oracle.truncated_entropy(m, s).sum(-1), "entropy")
    assert_close(dist.mode(), np.clip(m, -1, 1), "mode")


def test_truncated_samples_stay_off_the_edge():
    mean = tf.constant([[0.9999, -0.9999]])
    noise = tf.constant([[1 - 2**-24, 0.0]])
    dist = dists.TruncNormal(mean, tf.fill((1, 2), 2.0))
    sample = dist.sample(noise)
    limit = np.float32(1 - 1e-6)
    assert np.abs(sample).max() <= limit and np.isfinite(dist.log_prob(sample)).all()
    assert np.abs(dists.TruncNormal(tf.sign(mean), mean * 0 + 1).mode()).max() <= limit


@DTYPES
def test_tanh_normal(dtype):
    mean, std, u = draw((5, 3), dtype), draw((5, 3), dtype, 0.1, 1), draw((5, 3), dtype, 0.01, 2)
    dist, (m, s, noise) = dists.TanhNormal(mean, std), numpy_of((mean, std, u))
    inner = stats.norm.ppf(noise, m, s)
    sample = dist.sample(u)
    assert_close(sample, np.tanh(inner), "sample")
    x = numpy_of(sample)
    expected = (stats.norm.logpdf(np.arctanh(x), m, s) - np.log1p(-(x**2))).sum(-1)
    assert_close(
        dist.log_prob(sample), expected, "log_prob", factor=10 if dtype == "float32" else 1
    )
    assert_close(dist.mode(), np.tanh(m), "mode")


def test_entropy_of_the_tanh_normal_is_its_integral():
    """To 2e-3 nats: the quadrature of 20 points is exact only for polynomials."""
    for mean, std in [(0.0, 0.3), (1.0, 0.7), (-2.0, 1.0), (0.5, 2.0)]:
        base = stats.norm(mean, std)

        def integrand(x, base=base):
            return base.pdf(x) * 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))

        stretch = integrate.quad(integrand, mean - 12 * std, mean + 12 * std)
        actual = dists.TanhNormal(tf.constant([[mean]]), tf.constant([[std]])).entropy()
        assert abs(float(actual[0]) - base.entropy() - stretch[0]) < 2e-3, (mean, std)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_distributions_of_low_precision_inputs_are_computed_in_float32(dtype):
    x = tf.cast(draw((3, 4), "float32"), dtype)
    std = tf.ones_like(x)
    cases = [dists.OneHot(x), dists.Normal(x, std), dists.Bernoulli(x)]
    for dist in [*cases, dists.TruncNormal(tf.tanh(x), std), dists.TanhNormal(x, std)]:
        name = type(dist).__name__
        assert dist.log_prob(dist.mode()).dtype == tf.float32, name
        assert dist.entropy().dtype == tf.float32, name
