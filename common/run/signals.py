"""Signals that end a run after the step in flight, with everything saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    """Install a handler within the block, for SIGHUP only where it is not ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():  # Python allows none there
        numbers = []
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def interrupt_on_any_signal() -> contextlib.AbstractContextManager[None]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP too, outside a StopRequest."""
    return _handlers(signal.default_int_handler)


class StopRequest:
    """True after SIGINT, SIGTERM or SIGHUP: the loop ends after the step in flight.

    A second SIGINT raises KeyboardInterrupt at once. As a context manager it restores the former
    handlers. Outside the main thread it stays false.

    Args:
        listeners: objects notified of the stop by their method `hurry()`, if they have one.
    """

    def __init__(self, *listeners: Any):
        self._installed = _handlers(self._handle)
        self._listeners = listeners
        self.received: signal.Signals | None = None
        self._pending_message = ""

    def __bool__(self) -> bool:
        self._flush_message()
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        self._installed.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._installed.__exit__(*error)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        for listener in self._listeners:
            getattr(listener, "hurry", lambda: None)()
        name = self.received.name
        self._pending_message = f"\n{name}: finishing the step in flight, then saving."
        self._flush_message()

    def _flush_message(self) -> None:
        message, self._pending_message = self._pending_message, ""
        try:
            if message:
                print(message, flush=True)
        except RuntimeError:  # the signal interrupted another print: try again later
            self._pending_message = message
        except OSError:  # SIGHUP: the terminal is closed, see stdio
            pass
