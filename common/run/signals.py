"""Stopping a run politely."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, outside a StopRequest."""
    numbers = [n for n in _numbers() if n != signal.SIGINT]
    former = {n: signal.signal(n, signal.default_int_handler) for n in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _numbers() -> list[signal.Signals]:
    """The signals to notice here: none outside the main thread, no SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return []
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


class StopRequest:
    """Notices SIGINT, SIGTERM and SIGHUP, so that the loop can end after the step in flight.

    A second SIGINT stops at once. As a context manager it puts the former handlers back. Outside
    the main thread, where Python allows no handlers, it never fires.

    Args:
        waiting: what the loop may have to wait for; told to `hurry()`, if it can.
    """

    def __init__(self, *waiting: Any):
        self._waiting = waiting
        self.received: signal.Signals | None = None
        self._unsaid = ""
        self._former: dict = {}

    def __bool__(self) -> bool:
        self._say()
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        self._former = {number: signal.signal(number, self._note) for number in _numbers()}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        for each in self._waiting:
            getattr(each, "hurry", lambda: None)()
        self._unsaid = f"\n{self.received.name}: finishing the step in flight, then saving."
        self._say()

    def _say(self) -> None:
        text, self._unsaid = self._unsaid, ""
        if not text:
            return
        try:
            print(text, flush=True)
        except RuntimeError:  # the signal came within another print: later
            self._unsaid = text
        except OSError:  # of SIGHUP the terminal is gone, see stdio
            pass
