"""Small schedulers: objects that answer "is it time?" when they are called with a step.

Each is called as ``scheduler(step) -> bool``. ``state()`` returns something JSON can hold and
``restore(state)`` continues from it, so that a resumed run acts at the same steps as one that was
never interrupted.
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, SupportsInt

from dreamerv2.common.errors import UserError

SECONDS = {"s": 1, "m": 60, "h": 3600}


class Every:
    """Fires at its first call and then once per ``every`` steps; never if ``every`` <= 0.

    The steps at which it is due form a grid that starts at the first call. A call that comes late
    fires once and does not move the grid, so the average rate stays exact; a call that comes so
    late that several points were passed still fires once.
    """

    def __init__(self, every: int):
        self._every = int(every)
        self._prev: int | None = None
        self._before: int | None = None  # what _prev was when it last fired

    def __call__(self, step: SupportsInt) -> bool:
        step = int(step)
        if self._every <= 0:
            return False
        if self._prev is None:
            self._before, self._prev = None, step
            return True
        passed = (step - self._prev) // self._every
        if passed < 1:
            return False
        self._before, self._prev = self._prev, self._prev + passed * self._every
        return True

    def again(self) -> None:
        """Take back that it has just fired: what was due has not been done."""
        self._prev = self._before

    def state(self) -> dict[str, Any]:
        """The last grid point that fired (None before the first call)."""
        return {"prev": self._prev}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the grid of ``state``; a changed interval counts from its last point.

        The state of an ``EverySeconds`` has none: then the next call begins a new grid.
        """
        prev = state.get("prev")
        self._prev = None if prev is None else int(prev)


class EverySeconds:
    """Fires at its first call and then at most once per ``seconds``; never if ``seconds`` <= 0.

    Args:
        seconds: the interval on the wall clock.
        clock: returns seconds and never runs backwards.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds = float(seconds)
        self._clock = clock
        self._prev: float | None = None

    def __call__(self, step: SupportsInt) -> bool:
        if self._seconds <= 0:
            return False
        now = self._clock()
        if self._prev is not None and now - self._prev < self._seconds:
            return False
        self._prev = now
        return True

    def state(self) -> dict[str, Any]:
        """Whether it has fired; clock readings mean nothing to another process."""
        return {"fired": self._prev is not None}

    def restore(self, state: dict[str, Any]) -> None:
        """Start a full interval now if the saved one (of steps, perhaps) had fired before."""
        fired = state.get("fired", state.get("prev") is not None)
        self._prev = self._clock() if fired else None


class Until:
    """True while ``step`` < ``until``; 0 (or less) means without end."""

    def __init__(self, until: int):
        self._until = int(until)

    def __call__(self, step: SupportsInt) -> bool:
        return self._until <= 0 or int(step) < self._until

    def state(self) -> dict[str, Any]:
        """Nothing: the answer depends on the step alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do; here so that all schedulers are saved the same way."""


class Once:
    """True at the first call and never again, also across a resume."""

    def __init__(self):
        self._fired = False

    def __call__(self, step: SupportsInt = 0) -> bool:
        fired, self._fired = self._fired, True
        return not fired

    def state(self) -> dict[str, Any]:
        """Whether it has fired."""
        return {"fired": self._fired}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over whether it has fired."""
        self._fired = bool(state["fired"])


def parse_every(text: str | int | float) -> Every | EverySeconds:
    """Read `checkpoint_every`, which may be wall-clock time or agent steps.

    Args:
        text: "600s", "10m" or "2h" for time; "10000", "1e4" or a number for agent steps. 0 never
            fires.

    Raises:
        UserError: the text is neither.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([smh]?)\s*", str(text).lower())
    value = _finite(match[1]) if match else None
    if value is not None and match[2]:
        return EverySeconds(value * SECONDS[match[2]])
    if value is not None and value == int(value):
        return Every(int(value))
    raise UserError(
        f"checkpoint_every is '{text}', but must be agent steps such as 10000 or a time such as "
        "600s, 10m or 2h."
    )


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
