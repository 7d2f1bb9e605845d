"""Loops over time: `scan`, and `recur`, which is `scan` with a faster gradient.

A layer that `recur` is to see computes its product by `linear`.
"""

import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from dreamerv2.common.nn import device, kernels

Nest = Any  # a tensor or a (nested) dict, list or tuple of tensors
Step = Callable[[Nest, Nest], Nest]  # state, inputs at t -> next state

FAST_GRADIENT = True  # False: TensorFlow's own gradient of the loop


def scan(step: Step, inputs: Nest, start: Nest, extra: Nest = None, reverse: bool = False) -> Nest:
    """Run ``state = step(state, inputs[t])`` over the leading axis and stack the states.

    Args:
        inputs: nest of [T, ...] with static T.
        start: the state before the first step; each step returns its like in shapes and types.
        extra: structure of the second output, if `step` returns (state, extra).
        reverse: from the last t to the first; the stacked states keep the order of the inputs.

    Returns: nest like the state, each [T, ...], or (states, extras).
    """
    if extra is None:
        return scan(lambda state, now: (step(state, now), ()), inputs, start, (), reverse)[0]
    loop = _python_loop if tf.executing_eagerly() else _graph_loop
    return loop(step, inputs, start, extra, reverse)


def _python_loop(step, inputs, start, extra, reverse):
    """A plain loop, so that a debugger can step through it."""
    results, state = [], start
    times = range(tf.nest.flatten(inputs)[0].shape[0])
    for t in reversed(times) if reverse else times:
        state, more = step(state, _at(inputs, t))
        results.append((state, more))
    return tf.nest.map_structure(lambda *xs: tf.stack(xs[::-1] if reverse else xs), *results)


def _graph_loop(step, inputs, start, extra, reverse):
    """One tf.while_loop: it traces in a second where an unrolled loop takes eight."""
    flat = tf.nest.flatten(inputs)
    length = flat[0].shape[0]
    arrays = [tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]) for x in flat]
    arrays = [array.unstack(x) for array, x in zip(arrays, flat, strict=True)]
    # TensorArrays of static size compile under XLA.
    results = [
        tf.TensorArray(x.dtype, length, element_shape=x.shape)
        for x in tf.nest.flatten((start, extra))
    ]

    def body(count, state, results):
        t = length - 1 - count if reverse else count
        now = tf.nest.pack_sequence_as(inputs, [array.read(t) for array in arrays])
        flat = tf.nest.flatten(outputs := step(state, now))
        results = [array.write(t, x) for array, x in zip(results, flat, strict=True)]
        return count + 1, outputs[0], results

    # No condition but maximum_iterations: of two, XLA counts no iterations.
    options = {"parallel_iterations": 1, "maximum_iterations": length}
    loop = tf.while_loop(lambda *_: True, body, (tf.constant(0), start, results), **options)
    return tf.nest.pack_sequence_as((start, extra), [array.stack() for array in loop[2]])


def swap_time(nest: Nest) -> Nest:
    """[B, T, ...] <-> [T, B, ...] for every tensor of a nest."""
    return tf.nest.map_structure(lambda x: tf.transpose(x, (1, 0, *range(2, x.shape.rank))), nest)


