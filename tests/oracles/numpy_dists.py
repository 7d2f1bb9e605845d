"""Densities, entropies, divergences and samples in NumPy and SciPy, from their definitions."""

import numpy as np
from scipy.special import log_softmax, ndtr, ndtri, softmax

LOG_2PI = np.log(2 * np.pi)
LIMIT = 1 - 1e-6


def same(x):
    """The value of stop_gradient: its argument."""
    return x


class Frozen:
    """stop_gradient for finite differences: repeats in later passes the values of the first.

    The difference quotient of a function that stops gradients through this equals the gradient that
    automatic differentiation with stop_gradient must give.
    """

    def __init__(self):
        self.values, self.at = [], None

    def __call__(self, x):
        if self.at is None:
            self.values.append(x)
            return x
        self.at += 1
        return self.values[self.at - 1]

    def replay(self):
        """Start a later pass."""
        self.at = 0


# --- categorical, over the last axis ---


def categorical_log_prob(logits, onehot):
    return (log_softmax(logits, -1) * onehot).sum(-1)


def categorical_entropy(logits):
    return -(softmax(logits, -1) * log_softmax(logits, -1)).sum(-1)


def categorical_kl(p, q):
    return (softmax(p, -1) * (log_softmax(p, -1) - log_softmax(q, -1))).sum(-1)


def categorical_sample(logits, u, sg=same):
    """First class whose cumulative probability exceeds u; gradient of the probabilities."""
    probs = softmax(logits, -1)
    index = np.minimum((np.cumsum(probs, -1) <= u[..., None]).sum(-1), probs.shape[-1] - 1)
    return sg(np.eye(probs.shape[-1])[index] - probs) + probs


# --- normal ---


def normal_log_prob(x, mean, std=1.0):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * LOG_2PI


def normal_entropy(std):
    return 0.5 * (1 + LOG_2PI) + np.log(std)


def normal_kl(mean_p, std_p, mean_q, std_q):
    ratio = std_p / std_q
    return 0.5 * (ratio**2 + ((mean_p - mean_q) / std_q) ** 2 - 1) - np.log(ratio)


def normal_sample(mean, std, u):
    return mean + std * ndtri(u)


# --- Bernoulli ---


def bernoulli_log_prob(x, logits):
    return x * -np.logaddexp(0, -logits) + (1 - x) * -np.logaddexp(0, logits)


# --- truncated normal on [-1, 1] ---


def truncated_entropy(mean, std):
    """In closed form: log(sqrt(2 pi e) std Z) + (a phi(a) - b phi(b)) / (2 Z)."""
    a, b = (-1 - mean) / std, (1 - mean) / std
    at_a, at_b = (np.exp(-0.5 * x**2 - 0.5 * LOG_2PI) for x in (a, b))
    mass = ndtr(b) - ndtr(a)
    tails = (a * at_a - b * at_b) / (2 * mass)
    return np.log(std * mass) + 0.5 * (1 + LOG_2PI) + tails


def truncated_log_prob(x, mean, std):
    mass = ndtr((1 - mean) / std) - ndtr((-1 - mean) / std)
    return normal_log_prob(x, mean, std) - np.log(mass)


def truncated_sample(mean, std, u, sg=same):
    """By the inverse of the cumulative distribution; cutting off at the edge keeps the gradient."""
    low, high = ndtr((-1 - mean) / std), ndtr((1 - mean) / std)
    value = mean + std * ndtri(low + (high - low) * u)
    return value + sg(np.clip(value, -LIMIT, LIMIT) - value)
