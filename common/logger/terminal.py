"""Lines of metrics and progress bars on a terminal, or plain lines without one."""

import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from dreamerv2.common.logger.logger import Entry, Output

LONG_EPISODE = 30_000  # agent steps; an Atari episode has at most 27,000
REPORT_SECONDS = 30  # between plain lines of a phase in progress


class TerminalOutput(Output):
    """Prints the scalars of a write on one readable line of standard output.

    On a terminal long lines are wrapped and progress bars (tqdm) stay below them. Anywhere else
    each write is one plain line, for ``grep``.
    """

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Print the scalars; nothing if there are none."""
        scalars = [f"{x.name} {_readable(x.value)}" for x in entries if x.kind == "scalar"]
        if not scalars:
            return
        line = f"[{step}] " + " / ".join(scalars)
        if sys.stdout.isatty():
            columns = max(shutil.get_terminal_size().columns, 40)
            line = textwrap.fill(line, columns, subsequent_indent="    ", break_long_words=False)
        tqdm.tqdm.write(line, sys.stdout)  # Clears active bars, prints, and redraws them.
        sys.stdout.flush()


def _readable(value: int | float) -> str:
    if isinstance(value, int) or (abs(value) < 1e9 and value == int(value)):
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:.5g}"


class Progress:
    """Shows the progress of a phase of the run: rate, time left and the last return.

    A context manager. If standard error is no terminal, it prints a line at the beginning of the
    phase and one at its end. `done` of `total` units are done before it begins.
    """

    def __init__(self, label: str, total: int, unit: str = "frames", done: int = 0):
        self._label, self._unit, self._first, self._done = label, unit, done, done
        self._total = max(int(total), done)
        self._start = self._reported = time.monotonic()
        self._plain = not sys.stderr.isatty()
        bar = {"desc": label, "total": self._total, "initial": done, "unit": f" {unit}"}
        self._bar = tqdm.tqdm(**bar, disable=self._plain, dynamic_ncols=True, smoothing=0.05)

    def __enter__(self) -> "Progress":
        self._print(f"{self._total - self._done:,} {self._unit}")
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()
        took, did = time.monotonic() - self._start, self._done - self._first
        self._print(f"{did:,} {self._unit} in {took:.1f} s ({did / max(took, 1e-9):.1f}/s)")

    def _print(self, text: str) -> None:
        if self._plain:
            print(f"{self._label}: {text}", flush=True)

    def update(self, amount: int) -> None:
        """Count some more units."""
        self._done += amount
        self._bar.update(amount)

    def show(self, **values: float) -> None:
        """Show values behind the bar, such as the last return."""
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        self._bar.set_postfix(shown, refresh=False)  # Drawn with the bar, not at every step.

    def report(self, steps: int) -> None:
        """Show from time to time that steps are taken although no unit is finished."""
        now = time.monotonic()
        if now - self._reported >= (REPORT_SECONDS if self._plain else 1):
            self._reported = now
            self._bar.set_postfix_str(f"{steps:,} steps")
            self._print(f"{self._done:,} of {self._total:,} {self._unit}, {steps:,} steps")


class EpisodeProgress(Progress):
    """Shows the progress of an evaluation; a driver calls it with every row (`on_step`)."""

    def __init__(self, label: str, total: int):
        super().__init__(label, total, "episodes")
        self._steps, self._lengths = 0, {}
        self._warned = False

    def __call__(self, row: Mapping[str, Any], index: int) -> None:
        """Count a row of environment `index`."""
        length = 0 if row["is_first"] else self._lengths.get(index, 0) + 1
        self._lengths[index] = length
        self._steps += length > 0
        self.update(int(row["is_last"]))
        self.report(self._steps)
        if length >= LONG_EPISODE and not self._warned:
            self._warned = True
            message = f"No episode has ended in {length:,} steps; the evaluation waits for its end."
            tqdm.tqdm.write(f"{message} Episodes that never end need --time_limit.", sys.stdout)
