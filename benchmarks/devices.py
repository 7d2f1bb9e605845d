"""Compiling for, and waiting for, the device that TensorFlow computes on."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from dreamerv2.common.nn.device import gpus


def compiled(function: Callable) -> Callable:
    """Compile as the agent does: with XLA on a GPU, without on a CPU."""
    return tf.function(function, jit_compile=bool(gpus()))


def wait(result: Any) -> Any:
    """Return a nest of tensors when they have been computed.

    A GPU processes its queue in order, so all results are ready when a number of the last one is.
    """
    last = [x for x in tf.nest.flatten(result) if x is not None][-1]
    float(tf.cast(tf.reshape(last, (-1,))[0], tf.float32))
    return result
