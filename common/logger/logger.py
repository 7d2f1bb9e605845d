"""Metrics: collected by name during the loop, then written to every output at once.

An output is any object with ``write(step, entries)``, ``flush()`` and ``close()``; ``step`` is in
environment frames and ``entries`` is a list of ``Entry``.
"""

import contextlib
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
import tqdm

from dreamerv2.common.config.config import Config
from dreamerv2.common.logger.jsonl import JSONLOutput
from dreamerv2.common.logger.tensorboard import TensorBoardOutput
from dreamerv2.common.run.when import Counter, Every
from dreamerv2.common.video import encode as video_lib

__all__ = [
    "Entry",
    "EpisodeLog",
    "JSONLOutput",
    "Logger",
    "Output",
    "TensorBoardOutput",
    "TerminalOutput",
    "counts",
]
REDUCTIONS = {  # of an entry [T+1, ...] over an episode; the largest one of every element
    "sum": np.sum,
    "mean": np.mean,
    "max": lambda x: np.max(x, axis=0).mean(),
}
FILMED = 3000  # frames of an episode: encoding takes a second for each thousand
ALWAYS = ("total_steps", "total_episodes", "loaded_steps", "loaded_episodes")  # even if zero


class Entry(NamedTuple):
    """One logged value, checked and converted.

    ``kind`` is "scalar" (an int or a float), "image" (uint8 [H, W, C]), "video" (uint8
    [T, H, W, C]) or "text" (a str).
    """

    kind: str
    name: str
    value: Any


