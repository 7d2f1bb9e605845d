"""Stopping a run politely."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, as SIGINT does, where no StopRequest is in force."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


class StopRequest:
    """Notices SIGINT and SIGTERM, so that the loop can end after the step in flight.

    A second SIGINT stops at once. As a context manager it puts the former handlers back. Outside
    the main thread, where Python allows no handlers, it never fires.

    Args:
        waiting: what the loop may have to wait for; told to `hurry()`, if it can.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *waiting: Any):
        self._waiting = waiting
        self.received: signal.Signals | None = None
        self._former: dict = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        print(f"\n{self.received.name}: finishing the step in flight, then saving.", flush=True)
        for each in self._waiting:
            getattr(each, "hurry", lambda: None)()
