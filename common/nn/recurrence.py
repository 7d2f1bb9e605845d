"""Loops over time, and a recurrence of linear layers with as little as possible inside of them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from dreamerv2.common.nn.tfutils import Nest, gpus


def scan(
    step: Callable[[Nest, Nest], Nest],
    inputs: Nest,
    start: Nest,
    also: Nest = None,
    reverse: bool = False,
) -> Nest:
    """Run ``state = step(state, inputs[t])`` over the leading axis and stack the states.

    Args:
        step: maps (state, inputs at t) to a state of the same structure, shapes and types.
        inputs: nest of [T, ...] with static T.
        start: the state before the first step.
        also: if the step returns (state, more): what `more` looks like.
        reverse: from the last t to the first; what is stacked has the order of the inputs.

    Returns: nest like the state, each [T, ...], or (states, more).
    """
    inputs_flat = tf.nest.flatten(inputs)
    length = inputs_flat[0].shape[0]
    one = step if also is not None else lambda state, now: (step(state, now), ())
    at = lambda t: tf.nest.pack_sequence_as(inputs, [x[t] for x in inputs_flat])  # noqa: E731
    if tf.executing_eagerly():  # a plain loop, so that a debugger can step through it
        results, state = [], start
        for t in reversed(range(length)) if reverse else range(length):
            state, more = one(state, at(t))
            results.append((state, more))
        results = results[::-1] if reverse else results
        states, more = tf.nest.map_structure(lambda *xs: tf.stack(xs), *results)
    else:
        states, more = _graph_scan(one, inputs, start, () if also is None else also, reverse)
    return states if also is None else (states, more)


def _graph_scan(step, inputs, start, also, reverse):
    # One tf.while_loop: it traces in a second where an unrolled loop takes eight, and TensorArrays
    # of static size compile under XLA.
    inputs_flat = tf.nest.flatten(inputs)
    length = inputs_flat[0].shape[0]
    arrays = [tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]) for x in inputs_flat]
    arrays = [array.unstack(x) for array, x in zip(arrays, inputs_flat, strict=True)]
    results = [
        tf.TensorArray(x.dtype, length, element_shape=x.shape)
        for x in tf.nest.flatten((start, also))
    ]

    def body(count, state, results):
        t = length - 1 - count if reverse else count
        now = tf.nest.pack_sequence_as(inputs, [array.read(t) for array in arrays])
        state, more = step(state, now)
        flat = tf.nest.flatten((state, more))
        results = [array.write(t, x) for array, x in zip(results, flat, strict=True)]
        return count + 1, state, results

    loop = tf.while_loop(
        lambda *_: True,  # maximum_iterations alone: of two conditions XLA counts no iterations
        body,
        (tf.constant(0), start, results),
        parallel_iterations=1,
        maximum_iterations=length,
    )
    return tf.nest.pack_sequence_as((start, also), [array.stack() for array in loop[2]])


def swap_time(nest: Nest) -> Nest:
    """[B, T, ...] <-> [T, B, ...] for every tensor of a nest."""
    swap = lambda x: tf.transpose(x, (1, 0, *range(2, x.shape.rank)))  # noqa: E731
    return tf.nest.map_structure(swap, nest)


class Linear(NamedTuple):
    """A linear layer of a recurrence: y_t = x_t W + o_t.

    Attributes:
        kernel: W [inputs, units].
        offset: o [T, B, units]: the bias, and the share of inputs that are known beforehand.
    """

    kernel: tf.Tensor
    offset: tf.Tensor


def recur(step: Callable, layers: Mapping[str, Linear], inputs: Nest, start: Nest) -> Nest:
    """Run ``state = step(state, inputs[t], apply)`` over time and stack the states.

    The gradient that TensorFlow makes of a loop keeps every intermediate result of every step, and
    adds up T small products for each W. This one keeps the states and the y of each layer, from
    which a step is computed once more without a product:

    1. Backwards in time, the gradient of a state gives that of the state before and that of each
       y; its only products are those with W^T.
    2. After that loop dW = sum_t x_t^T dy_t, one product over T * B rows.

    Args:
        step: (state, inputs, apply) -> state, for rows [N, ...] that have nothing to do with each
            other; apply(name, x [N, inputs]) -> y [N, units] is the layer of that name, used once.
        layers: by name.
        inputs: nest of [T, B, ...].
        start: the state before the first step, nest of [B, ...].

    Returns: nest like the state, each [T, B, ...]. Gradients reach the layers, the start and
    variables that the step reads, but not the inputs.
    """
    kernels = {name: layer.kernel for name, layer in layers.items()}

    @tf.custom_gradient
    def run(kernels, offsets, start):
        padded = {name: _aligned(kernel, 0) for name, kernel in kernels.items()}

        def forward(state, now):
            inputs, offset = now
            ys = {}

            def apply(name, x):
                assert name not in ys, f"the layer {name} is used twice in one step"
                ys[name] = _product(x, padded[name]) + offset[name]
                return ys[name]

            return step(state, inputs, apply), ys

        states, ys = scan(forward, (inputs, offsets), start, _first(offsets))

        def gradient(*upstream, variables=()):
            upstream = tf.nest.pack_sequence_as(states, upstream)
            before = tf.nest.map_structure(
                lambda first, xs: tf.concat([first[None], xs[:-1]], 0), start, states
            )
            dstart, dys, found = _back(step, kernels, (before, inputs, ys, upstream), variables)
            xs = _layer_inputs(step, *tf.nest.map_structure(_rows, (before, inputs, ys)))
            dkernels = {k: tf.matmul(xs[k], _rows(dy), transpose_a=True) for k, dy in dys.items()}
            grads = tf.nest.flatten((dkernels, dys, dstart))
            return (grads, found) if variables else grads

        return states, gradient

    return run(kernels, {name: layer.offset for name, layer in layers.items()}, start)


def _back(step: Callable, kernels: Mapping, known: tuple, variables) -> tuple[Nest, dict, list]:
    """Gradients of the state at the start, of every y, [T, B, units], and of the variables."""
    padded = {name: _aligned(kernel, 1) for name, kernel in kernels.items()}
    variables = list(variables)

    def backward(later, now):
        before, inputs, ys, upstream = now
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((before, ys, variables))
            state = step(before, inputs, lambda name, x: _given(x, padded[name], ys[name]))
        total = tf.nest.map_structure(tf.add, upstream, later)
        sources = (before, (ys, variables))
        state, total = tf.nest.flatten(state), tf.nest.flatten(total)
        return tape.gradient(state, sources, total, unconnected_gradients="zero")

    before, _, ys, _ = known
    none = tf.nest.map_structure(tf.zeros_like, _first(before))
    states, (dys, found) = scan(backward, known, none, (_first(ys), variables), reverse=True)
    return _first(states), dys, [tf.reduce_sum(x, 0) for x in found]


@tf.custom_gradient
def _given(x: tf.Tensor, kernel: tf.Tensor, y: tf.Tensor):
    """y, with the gradients of y = x W + o to x and o."""
    return tf.identity(y), lambda dy: (_product(dy, kernel, transpose=True), None, dy)


def _layer_inputs(step: Callable, before: Nest, inputs: Nest, ys: dict) -> dict[str, tf.Tensor]:
    """x [N, inputs] of every layer."""
    xs = {}

    def apply(name, x):
        xs[name] = x
        return ys[name]

    step(before, inputs, apply)
    return xs


def _aligned(kernel: tf.Tensor, axis: int) -> tf.Tensor:
    """On a GPU, W with zeros up to a multiple of 128 along the axis that a product sums over.

    A GPU sums such a product of few rows in several parts of a multiple of 16. Otherwise XLA pads
    W for that at every step.
    """
    missing = -kernel.shape[axis] % 128
    if not gpus() or not missing:
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


def _first(nest: Nest) -> Nest:
    """[T, ...] -> [...]."""
    return tf.nest.map_structure(lambda x: x[0], nest)