class Output(Protocol):
    """What the logger writes to."""

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Take the entries of one step; it may return before they are on file."""

    def flush(self) -> None:
        """Return when everything so far is safe."""

    def close(self) -> None:
        """Flush and let go of files and threads."""


class Logger:
    """Collects metrics by name and writes them with the step they belong to.

    Args:
        counter: agent steps; read at every write.
        outputs: where to write to.
        multiplier: environment frames per agent step (action_repeat). Written steps are frames.
    """

    def __init__(self, counter: Counter, outputs: Sequence[Output], multiplier: int = 1):
        self._counter = counter
        self._outputs = list(outputs)
        self._multiplier = int(multiplier)
        self._entries: list[Entry] = []
        self._fps_mark = (self.step, time.monotonic())

    @property
    def step(self) -> int:
        """The current step in environment frames."""
        return int(self._counter) * self._multiplier

    def scalar(self, name: str, value: Any) -> None:
        """Collect one number (a Python, numpy or TensorFlow scalar)."""
        self._entries.append(Entry("scalar", name, _number(name, value)))

    def image(self, name: str, value: Any) -> None:
        """Collect one image: [H, W] or [H, W, C], uint8 or float in [0, 1], C of 1 or 3."""
        value = np.asarray(value)
        value = value[..., None] if value.ndim == 2 else value
        self._entries.append(Entry("image", name, _pixels(name, value, 3)))

    def video(self, name: str, value: Any) -> None:
        """Collect one video: [T, H, W, C], uint8 or float in [0, 1], C of 1 or 3."""
        self._entries.append(Entry("video", name, _pixels(name, np.asarray(value), 4)))

    def text(self, name: str, value: str) -> None:
        """Collect one text, shown with its line breaks."""
        self._entries.append(Entry("text", name, str(value)))

    def add(self, mapping: Mapping[str, Any], prefix: str | None = None) -> None:
        """Collect every item of a mapping by its kind, as ``{prefix}_{name}``.

        Strings are texts; 0 dimensions make a scalar, 2 or 3 an image, 4 a video.

        Raises:
            ValueError: a value has another number of dimensions.
        """
        kinds = {0: self.scalar, 2: self.image, 3: self.image, 4: self.video}
        for name, value in mapping.items():
            name = f"{prefix}_{name}" if prefix else name
            if isinstance(value, str):
                self.text(name, value)
                continue
            value = np.asarray(value)
            if value.ndim not in kinds:
                raise ValueError(
                    f"Cannot log '{name}' of shape {list(value.shape)}: it must be a scalar, "
                    "an image [H, W, C] or a video [T, H, W, C]."
                )
            kinds[value.ndim](name, value)

    def write(self, fps: bool = False) -> None:
        """Send all collected entries to every output.

        Args:
            fps: also log environment frames per second since the last write that had it (or since
                the logger was made).
        """
        if fps:
            self.scalar("fps", self._measure_fps())
        entries, self._entries = self._entries, []
        if entries:
            for output in self._outputs:
                output.write(self.step, entries)

    def flush(self) -> None:
        """Make everything written so far safe; called with every checkpoint."""
        for output in self._outputs:
            output.flush()

    def close(self) -> None:
        """Write what is left and close the outputs, all of them even if one fails."""
        with contextlib.ExitStack() as stack:
            for output in self._outputs:
                stack.callback(output.close)
            self.write()

    def _measure_fps(self) -> float:
        (step, then), self._fps_mark = self._fps_mark, (self.step, time.monotonic())
        return (self._fps_mark[0] - step) / max(self._fps_mark[1] - then, 1e-9)


class TerminalOutput:
    """Prints the scalars of a write on a line that a person can read.

    On a terminal long lines are wrapped and progress bars (tqdm) stay below them. Anywhere else
    each write is one plain line, for ``grep``.

    Args:
        stream: a text file; standard output, looked up at every write, if None.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        """Print the scalars; nothing if there are none."""
        scalars = [
            f"{name} {_readable(value)}" for kind, name, value in entries if kind == "scalar"
        ]
        if not scalars:
            return
        stream = self._stream or sys.stdout
        line = f"[{step}] " + " / ".join(scalars)
        if stream.isatty():
            line = _wrap(line, shutil.get_terminal_size().columns)
        tqdm.tqdm.write(line, file=stream)  # Clears active bars, prints, and redraws them.
        stream.flush()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The stream is not ours to close."""


def _number(name: str, value: Any) -> int | float:
    """Return a Python number whose text is the shortest that gives ``value`` back.

    0.1 in float32 is 0.1 here and not 0.10000000149011612. Nothing is lost for the type it had.
    """
    value = np.asarray(value)
    if value.ndim:
        raise ValueError(f"'{name}' must be a scalar, not of shape {list(value.shape)}.")
    if value.dtype.kind in "biu":
        return int(value)
    if value.dtype.kind != "f":  # bfloat16 is no numpy type of its own, but converts.
        value = value.astype(np.float32)
    return float(str(value[()])) if value.dtype.itemsize < 8 else float(value)


def _pixels(name: str, value: np.ndarray, ndim: int) -> np.ndarray:
    """Return ``value`` as uint8 of its own, so that the caller may go on changing his."""
    if value.ndim != ndim or 0 in value.shape:
        layout = "[H, W, C]" if ndim == 3 else "[T, H, W, C]"
        raise ValueError(f"'{name}' must be {layout}, not {list(value.shape)}.")
    shown = video_lib.displayable(value)
    pixels = video_lib.to_uint8(shown)
    return pixels.copy() if pixels is shown else pixels


def _readable(value: int | float) -> str:
    if isinstance(value, int) or (abs(value) < 1e9 and value == int(value)):
        return str(int(value))
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:.5g}"


def _wrap(line: str, columns: int) -> str:
    return textwrap.fill(line, max(columns, 40), subsequent_indent="    ", break_long_words=False)


def counts(stats: Mapping[str, int]) -> dict[str, int]:
    """Return the statistics of a replay that are worth logging: not all that may be zero."""
    return {key: count for key, count in stats.items() if count or key in ALWAYS}


class EpisodeLog:
    """Logs what each finished episode was like.

    Args:
        mode: train or eval, the prefix of the metrics.
    """

    def __init__(self, mode: str, config: Config, logger: Logger, step: Counter):
        self.mode, self.config, self.logger, self.step = mode, config, logger, step
        self.should_video = Every(config.eval_every)
        self._told: set[str] = set()
        self.latest: dict[str, float] = {}

    def __call__(self, episode: dict[str, np.ndarray], more: Mapping[str, int] = {}) -> None:
        """Log an episode, key -> [T+1, ...], and more numbers that belong to this moment."""
        score, length = (
            float(episode["reward"].astype(np.float64).sum()),
            len(episode["reward"]) - 1,
        )
        self.latest = {f"{self.mode}_return": score}
        self.logger.scalar(f"{self.mode}_return", score)
        self.logger.scalar(f"{self.mode}_length", length)
        for name, reduce in REDUCTIONS.items():
            pattern = self.config[f"log_keys_{name}"]
            for key in (k for k in episode if re.match(pattern, k)):
                value = reduce(episode[key].astype(np.float64))
                self.logger.scalar(f"{name}_{self.mode}_{key}", float(value))
        self.logger.add(more, prefix=self.mode)
        if self.should_video(self.step):
            self._film(episode)
        self.logger.write()

    def _film(self, episode: dict[str, np.ndarray]) -> None:
        images = [key for key, value in episode.items() if value.ndim == 4]
        for key in self.config.log_keys_video:
            if key in images:
                self.logger.video(f"{self.mode}_policy_{key}", episode[key][:FILMED])
            elif key != "image" and key not in self._told:  # the default, of tasks without as well
                self._told.add(key)
                there = ", ".join(images) or "none"
                print(f"--log_keys_video {key} is no image; there are {there}.", flush=True)
