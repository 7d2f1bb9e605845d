"""Calls of compiled functions, with one copy to the device and one back for all metrics."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dreamerv2.common.nn import device
from dreamerv2.common.nn.recurrence import Nest


class Compiled:
    """A function of nests of tensors, compiled for each structure of arguments and set of options.

    The graph of a call is found here: tf.function takes 0.3 ms for it, and 0.1 ms an argument.

    Args:
        jit: False calls the function as it is, for a debugger.
        xla: compile by XLA on a CPU too. It joins many small operations, but is slow at large
            convolutions and in 16 bit there. On a GPU all is compiled by XLA.
    """

    def __init__(self, function: Callable[..., Nest], jit: bool, xla: bool = False):
        self._function, self._jit, self._xla = function, jit, xla
        self.graphs = {}  # signature of a call -> graph

    def __call__(self, *args: Nest, **options: Any) -> Nest:
        """Call the function with tensors and arrays; a graph holds the options as constants."""
        if not self._jit:
            return self._function(*tf.nest.map_structure(tf.convert_to_tensor, args), **options)
        leaves = tf.nest.flatten(args)
        arrays = [x for x in leaves if isinstance(x, np.ndarray)]
        tensors = [x for x in leaves if not isinstance(x, np.ndarray)]
        tensors += [tf.constant(pack(arrays))] if arrays else []
        key = _signature(args), *options.items()
        if key not in self.graphs:
            fields = [(x.shape, x.dtype) for x in arrays]
            self.graphs[key] = self._compile(args, options, tensors, fields)
        return self.graphs[key](*tensors)

    def _compile(self, args: Nest, options: Mapping, tensors: list, fields: list) -> Callable:
        hosts = tf.nest.map_structure(lambda x: isinstance(x, np.ndarray), args)

        def call(*tensors):
            arrays = iter(unpack(tensors[-1], fields)) if fields else iter(())
            tensors = iter(tensors)
            flat = [next(arrays if host else tensors) for host in tf.nest.flatten(hosts)]
            return self._function(*tf.nest.pack_sequence_as(hosts, flat), **options)

        xla = self._xla or bool(device.gpus())
        # Without AutoGraph, which would read the source files again.
        function = tf.function(call, autograph=False, jit_compile=xla)
        return function.get_concrete_function(*tensors)


def _signature(nest: Nest) -> tuple:
    """Keys, shapes and types of a nest, and which of its leaves are NumPy arrays."""
    if isinstance(nest, Mapping):
        return tuple((key, _signature(nest[key])) for key in sorted(nest))
    if isinstance(nest, tuple):
        return tuple(map(_signature, nest))
    return isinstance(nest, np.ndarray), tuple(nest.shape), nest.dtype


class Scalars(Mapping):
    """Named numbers from `stack`, copied to the host on first access: an update does not wait."""

    def __init__(self, names: Iterable[str], values: tf.Tensor):
        self._index, self._values = {name: i for i, name in enumerate(names)}, values

    def __getitem__(self, name: str) -> float:
        index = self._index[name]
        if not isinstance(self._values, np.ndarray):
            self._values = self._values.numpy()
        return float(self._values[index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def stack(metrics: Mapping[str, tf.Tensor]) -> tuple[dict[str, tuple], tf.Tensor]:
    """Return the names, as keys, which a graph hands on, of empty entries; and float32 [N]."""
    values = [tf.cast(value, tf.float32) for value in metrics.values()]
    return dict.fromkeys(metrics, ()), tf.stack(values)


def pack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bytes of all arrays in a row, uint8 [N]."""
    return np.concatenate([array.ravel().view(np.uint8) for array in arrays])


def unpack(buffer: tf.Tensor, fields: Sequence[tuple[tuple, np.dtype]]) -> list[tf.Tensor]:
    """Return the arrays, given by shape and type, that `pack` put in a row."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in fields]
    parts = tf.split(buffer, sizes)
    return [_read(part, *field) for part, field in zip(parts, fields, strict=True)]


def _read(part: tf.Tensor, shape: tuple[int, ...], dtype: np.dtype) -> tf.Tensor:
    if dtype.itemsize > 1:
        return tf.bitcast(tf.reshape(part, (*shape, dtype.itemsize)), dtype)
    part = tf.reshape(part, shape)
    return tf.cast(part, dtype) if dtype.kind == "b" else tf.bitcast(part, dtype)
