"""The exceptions that are the user's to read: a sentence, never a traceback."""

import difflib
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Raised by the readers of zip, .npy, JSON and YAML files where the content is malformed.
PARSE_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
)


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence that says what was wrong and what would be right. The command
    line prints it and exits with status 2; a library user catches it like any exception.
    """


class DamagedFile(Exception):
    """A file whose content is not as it was written; the message is the reason."""


class NothingToSample(UserError):
    """A replay holds no sequence for a batch."""


class NotFinite(UserError):
    """A NaN or Inf where a number must be. `values` are the arrays to look at, by name."""

    def __init__(self, message: str, values: Mapping[str, Any]):
        super().__init__(message, values)  # both: an exception that travels is made again of these
        self.values = dict(values)

    def __str__(self) -> str:
        return self.args[0]


def cannot_write(
    path: str | Path,
    error: OSError,
    advice: str = "Make room or permit writing there, then run the same command again.",
) -> UserError:
    """Return the error for a file or folder that the system refuses to write."""
    return UserError(f"Could not write {path}: {error.strerror or error}. {advice}")


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of the options, or an empty string."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def end_scripts_plainly() -> None:
    """Let a UserError that a script does not catch end it with its sentence and exit status 2.

    A notebook keeps its own way of showing exceptions, and a Python prompt stays open.
    """
    before = sys.excepthook

    def hook(kind: type, error: BaseException, trace: Any) -> None:
        if not isinstance(error, UserError):
            return before(kind, error, trace)
        print(f"Error: {error}", file=sys.stderr, flush=True)
        if not hasattr(sys, "ps1"):  # which only an interactive interpreter has
            raise SystemExit(2)

    sys.excepthook = hook
