"""Mixed precision: weights in float32, matrix products in the compute type.

Variables, their gradients and the optimizer stay in float32, since an update is often too small to
change a weight of 8 or 11 bits. A layer reads a variable by `weight`, which casts it. Where casts
would repeat, `weight` returns copies, from a table of this thread:

- `cast_once` surrounds a loss: one cast serves every step of a loop, gradients flow through it.
- `WeightCache` keeps copies for acting, where a cast takes longer than the product that follows.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping

import tensorflow as tf

from dreamerv2.common.nn import device

PRECISIONS = {"32": "float32", "16": "float16", "bfloat16": "bfloat16"}


class _Local(threading.local):
    copies: Mapping = {}  # reference of a variable -> tensor in the compute type


_local = _Local()


def compute_dtype(precision: str) -> tf.DType:
    """Return the compute type; auto is float16 on a GPU, else the faster one of this CPU."""
    if precision == "auto":
        precision = "bfloat16" if device.cpu_has_bfloat16() else "32"
        precision = "16" if device.gpus() else precision
    return tf.as_dtype(PRECISIONS[precision])


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Return x in float32, or in float64 if it is: the type of norms, sums and losses."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 or not x.dtype.is_floating else x


def weight(variable: tf.Variable, dtype: tf.DType) -> tf.Tensor:
    """Return the variable's value in the compute type: float16, bfloat16, float32 or float64."""
    if variable.dtype == dtype:
        return tf.convert_to_tensor(variable)
    copy = _local.copies.get(variable.ref())
    return tf.cast(variable, dtype) if copy is None else copy


def cast_once(*modules: tf.Module, dtype: tf.DType) -> contextlib.AbstractContextManager:
    """Within the block, `weight` returns one low-precision copy of each variable."""
    variables = [v for module in modules for v in module.variables] if dtype.size < 4 else []
    return _using({**_local.copies, **{v.ref(): tf.cast(v, dtype) for v in variables}})


class WeightCache:
    """Copies of weights in the compute type, for `in_use`; `refresh` them after every update.

    The copies are no part of any tf.Module, so no checkpoint holds them.
    """

    def __init__(self, *modules: tf.Module, dtype: tf.DType):
        weights = {v.ref(): v for module in modules for v in module.trainable_variables}
        weights = weights.values() if dtype.size < 4 else ()
        self._pairs = [(v, tf.Variable(tf.cast(v, dtype), trainable=False)) for v in weights]

    def refresh(self) -> None:
        for variable, copy in self._pairs:
            copy.assign(tf.cast(variable, copy.dtype))

    def in_use(self) -> contextlib.AbstractContextManager:
        return _using({v.ref(): tf.convert_to_tensor(copy) for v, copy in self._pairs})


@contextlib.contextmanager
def _using(copies: Mapping) -> Iterator[None]:
    outer, _local.copies = _local.copies, copies
    try:
        yield
    finally:
        _local.copies = outer
