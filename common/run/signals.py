"""Signals that end a run after the step in flight, with everything saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def interrupt_on_any_signal() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP as for SIGINT, outside a StopRequest."""
    numbers = [n for n in _handled_signals() if n != signal.SIGINT]
    former = {n: signal.signal(n, signal.default_int_handler) for n in numbers}
    try:
        yield
    finally:
        _restore(former)


def _handled_signals() -> list[signal.Signals]:
    """Return the signals to handle: none outside the main thread, no SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return []
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class StopRequest:
    """True after SIGINT, SIGTERM or SIGHUP, so that the loop ends after the step in flight.

    A second SIGINT raises KeyboardInterrupt at once. As a context manager it restores the former
    handlers. Outside the main thread, where Python allows no handlers, it stays false.

    Args:
        listeners: objects notified of the stop by their method `hurry()`, if they have one.
    """

    def __init__(self, *listeners: Any):
        self._listeners = listeners
        self.received: signal.Signals | None = None
        self._pending_message = ""
        self._former: dict = {}

    def __bool__(self) -> bool:
        self._flush_message()
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        self._former = {
            number: signal.signal(number, self._handle) for number in _handled_signals()
        }
        return self

    def __exit__(self, *unused: object) -> None:
        _restore(self._former)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        for listener in self._listeners:
            getattr(listener, "hurry", lambda: None)()
        self._pending_message = (
            f"\n{self.received.name}: finishing the step in flight, then saving."
        )
        self._flush_message()

    def _flush_message(self) -> None:
        message, self._pending_message = self._pending_message, ""
        if not message:
            return
        try:
            print(message, flush=True)
        except RuntimeError:  # the signal interrupted another print: try again later
            self._pending_message = message
        except OSError:  # SIGHUP: the terminal is closed, see stdio
            pass
