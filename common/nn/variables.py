"""Variables: initial values that depend on the seed alone, and names for a checkpoint."""

from typing import Any

import numpy as np
import tensorflow as tf

from dreamerv2.common.errors import UserError


class Init:
    """Makes the variables of one part of a model: Glorot-uniform kernels, constant vectors.

    Args:
        rng: source of the initial values; NumPy's, so that they do not depend on the device.
        dtype: compute type of the layers; variables are float64 if it is, else float32.
        path: prefix of the variables' names, such as ``world_model/rssm``.
    """

    def __init__(self, rng: np.random.Generator, dtype: Any = tf.float32, path: str = ""):
        self.rng = rng
        self.dtype = tf.as_dtype(dtype)
        self.variable_dtype = tf.float64 if self.dtype == tf.float64 else tf.float32
        self.path = path

    def __truediv__(self, name: str) -> "Init":
        return Init(self.rng, self.dtype, f"{self.path}/{name}" if self.path else name)

    def at_least_float32(self) -> "Init":
        """Return the same Init with at least float32 as the compute type."""
        return Init(self.rng, self.variable_dtype, self.path)

    def glorot(self, shape: tuple[int, ...], name: str = "kernel") -> tf.Variable:
        """Uniform in +-sqrt(6 / (fan_in + fan_out)); leading dimensions are kernel windows."""
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        return self._variable(self.rng.uniform(-limit, limit, shape), name)

    def fill(self, shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
        return self._variable(np.full(shape, value), name)

    def _variable(self, value: np.ndarray, name: str) -> tf.Variable:
        value = value.astype(self.variable_dtype.as_numpy_dtype)
        return tf.Variable(value, name=f"{self.path}/{name}")


def named_variables(module: tf.Module) -> dict[str, tf.Variable]:
    """Return the module's variables by name, sorted; UserError if two share a name."""
    named = {}
    for variable in sorted(module.variables, key=lambda v: v.name):
        name = variable.name.removesuffix(":0")
        if name in named:  # a checkpoint would lack one of the two
            raise UserError(
                f"Two variables are called '{name}': rename the observation of that name."
            )
        named[name] = variable
    return named
