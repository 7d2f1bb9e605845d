"""Lines of metrics and progress bars on a terminal, or plain lines without one."""

import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import tqdm

from dreamerv2.common.logger.logger import Entry

LONG_EPISODE = 30_000  # agent steps; an Atari episode has at most 27,000
REPORT_SECONDS = 30  # between plain lines of a phase in progress


class TerminalOutput:
    """Prints the scalars of a write on one readable line.

    On a terminal long lines are wrapped and progress bars (tqdm) stay below them. Anywhere else
    each write is one plain line, for ``grep``.

    Args:
        stream: a text file; None means standard output, looked up at every write.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Print the scalars; nothing if there are none."""
        scalars = [f"{x.name} {_readable(x.value)}" for x in entries if x.kind == "scalar"]
        if not scalars:
            return
        stream = self._stream or sys.stdout
        line = f"[{step}] " + " / ".join(scalars)
        if stream.isatty():
            line = _wrap(line, shutil.get_terminal_size().columns)
        tqdm.tqdm.write(line, file=stream)  # Clears active bars, prints, and redraws them.
        stream.flush()

    def flush(self) -> None:
        """Do nothing: every line is flushed when it is printed."""

    def close(self) -> None:
        """Do nothing: the stream belongs to the caller."""


def _readable(value: int | float) -> str:
    if isinstance(value, int) or (abs(value) < 1e9 and value == int(value)):
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:.5g}"


def _wrap(line: str, columns: int) -> str:
    return textwrap.fill(line, max(columns, 40), subsequent_indent="    ", break_long_words=False)


class Progress:
    """Shows the progress of a phase of the run: rate, time left and the last return.

    Use as a context manager. If standard error is no terminal, it prints one line at the beginning
    of the phase and one at its end.

    Args:
        label: name of the phase, such as "Prefill".
        total: units at the end.
        unit: name of the units, in the plural.
        done: units already done.
    """

    def __init__(self, label: str, total: int, unit: str = "frames", done: int = 0):
        self._label, self._unit, self._done = label, unit, int(done)
        self._total = max(int(total), self._done)
        self._start, self._first = time.monotonic(), int(done)
        self._reported = self._start
        self._plain = not sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=label,
            total=self._total,
            initial=self._done,
            unit=f" {unit}",
            disable=self._plain,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self) -> "Progress":
        if self._plain:
            print(f"{self._label}: {self._total - self._done:,} {self._unit}", flush=True)
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()
        if self._plain:
            took, did = time.monotonic() - self._start, self._done - self._first
            rate = did / max(took, 1e-9)
            print(f"{self._label}: {did:,} {self._unit} in {took:.1f} s ({rate:.1f}/s)", flush=True)

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
        if now - self._reported < (REPORT_SECONDS if self._plain else 1):
            return
        self._reported = now
        self._bar.set_postfix_str(f"{steps:,} steps")
        if self._plain:
            done = f"{self._done:,} of {self._total:,} {self._unit}"
            print(f"{self._label}: {done}, {steps:,} steps", flush=True)


class EpisodeProgress(Progress):
    """Shows the progress of an evaluation: finished episodes and steps.

    A driver calls it with every row (`on_step`). An episode of LONG_EPISODE steps is reported once.

    Args:
        label: name of the phase.
        total: episodes to play.
    """

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
