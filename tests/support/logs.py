"""Entries, outputs and videos for tests of logging."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamerv2.common.logger.logger import Entry, Output


class Memory(Output):
    """An output that keeps all writes."""

    def __init__(self):
        self.writes = []

    def write(self, step, entries):
        self.writes.append((step, entries))


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self):
        return True


def scalars(**values):
    return [Entry("scalar", name, value) for name, value in values.items()]


def moving_square(frames=8, channels=3):
    clip = np.zeros((frames, 24, 32, channels), np.uint8)
    for t in range(frames):
        clip[t, 4:12, 2 * t : 2 * t + 8] = [255, 128, 0][:channels]
    return clip


def gif_frames(gif):
    """Return the frames of a GIF at 10 ms each, [T', H, W, 3], and its length in seconds."""
    image, frames, milliseconds = Image.open(io.BytesIO(gif)), [], 0
    for index in range(image.n_frames):
        image.seek(index)
        milliseconds += image.info["duration"]
        frames += [np.asarray(image.convert("RGB"))] * (image.info["duration"] // 10)
    return np.stack(frames), milliseconds / 1000


def video_frames(path: Path) -> list[np.ndarray]:
    """Decode a video, GIF or MP4."""
    if path.suffix == ".gif":
        return [*gif_frames(path.read_bytes())[0][::5]]  # each is shown for 50 ms
    av = pytest.importorskip("av", reason="the extra video is not installed")
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_gif_shows(gif, clip):
    shown, seconds = gif_frames(gif)
    assert abs(seconds - len(clip) * 0.05) < 1e-6
    assert (shown == np.broadcast_to(clip, (*clip.shape[:3], 3)).repeat(5, 0)).all()
