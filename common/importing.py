"""Importing TensorFlow: without its remarks, and without Keras 3, which nothing here uses."""

import contextlib
import sys
from collections.abc import Iterator

from dreamerv2.common.hush import hushed

KERAS = "keras.src"  # where all of it is


@contextlib.contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Within the block, importing TensorFlow is quiet and leaves Keras out.

    TensorFlow's last act is to import Keras, and with it matplotlib: a second of seven. It goes on
    if that fails, as TensorFlow Probability does, which then takes tf_keras. After the block Keras
    and `tf.keras` can be imported as ever; within it no thread can.
    """
    blocked = KERAS not in sys.modules
    if blocked:
        sys.modules[KERAS] = None  # Python finds no such module then
    try:
        with hushed():
            yield
    finally:
        if blocked:
            _unblock()


def _unblock() -> None:
    sys.modules.pop(KERAS, None)
    tensorflow = sys.modules.get("tensorflow")
    if compat := getattr(tensorflow, "compat", None):
        # TensorFlow Probability asked this name in vain: that lazy module would fail for good.
        compat.v2.keras = tensorflow.keras
