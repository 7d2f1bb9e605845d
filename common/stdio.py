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
    """Within the block, discard output after terminal or pipe has closed."""
    with open(os.devnull, "w") as null:  # sys.stdout is None after `>&-` in a shell
        out, err = Survivor(sys.stdout, null), Survivor(sys.stderr, null)
        sys.stdout, sys.stderr = out, err
        try:
            yield
        finally:  # a closed stream must stay replaced, because Python flushes both as it exits
            sys.stdout, sys.stderr = out.stream, err.stream


class Survivor:
    """A text stream that discards all output after EIO or EPIPE.

    Attributes:
        stream: the one to print to; `null` after such an error.
    """

    def __init__(self, stream: TextIO | None, null: TextIO):
        self.stream, self._null = stream or null, null

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._discard_if_closed():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._discard_if_closed():
            self.stream.flush()

    @contextlib.contextmanager
    def _discard_if_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            self.stream = self._null


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as \\u03b1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
