"""Metrics, collected by name in the loop and written to every output at once."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dreamerv2.common.run.when import Counter
from dreamerv2.common.video import encode


class Entry(NamedTuple):
    """One logged value, checked and converted.

    ``kind`` is "scalar" (an int or a float), "video" (uint8 [T, H, W, C]) or "text" (a str).
    """

    kind: str
    name: str
    value: Any


class Output(Protocol):
    """A destination of the logger's entries."""

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Take the entries of a step (in frames); may return before they are saved."""

    def flush(self) -> None:
        """Return when all entries so far are saved; does nothing unless a subclass overrides."""

    def close(self) -> None:
        """Flush and close files; does nothing unless a subclass overrides."""


class Logger:
    """Collects metrics by name and writes them with their step in environment frames.

    `counter` counts agent steps, each of `multiplier` frames (action_repeat).
    """

    def __init__(self, counter: Counter, outputs: Sequence[Output], multiplier: int = 1):
        self._counter = counter
        self._outputs = list(outputs)
        self._multiplier = int(multiplier)
        self._entries: list[Entry] = []
        self._fps_start = (self.step, time.monotonic())

    @property
    def step(self) -> int:
        """The current step in environment frames."""
        return int(self._counter) * self._multiplier

    def scalar(self, name: str, value: Any) -> None:
        """Collect one number (a Python, numpy or TensorFlow scalar)."""
        self._entries.append(Entry("scalar", name, _number(name, value)))

    def video(self, name: str, value: Any) -> None:
        """Collect one video: [T, H, W, C], uint8 or float in [0, 1]."""
        self._entries.append(Entry("video", name, _pixels(name, np.asarray(value))))

    def text(self, name: str, value: str) -> None:
        """Collect one text, shown with its line breaks."""
        self._entries.append(Entry("text", name, str(value)))

    def add(self, mapping: Mapping[str, Any], prefix: str | None = None) -> None:
        """Collect every number and every video of a mapping, as ``{prefix}_{name}``."""
        for name, value in mapping.items():
            collect = self.video if np.ndim(value) else self.scalar
            collect(f"{prefix}_{name}" if prefix else name, value)

    def write(self, fps: bool = False) -> None:
        """Send all collected entries to every output.

        `fps` adds environment frames per second since the last write with it.
        """
        if fps:
            (step, then), self._fps_start = self._fps_start, (self.step, time.monotonic())
            seconds = max(self._fps_start[1] - then, 1e-9)
            self.scalar("fps", (self.step - step) / seconds)
        entries, self._entries = self._entries, []
        if entries:
            for output in self._outputs:
                output.write(self.step, entries)

    def flush(self) -> None:
        """Save everything written so far; called with every checkpoint."""
        for output in self._outputs:
            output.flush()

    def close(self) -> None:
        """Write the remaining entries and close all outputs, even if one fails."""
        with contextlib.ExitStack() as stack:
            for output in self._outputs:
                stack.callback(output.close)
            self.write()


def _number(name: str, value: Any) -> int | float:
    """Return the shortest Python number: 0.1 for a float32, not 0.10000000149011612."""
    value = np.asarray(value)
    if value.ndim:
        raise ValueError(f"'{name}' must be a scalar, not of shape {list(value.shape)}.")
    if value.dtype.kind in "biu":
        return int(value)
    if value.dtype.kind != "f":  # bfloat16 is no NumPy type of its own, but converts.
        value = value.astype(np.float32)
    return float(str(value[()])) if value.dtype.itemsize < 8 else float(value)


def _pixels(name: str, value: np.ndarray) -> np.ndarray:
    """Return a video as uint8, copied, so that the caller may reuse its buffer."""
    if value.ndim != 4 or 0 in value.shape:
        raise ValueError(f"'{name}' must be a video [T, H, W, C], not {list(value.shape)}.")
    shown = encode.displayable(value)
    pixels = encode.to_uint8(shown)
    return pixels.copy() if pixels is shown else pixels
