"""Importing TensorFlow: without its remarks, and without what nothing here uses of it."""

import contextlib
import sys
from collections.abc import Iterator

from dreamerv2.common.hush import hushed

# Keras 3 as a whole, which TensorFlow imports last, and with it matplotlib; and what tf_keras, of
# TensorFlow Probability, reads tables with. All three go on without.
LEFT_OUT = ("keras.src", "pandas")


@contextlib.contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Within the block, importing TensorFlow is quiet and leaves `LEFT_OUT` out.

    That saves a fifth of the time. After the block Keras, `tf.keras` and pandas can be imported as
    ever; within it no thread can. What was imported before the block stays.
    """
    blocked = [name for name in LEFT_OUT if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # of None Python says that there is no such module
    try:
        with hushed():
            yield
    finally:
        for name in blocked:
            sys.modules.pop(name, None)
        if "keras.src" in blocked:
            _repair_keras()


def _repair_keras() -> None:
    tensorflow = sys.modules.get("tensorflow")
    if compat := getattr(tensorflow, "compat", None):
        # TensorFlow Probability asked this name in vain: that lazy module would fail for good.
        compat.v2.keras = tensorflow.keras
