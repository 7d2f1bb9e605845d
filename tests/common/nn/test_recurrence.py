"""A recurrence is the loop it replaces: the same states and the same gradients."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import assert_close

from dreamerv2.common.nn import recurrence
from dreamerv2.common.nn.recurrence import Linear, recur, scan

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


class Problem:
    """Two layers, variables of the step's own, resets, and a state with an entry of no use."""

    def __init__(self, dtype="float64"):
        draw = lambda *shape: tf.constant(rng.normal(size=shape), dtype)  # noqa: E731
        rng = np.random.default_rng(0)
        self.layers = {
            "one": Linear(draw(SIZE, HIDDEN), draw(STEPS, BATCH, HIDDEN)),
            "two": Linear(draw(HIDDEN, SIZE), draw(STEPS, BATCH, SIZE)),
        }
        self.gain, self.shift = tf.Variable(draw(SIZE)), tf.Variable(draw(SIZE))
        self.inputs = {"push": draw(STEPS, BATCH, SIZE), "keep": tf.cast(draw(5, 3) > -1, dtype)}
        self.start = {"a": draw(BATCH, SIZE), "b": draw(BATCH, SIZE), "unused": draw(BATCH, 2)}
        self.pull = {"a": draw(STEPS, BATCH, SIZE), "b": draw(STEPS, BATCH, SIZE)}

    def step(self, state, now, apply):
        kept = now["keep"][:, None] * state["a"]
        hidden = tf.tanh(apply("one", kept))
        a = self.gain * tf.sigmoid(apply("two", hidden)) + now["push"] * state["b"] + self.shift
        return {"a": a, "b": tf.sin(a) + 0.5 * state["b"], "unused": state["unused"]}

    def recurrent(self):
        return recur(self.step, self.layers, self.inputs, self.start)

    def plain(self):
        """The same by a loop with products, and TensorFlow's own gradient of it."""

        def step(state, now):
            inputs, offsets = now
            apply = lambda name, x: x @ self.layers[name].kernel + offsets[name]  # noqa: E731
            return self.step(state, inputs, apply)

        offsets = {name: layer.offset for name, layer in self.layers.items()}
        return scan(step, (self.inputs, offsets), self.start)

    def solve(self, how):
        """States and gradients of a sum that weighs all of them."""
        sources = {"layers": self.layers, "start": self.start, "variables": [self.gain, self.shift]}
        with tf.GradientTape() as tape:
            tape.watch(tf.nest.flatten((self.layers, self.start)))
            states = how()
            total = sum(tf.reduce_sum(states[key] * pull) for key, pull in self.pull.items())
        return states, tape.gradient(total, sources, unconnected_gradients="zero")


@pytest.mark.parametrize("compiled", [False, True], ids=["debugger", "graph"])
@pytest.mark.parametrize("device", ["CPU", "GPU"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_states_and_gradients_are_those_of_the_loop(compiled, device, dtype, monkeypatch):
    """On a GPU, kernels are padded for the products within the loops."""
    monkeypatch.setattr(recurrence, "gpus", lambda: ["a GPU"] * (device == "GPU"))
    problem = Problem(dtype)
    wrap = lambda how: tf.function(how, autograph=False) if compiled else how  # noqa: E731
    states, grads = wrap(lambda: problem.solve(problem.recurrent))()
    expected, expected_grads = problem.solve(problem.plain)
    for key, value in expected.items():
        assert_close(states[key], value, f"state {key}")
    assert np.any(expected_grads["variables"][1]) and np.any(expected_grads["start"]["b"])
    for one, other in zip(tf.nest.flatten(grads), tf.nest.flatten(expected_grads), strict=True):
        assert_close(one, other, f"a gradient of shape {other.shape}")


def test_a_layer_is_used_once():
    layer = {"one": Linear(tf.ones((2, 2)), tf.zeros((3, 1, 2)))}
    step = lambda state, now, apply: apply("one", apply("one", state))  # noqa: E731
    with pytest.raises(AssertionError, match="one is used twice"):
        recur(step, layer, tf.zeros((3, 1)), tf.zeros((1, 2)))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_gpu_sums_over_whole_parts_and_a_cpu_over_nothing_more(axis, monkeypatch):
    kernel = tf.ones((600, 1800))
    assert recurrence._aligned(kernel, axis) is kernel
    monkeypatch.setattr(recurrence, "gpus", lambda: ["a GPU"])
    aligned = recurrence._aligned(kernel, axis)
    assert aligned.shape[axis] == [640, 1920][axis] and tf.reduce_sum(aligned) == 600 * 1800
