"""Standard output and error that survive the end of their terminal or pipe."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

CLOSED = (errno.EIO, errno.EPIPE)  # of a closed terminal, of a pipe without a reader


@contextlib.contextmanager
def survive_closed_terminal() -> Iterator[None]:
    """Discard output after the terminal or pipe has closed (EIO, EPIPE), within the block."""
    with open(os.devnull, "w") as null:  # sys.stdout is None after `>&-` in a shell
        out, err = Survivor(sys.stdout or null), Survivor(sys.stderr or null)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield


class Survivor:
    """A text stream over a file descriptor that discards output after EIO or EPIPE."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._discard_if_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._discard_if_closed():
            self._stream.flush()

    @contextlib.contextmanager
    def _discard_if_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # the stream's buffer is flushed there
            os.close(null)


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as \\u03b1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
