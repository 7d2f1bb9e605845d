"""Exceptions: one sentence for the user, and files that are damaged."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one sentence: the mistake, the value, and the remedy. The command line prints
    the message and exits with status 2; a library user catches it like any exception.
    """


class DamagedFile(Exception):
    """A file whose content is not as it was written; the message is the reason."""


class NothingToSample(UserError):
    """A replay holds no sequence for a batch."""


class NotFinite(UserError):
    """A NaN or Inf where a number must be. `values`: the arrays to look at, by name."""

    def __init__(self, message: str, values: Mapping[str, Any]):
        super().__init__(message, values)  # both, because unpickling calls cls(*args)
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


def nearest(name: str, options: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of the options, or an empty string."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=cutoff)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def end_scripts_plainly() -> None:
    """Show an uncaught UserError of a script as one sentence, with exit status 2.

    A notebook shows exceptions as before, and a Python prompt stays open.
    """
    before = sys.excepthook

    def hook(kind: type, error: BaseException, trace: Any) -> None:
        if not isinstance(error, UserError):
            return before(kind, error, trace)
        print(f"Error: {error}", file=sys.stderr, flush=True)
        if not hasattr(sys, "ps1"):  # which only an interactive interpreter has
            raise SystemExit(2)

    sys.excepthook = hook
