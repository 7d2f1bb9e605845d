"""Keeping the start-up chatter of C++ libraries off the terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Hold back what the block writes on standard error; show it if the block fails.

    TensorFlow logs a dozen lines while it is imported, before its own TF_CPP_MIN_LOG_LEVEL counts;
    they would come between the user and the first lines of the run. That level is set to 1 here
    unless the user has chosen one; with 0, which names missing GPU libraries, nothing is held back.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") == "0":
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