def linear(x: tf.Tensor, weights: Callable[[], tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """x W + b: [N, inputs] -> [N, units]; `weights` returns (W, b).

    It is a function, so that a step within `recur` does not read the weights again.
    """
    return _local.linear(x, weights)


def _linear(x, weights):
    kernel, bias = weights()
    return kernels.add_bias(tf.matmul(x, kernel), bias)


class _Local(threading.local):
    linear = staticmethod(_linear)


_local = _Local()


def recur(step: Step, inputs: Nest, start: Nest) -> Nest:
    """Run ``state = step(state, inputs[t])`` over time and stack the states, as `scan` does.

    The gradient that TensorFlow makes of a loop keeps every intermediate result of every step, and
    adds up T small products for each W. This gradient keeps the states and y = x W + b of each
    `linear`, from which a step is computed once more without a product:

    1. Backwards in time, the gradient of a state gives that of the state before and that of each
       y; the only products are those with W^T.
    2. After that loop dW = sum_t x_t^T dy_t, one product over T * B rows.

    Args:
        step: for rows [N, ...] that do not depend on each other. Other weights than those of
            `linear` must be variables or inputs.
        inputs, start: nests of [T, B, ...] and of [B, ...].
    """
    if not FAST_GRADIENT:
        return scan(step, inputs, start)

    def zeros(_, x, weights):
        return tf.zeros((x.shape[0], weights()[0].shape[1]), x.dtype)

    # A step with zeros for every y finds the weights; a graph drops its operations, unused.
    _, linears = _run(step, start, _at(inputs, 0), zeros)

    @tf.custom_gradient
    def run(weights, inputs, start):
        padded = [(_aligned(kernel, 0), bias) for kernel, bias in weights]

        def forward(state, now):
            def multiply(i, x, _):
                kernel, bias = padded[i]
                return kernels.add_bias(_product(x, kernel), bias)

            state, products = _run(step, state, now, multiply)
            return state, [y for *_, y in products]

        states, ys = scan(forward, inputs, start, [y for *_, y in linears])

        def gradient(*upstream, variables=()):
            upstream = tf.nest.pack_sequence_as(states, upstream)
            before = tf.nest.map_structure(
                lambda first, xs: tf.concat([first[None], xs[:-1]], 0), start, states
            )
            known = before, inputs, ys
            padded = [_aligned(kernel, 1) for kernel, _ in weights]
            grads = _back(step, padded, known, upstream, list(variables))
            dstart, dys, dinputs, dvariables = grads
            *rows, results = tf.nest.map_structure(_rows, known)
            _, products = _run(step, *rows, lambda i, *_: results[i])  # all steps at once
            dweights = [
                (tf.matmul(x, _rows(dy), transpose_a=True), tf.reduce_sum(dy, (0, 1)))
                for (x, *_), dy in zip(products, dys, strict=True)
            ]
            grads = tf.nest.flatten((dweights, dinputs, dstart))
            return (grads, dvariables) if variables else grads

        return states, gradient

    return run([weights() for _, weights, _ in linears], inputs, start)


def _run(step: Step, state: Nest, now: Nest, result: Callable) -> tuple[Nest, list]:
    """Take a step in which `result(i, x, weights)` gives y of the i-th `linear`.

    Returns: the next state, and (x, weights, y) of every `linear`.
    """
    calls, outer = [], _local.linear

    def record(x, weights):
        y = result(len(calls), x, weights)
        calls.append((x, weights, y))
        return y

    _local.linear = record
    try:
        return step(state, now), calls
    finally:
        _local.linear = outer


def _back(step: Step, padded: list, known: tuple, upstream: Nest, variables: list) -> tuple:
    """Gradients of the start, of every y and input, [T, B, ...], and of the variables."""

    def backward(later, now):
        (before, inputs, ys), upstream = now
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((before, inputs, ys, variables))
            state, _ = _run(step, before, inputs, lambda i, x, _: _given(x, padded[i], ys[i]))
        total = tf.nest.map_structure(tf.add, upstream, later)
        sources = (before, (ys, inputs, variables))
        state, total = tf.nest.flatten(state), tf.nest.flatten(total)
        return tape.gradient(state, sources, total, unconnected_gradients="zero")

    before, inputs, ys = known
    none = tf.nest.map_structure(tf.zeros_like, _at(before, 0))
    extra = _at(ys, 0), _at(inputs, 0), variables
    states, grads = scan(backward, (known, upstream), none, extra, reverse=True)
    dys, dinputs, dvariables = grads
    return _at(states, 0), dys, dinputs, [tf.reduce_sum(x, 0) for x in dvariables]


@tf.custom_gradient
def _given(x: tf.Tensor, kernel: tf.Tensor, y: tf.Tensor):
    """y, with the gradients of y = x W + b to x and to y itself."""
    return tf.identity(y), lambda dy: (_product(dy, kernel, transpose=True), None, dy)


def _aligned(kernel: tf.Tensor, axis: int) -> tf.Tensor:
    """On a GPU, W with zeros up to a multiple of 128 along the axis that a product sums over.

    A GPU sums such a product of few rows in several parts of a multiple of 16. Otherwise XLA pads
    W for that at every step.
    """
    missing = -kernel.shape[axis] % 128
    if not device.gpus() or not missing:
        return kernel
    return tf.pad(kernel, [[0, missing], [0, 0]] if axis == 0 else [[0, 0], [0, missing]])


def _product(x: tf.Tensor, kernel: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """x W or x W^T, for a W from `_aligned`."""
    missing = kernel.shape[int(transpose)] - x.shape[1]
    x = tf.pad(x, [[0, 0], [0, missing]]) if missing else x
    return tf.matmul(x, kernel, transpose_b=transpose)


def _rows(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] -> [T * B, ...]."""
    return tf.reshape(x, (-1, *x.shape[2:]))


def _at(nest: Nest, t: int) -> Nest:
    """[T, ...] -> [...]."""
    return tf.nest.map_structure(lambda x: x[t], nest)
