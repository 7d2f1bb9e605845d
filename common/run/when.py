"""The step counter, and schedulers that tell from a step whether something is due.

``state()`` returns something JSON can hold and ``restore(state)`` continues from it, so that a
resumed run acts at the same steps as one that was never interrupted.
"""

import contextlib
import functools
import math
import re
import time
from collections.abc import Callable
from typing import Any, SupportsInt

from dreamerv2.common.errors import UserError

SECONDS = {"s": 1, "m": 60, "h": 3600}


@functools.total_ordering
class Counter:
    """Agent steps so far; compares with numbers."""

    def __init__(self, value: int = 0):
        self.value = int(value)

    def increment(self, amount: int = 1) -> None:
        self.value += int(amount)

    def __int__(self) -> int:
        return self.value

    def __eq__(self, number: object) -> bool:
        return self.value == number

    def __lt__(self, number: float) -> bool:
        return self.value < number


class Every:
    """A grid of steps, ``every`` apart, from the first call on; empty for 0.

    A late call does not move the grid, so that the average rate stays exact.
    """

    def __init__(self, every: int):
        self._every = int(every)
        self._last: int | None = None  # point of the grid
        self._before: int | None = None  # the last one of the call before, for `undo`

    def __call__(self, step: SupportsInt) -> bool:
        """Return whether a point was reached since the last call."""
        return bool(self.due(step))

    def due(self, step: SupportsInt) -> range:
        """Return the points reached since the last call, up to and including ``step``."""
        if self._every <= 0:
            return range(0)
        first = int(step) if self._last is None else self._last + self._every
        points = range(first, int(step) + 1, self._every)
        if points:
            self._before, self._last = self._last, points[-1]
        return points

    def undo(self) -> None:
        """Take the last point back: the next call reaches it again."""
        self._last = self._before

    def state(self) -> dict[str, Any]:
        """Return the last point (None before the first call)."""
        return {"prev": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the grid of ``state``; a changed interval counts from its last point.

        The state of an ``EverySeconds`` has no point: then the next call starts a new grid.
        """
        self._last = state.get("prev")


class EverySeconds:
    """True at the first call and then once per ``seconds``; never if ``seconds`` <= 0."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds = float(seconds)
        self._clock = clock
        self._last: float | None = None

    def __call__(self, step: SupportsInt) -> bool:
        now = self._clock()
        if self.seconds <= 0 or (self._last is not None and now - self._last < self.seconds):
            return False
        self._last = now
        return True

    def state(self) -> dict[str, Any]:
        """Return whether it was due before: another process has another clock."""
        return {"fired": self._last is not None}

    def restore(self, state: dict[str, Any]) -> None:
        """Start a full interval if the saved scheduler, also of steps, was due before."""
        fired = state.get("fired", state.get("prev") is not None)
        self._last = self._clock() if fired else None


def parse_every(text: str | int | float) -> Every | EverySeconds:
    """Read `checkpoint_every`: "600s", "10m", "2h", or agent steps; 0 is never."""
    number, unit = re.fullmatch("(.*?)([smh]?)", str(text).lower().strip(), re.S).groups()
    with contextlib.suppress(ValueError):
        value = float(number)
        if unit and 0 <= value < math.inf:
            return EverySeconds(value * SECONDS[unit])
        if value >= 0 and value.is_integer():
            return Every(int(value))
    raise UserError(
        f"checkpoint_every is '{text}', but must be agent steps such as 10000 or a time such as "
        "600s, 10m or 2h."
    )
