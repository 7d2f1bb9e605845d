"""Small arrays as one: a step then makes one copy to the device, not one per array."""

import math
from collections.abc import Mapping

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
