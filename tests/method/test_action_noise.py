import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from small_models import assert_close, numpy_of

from dreamerv2.common.nn.dists import uniform
from dreamerv2.exploration import action_noise

SEED = tf.constant([3, 7], tf.int32)


def onehots(batch, actions):
    index = np.random.default_rng(0).integers(0, actions, batch)
    return tf.constant(np.eye(actions)[index], tf.float32)


@pytest.mark.parametrize("amount", [0.1, 0.5, 1.0])
def test_discrete_noise_samples_from_the_blurred_action(amount):
    action = onehots(20_000, 5)
    noisy = action_noise(action, amount, True, uniform((20_000,), SEED))
    probs = amount / 5 + (1 - amount) * numpy_of(action)
    u = numpy_of(uniform((20_000,), SEED))
    clear = np.abs(np.cumsum(probs, -1) - u[:, None]).min(-1) > 1e-6  # float32 may round the rest
    index = (np.cumsum(probs, -1) <= u[:, None]).sum(-1)
    assert np.array_equal(np.argmax(noisy, -1)[clear], index[clear]), "inverse of the cdf"
    kept = np.mean(np.all(noisy == action, -1))
    assert abs(kept - (1 - amount + amount / 5)) < 0.015, "share of kept actions"
    assert set(np.unique(noisy)) == {0.0, 1.0}, "the action stays one-hot"


@pytest.mark.parametrize("amount", [0.1, 0.8])
def test_continuous_noise_is_normal_and_clipped(amount):
    action = tf.constant(np.random.default_rng(0).uniform(-1, 1, (500, 3)))
    noisy = action_noise(action, amount, False, uniform((500, 3), SEED))
    u = numpy_of(uniform((500, 3), SEED))
    expected = np.clip(stats.norm.ppf(u, numpy_of(action), amount), -1, 1)
    assert_close(noisy, expected, "clip(N(a, n), -1, 1)")
    assert (np.abs(expected) == 1).any(), "the case must contain clipped actions"
