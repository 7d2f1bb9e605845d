"""Printing that no terminal and no reader of a pipe can end a run by going away."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

GONE = (errno.EIO, errno.EPIPE)  # the terminal is closed; nobody reads the pipe any more


class Lasting:
    """A text stream that prints to nowhere once what it prints to is gone.

    Args:
        stream: over a file descriptor, such as sys.stdout.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text if there is nothing left to write to."""
        with self._outliving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; likewise."""
        with self._outliving():
            self._stream.flush()

    @contextlib.contextmanager
    def _outliving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what the stream still holds goes there
            os.close(nowhere)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within the block, standard output and standard error outlive their terminal or pipe.

    A stream that was closed before Python began (`>&-`) is None; it prints to nowhere as well.
    """
    with open(os.devnull, "w") as nowhere:
        out, err = Lasting(sys.stdout or nowhere), Lasting(sys.stderr or nowhere)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as \\u03b1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
