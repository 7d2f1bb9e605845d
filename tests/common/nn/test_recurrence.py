"""`recur` is `scan`: the same states and the same gradients."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import assert_close

from dreamerv2.common.nn import device, recurrence
from dreamerv2.common.nn.recurrence import linear, recur, scan

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


class Problem:
    """Two linear layers, variables of the step itself, resets, and an unused entry of the state."""

    def __init__(self, dtype):
        rng = np.random.default_rng(0)

        def draw(*shape):
            return tf.constant(rng.normal(size=shape), dtype)

        self.one, self.two = (draw(SIZE, HIDDEN), draw(HIDDEN)), (draw(HIDDEN, SIZE), draw(SIZE))
        self.gain, self.shift = tf.Variable(draw(SIZE)), tf.Variable(draw(SIZE))
        self.inputs = {"share": draw(STEPS, BATCH, SIZE), "keep": tf.cast(draw(5, 3) > -1, dtype)}
        self.start = {"a": draw(BATCH, SIZE), "b": draw(BATCH, SIZE), "unused": draw(BATCH, 2)}
        self.pull = {"a": draw(STEPS, BATCH, SIZE), "b": draw(STEPS, BATCH, SIZE)}

    def step(self, state, now):
        kept = now["keep"][:, None] * state["a"]
        hidden = tf.tanh(linear(kept, lambda: self.one))
        a = self.gain * tf.sigmoid(linear(hidden, lambda: self.two) + now["share"])
        a += self.shift * state["b"]
        return {"a": a, "b": tf.sin(a) + 0.5 * state["b"], "unused": state["unused"]}

    def solve(self, loop):
        """States, and gradients of a sum that weighs all of them."""
        tensors = {"weights": (self.one, self.two), "start": self.start, "inputs": self.inputs}
        variables = [self.gain, self.shift]
        with tf.GradientTape() as tape:
            tape.watch(tf.nest.flatten(tensors))
            states = loop(self.step, self.inputs, self.start)
            total = sum(tf.reduce_sum(states[key] * pull) for key, pull in self.pull.items())
        sources = {**tensors, "variables": variables}
        return states, tape.gradient(total, sources, unconnected_gradients="zero")


@pytest.mark.parametrize("compiled", [False, True], ids=["debugger", "graph"])
@pytest.mark.parametrize("gpus", [[], ["a GPU"]], ids=["CPU", "GPU"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_recur_equals_scan(compiled, gpus, dtype, monkeypatch):
    """On a GPU, kernels are padded for the products within the loops."""
    monkeypatch.setattr(device, "gpus", lambda: gpus)
    problem = Problem(dtype)
    solve = tf.function(problem.solve, autograph=False) if compiled else problem.solve
    states, grads = solve(recur)
    expected, expected_grads = problem.solve(scan)
    for key, value in expected.items():
        assert_close(states[key], value, f"state {key}")
    assert all(np.any(x) for x in expected_grads["variables"]) and np.any(
        expected_grads["weights"][0][1]
    )
    for name, nest in expected_grads.items():
        for one, other in zip(*map(tf.nest.flatten, (grads[name], nest)), strict=True):
            assert_close(one, other, f"gradient of {name}, shape {other.shape}")


def test_the_loop_of_tensorflow_is_one_switch_away(monkeypatch):
    problem = Problem("float64")
    fast = problem.solve(recur)
    monkeypatch.setattr(recurrence, "FAST_GRADIENT", False)
    for one, other in zip(*map(tf.nest.flatten, (fast, problem.solve(recur))), strict=True):
        assert_close(one, other, "a state or gradient")
