"""Mixed precision: weights in float32, matrix products in the compute type.

A layer never reads its variables directly. It calls `weight(variable, dtype)`, which returns the
value in the compute type (float16, bfloat16, float32 or float64):

- Variables are float32 (float64 in tests), and so are their gradients and the optimizer: an
  update is often too small to change a weight of 8 or 11 bits.
- A cast at every use would cast every weight at every step of a loop over time. Within
  `cast_once`, which surrounds a loss, each weight is cast a single time, and every `weight` call
  returns that copy. Gradients flow through the one cast.
- Acting multiplies each weight with one or a few rows, where a cast takes longer than the product.
  A `WeightCache` keeps copies from call to call; the agent refreshes them after an update.
- The copies are found in a table of this thread, since the layers, deep in a model, would
  otherwise hand them down through every call.
- Norms, distributions, sums and losses use `at_least_float32`.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping

import tensorflow as tf

from dreamerv2.common.nn import device

PRECISIONS = {"32": "float32", "16": "float16", "bfloat16": "bfloat16"}

_local = threading.local()


def compute_dtype(precision: str) -> tf.DType:
    """Return the type matrices are multiplied in for ``--precision auto|32|16|bfloat16``.

    auto: float16 on a GPU, bfloat16 on a CPU that is faster with it, else float32.
    """
    if precision == "auto":
        precision = "bfloat16" if device.cpu_has_bfloat16() else "32"
        precision = "16" if device.gpus() else precision
    return tf.as_dtype(PRECISIONS[precision])


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Return x in float32, or in float64 if it is: the type of norms, sums and losses."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 or not x.dtype.is_floating else x


def weight(variable: tf.Variable, dtype: tf.DType) -> tf.Tensor:
    """Return the variable's value in the compute type."""
    if variable.dtype == dtype:
        return tf.convert_to_tensor(variable)
    copy = _table().get(variable.ref())
    return tf.cast(variable, dtype) if copy is None else copy


@contextlib.contextmanager
def cast_once(*modules: tf.Module, dtype: tf.DType) -> Iterator[None]:
    """Within the block, `weight` returns one low-precision copy of each variable."""
    variables = [v for module in modules for v in module.variables] if dtype.size < 4 else []
    with _using({**_table(), **{v.ref(): tf.cast(v, dtype) for v in variables}}):
        yield


class WeightCache:
    """Copies of some modules' weights in the compute type, kept from call to call.

    Call `refresh` after every update of the weights; within `in_use`, `weight` returns the copies.
    The copies are no part of any tf.Module, so no checkpoint holds them.
    """

    def __init__(self, *modules: tf.Module, dtype: tf.DType):
        weights = {v.ref(): v for module in modules for v in module.trainable_variables}
        self._weights = list(weights.values()) if dtype.size < 4 else []
        self._copies = [tf.Variable(tf.cast(v, dtype), trainable=False) for v in self._weights]

    def refresh(self) -> None:
        for copy, variable in zip(self._copies, self._weights, strict=True):
            copy.assign(tf.cast(variable, copy.dtype))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        pairs = zip(self._weights, self._copies, strict=True)
        with _using({variable.ref(): tf.convert_to_tensor(copy) for variable, copy in pairs}):
            yield


def _table() -> Mapping:
    """Return this thread's copies: reference of a variable -> tensor."""
    return getattr(_local, "table", {})


@contextlib.contextmanager
def _using(table: Mapping) -> Iterator[None]:
    outer, _local.table = _table(), table
    try:
        yield
    finally:
        _local.table = outer
