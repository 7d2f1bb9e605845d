"""Calls of compiled functions, with one copy to the device and one back for all metrics."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dreamerv2.common.nn import device
from dreamerv2.common.nn.recurrence import Nest


class Compiled:
    """A function of tensors, compiled once for each structure of arguments and set of options.

    NumPy arrays among the arguments are packed, so that a call makes one copy to the device. The
    graph of a call is found here, since tf.function takes 0.3 ms for that, and 0.1 ms for each
    argument.

    Args:
        function: (nests of tensors, options) -> nest of tensors.
        jit: False calls the function as it is, for a debugger.
        xla: compile by XLA on a CPU too. It joins many small operations, but is slow at large
            convolutions and in 16 bit there. On a GPU all is compiled by XLA.
        scalars: the function returns (result, metrics), and `metrics`, name -> number, is handed
            on as `Scalars`.
    """

    def __init__(
        self, function: Callable[..., Nest], jit: bool, xla: bool = False, scalars: bool = False
    ):
        self._function, self._jit, self._xla, self._scalars = function, jit, xla, scalars
        self._graphs = {}  # signature of a call -> (graph, names of its metrics)

    def __call__(self, *args: Nest, **options: Any) -> Nest:
        """Call the function.

        Args:
            args: dicts and tuples of tensors and NumPy arrays.
            options: Python values that the graph holds as constants.
        """
        if not self._jit:
            args, names = tf.nest.map_structure(tf.convert_to_tensor, args), []
            return self._result(self._run(args, options, names), names)
        leaves = tf.nest.flatten(args)
        tensors = [x for x in leaves if not isinstance(x, np.ndarray)]
        if len(tensors) < len(leaves):
            tensors.append(tf.constant(pack([x for x in leaves if isinstance(x, np.ndarray)])))
        key = _signature(args), *options.items()
        if key not in self._graphs:
            self._graphs[key] = self._compile(args, options, tensors)
        graph, names = self._graphs[key]
        return self._result(graph(*tensors), names)

    @property
    def count(self) -> int:
        """Number of graphs so far."""
        return len(self._graphs)

    def _compile(self, args: Nest, options: Mapping[str, Any], tensors: list) -> tuple:
        """Return the graph of a call, and the names of its metrics.

        Args:
            tensors: inputs of the graph: the tensors among `args`, then the packed arrays.
        """
        hosts = [isinstance(x, np.ndarray) for x in tf.nest.flatten(args)]
        fields = [(x.shape, x.dtype) for x in tf.nest.flatten(args) if isinstance(x, np.ndarray)]
        structure, names = tf.nest.map_structure(lambda x: None, args), []

        def call(*tensors):
            arrays = iter(unpack(tensors[-1], fields)) if fields else iter(())
            tensors = iter(tensors)
            flat = [next(arrays if host else tensors) for host in hosts]
            return self._run(tf.nest.pack_sequence_as(structure, flat), options, names)

        xla = self._xla or bool(device.gpus())
        # Without AutoGraph, which would read the source files again.
        function = tf.function(call, autograph=False, jit_compile=xla)
        return function.get_concrete_function(*tensors), names

    def _run(self, args: Nest, options: Mapping[str, Any], names: list[str]) -> Nest:
        outputs = self._function(*args, **options)
        if not self._scalars:
            return outputs
        result, metrics = outputs
        names[:] = metrics
        return result, _stack(metrics)

    def _result(self, outputs: Nest, names: Sequence[str]) -> Nest:
        return (outputs[0], Scalars(names, outputs[1])) if self._scalars else outputs


def _signature(nest: Nest) -> tuple:
    """Keys, shapes and types of a nest, and which of its leaves are NumPy arrays."""
    if isinstance(nest, Mapping):
        return tuple((key, _signature(nest[key])) for key in sorted(nest))
    if isinstance(nest, tuple):
        return tuple(map(_signature, nest))
    return isinstance(nest, np.ndarray), tuple(nest.shape), nest.dtype


def _stack(metrics: Mapping[str, tf.Tensor | float]) -> tf.Tensor:
    for name, value in metrics.items():
        shape = tf.TensorShape(getattr(value, "shape", ()))  # a Python number has none
        if shape.rank != 0:
            raise ValueError(f"The metric '{name}' must be a scalar, not {shape}.")
    return tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])


class Scalars(Mapping):
    """Named numbers, copied to the host on first access, so that an update does not block.

    Args:
        names: of the numbers.
        values: float32 [N].
    """

    def __init__(self, names: Sequence[str], values: tf.Tensor):
        self._names, self._values = names, values

    def __getitem__(self, name: str) -> float:
        if name not in self._names:
            raise KeyError(name)
        if not isinstance(self._values, np.ndarray):
            self._values = self._values.numpy()
        return float(self._values[self._names.index(name)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def pack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bytes of all arrays in a row, uint8 [N]."""
    return np.concatenate([array.ravel().view(np.uint8) for array in arrays])


def unpack(
    buffer: tf.Tensor, fields: Sequence[tuple[tuple[int, ...], np.dtype]]
) -> list[tf.Tensor]:
    """Return the arrays, given by shape and type, that `pack` put in a row."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in fields]
    parts = tf.split(buffer, sizes)
    return [_read(part, *field) for part, field in zip(parts, fields, strict=True)]


def _read(part: tf.Tensor, shape: tuple[int, ...], dtype: np.dtype) -> tf.Tensor:
    if dtype.itemsize > 1:
        return tf.bitcast(tf.reshape(part, (*shape, dtype.itemsize)), dtype)
    part = tf.reshape(part, shape)
    return tf.cast(part, dtype) if dtype.kind == "b" else tf.bitcast(part, dtype)
