"""Agents for the tests of a whole update, and comparison of the metrics they return."""

import functools

import numpy as np
from small_models import VECTORS, make_batch, randomize, small_config

from dreamerv2.agent import Agent

ACTIONS = 3


def build(*changes, shapes=VECTORS, discrete=True):
    """An agent with random weights."""
    agent = Agent(small_config(*changes), shapes, ACTIONS, discrete)
    randomize(agent, np.random.default_rng(3), 0.1)
    return agent


def batches(count, shapes=VECTORS, discrete=True, seed=100, batch=3, length=5):
    """Raw batches, one after the other."""
    make = functools.partial(make_batch, shapes, batch, length, ACTIONS, discrete)
    return [make(seed=seed + i) for i in range(count)]


def train(agent, data, state=None, step=0):
    """Metrics of one update after the other, as numbers, and the state carried on."""
    rows = []
    for batch in data:
        state, metrics = agent.train(batch, state, step)
        rows.append({key: float(value) for key, value in metrics.items()})
    return rows, state


def largest_difference(one, other):
    """Largest |a - b| / max(|a|, |b|, 1e-3) over the metrics of two runs."""
    worst = 0.0
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            size = max(abs(left[key]), abs(right[key]), 1e-3)
            worst = max(worst, abs(left[key] - right[key]) / size)
    return worst
