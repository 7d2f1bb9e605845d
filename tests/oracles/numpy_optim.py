"""Optimizers in NumPy: one variable, from the equations; and the order of an update."""

import numpy as np


class NumpyOptimizer:
    """Clip to a global norm, decay whatever the learning rate, then the rule's step.

    Args:
        values: start values of the variables.
        config: opt, lr, eps, clip, wd.
    """

    def __init__(self, values, config):
        self.values, self.config, self.t = [np.array(x, float) for x in values], config, 0
        self.first = [np.zeros_like(x) for x in self.values]
        self.second = [np.zeros_like(x) for x in self.values]

    def update(self, grads):
        """Take a step and return the norm of the gradients before clipping."""
        norm = np.sqrt(sum((grad**2).sum() for grad in grads))
        if self.config.clip and norm > self.config.clip:
            grads = [grad * self.config.clip / norm for grad in grads]
        self.t += 1
        for i, grad in enumerate(grads):
            decayed = self.values[i] * (1 - self.config.wd)
            self.values[i] = decayed - getattr(self, f"_{self.config.opt}")(i, grad)
        return norm

    def _rate(self):
        return self.config.lr * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)

    def _moments(self, i, grad):
        self.first[i] = 0.9 * self.first[i] + 0.1 * grad
        self.second[i] = 0.999 * self.second[i] + 0.001 * grad**2
        return self.first[i], np.sqrt(self.second[i]) + self.config.eps

    def _adam(self, i, grad):
        mean, root = self._moments(i, grad)
        return self._rate() * mean / root

    def _nadam(self, i, grad):
        mean, root = self._moments(i, grad)
        return self._rate() * (0.9 * mean + 0.1 * grad) / root

    def _adamax(self, i, grad):
        self.first[i] = 0.9 * self.first[i] + 0.1 * grad
        self.second[i] = np.maximum(0.999 * self.second[i], np.abs(grad))
        rate = self.config.lr / (1 - 0.9**self.t)
        return rate * self.first[i] / (self.second[i] + self.config.eps)

    def _sgd(self, i, grad):
        return self.config.lr * grad

    def _momentum(self, i, grad):
        self.first[i] = 0.9 * self.first[i] + grad
        return self.config.lr * self.first[i]
