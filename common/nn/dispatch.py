"""Small arrays as one: a step then makes one copy to or from the device, not one per array."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

Layout = tuple[tuple[tuple[str, tuple[int, ...], np.dtype], ...], ...]


def pack(*groups: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Layout]:
    """Return the bytes of all arrays in a row, uint8 [N], and what `unpack` needs to know."""
    values = [value.ravel().view(np.uint8) for group in groups for value in group.values()]
    layout = tuple(tuple((k, v.shape, v.dtype) for k, v in group.items()) for group in groups)
    return np.concatenate(values), layout


def unpack(buffer: tf.Tensor, layout: Layout) -> list[dict[str, tf.Tensor]]:
    """Return the groups that `pack` was called with, as tensors."""
    groups, start = [], 0
    for fields in layout:
        groups.append({})
        for key, shape, dtype in fields:
            size = math.prod(shape) * dtype.itemsize
            groups[-1][key] = _read(buffer[start : start + size], shape, dtype)
            start += size
    return groups


def _read(part: tf.Tensor, shape: tuple[int, ...], dtype: np.dtype) -> tf.Tensor:
    if dtype.itemsize > 1:
        return tf.bitcast(tf.reshape(part, (*shape, dtype.itemsize)), dtype)
    part = tf.reshape(part, shape)
    return tf.cast(part, dtype) if dtype.kind == "b" else tf.bitcast(part, dtype)


class Scalars(Mapping):
    """Named numbers that a device computed, which are all read when the first is asked for.

    Until then nobody waits for the device, and a number that was read takes a few bytes.

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
