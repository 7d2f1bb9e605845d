"""Videos written frame by frame: a GIF and, with PyAV installed, an MP4."""

import contextlib
import functools
import importlib.util
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import cannot_write
from dreamerv2.common.files import replacing
from dreamerv2.common.video import encode

# A GIF is encoded in memory at its end, and grows large.
GIF_FRAMES, GIF_BYTES = 1000, 256e6


class Film:
    """One video: ``NAME.gif`` of the first frames and ``NAME.mp4`` of all.

    Without the package ``av`` (the extra ``video``) there is only the GIF, as is reported once. A
    video that is discarded leaves no MP4. ``path`` has no suffix; its folder is created.
    """

    def __init__(self, path: str | os.PathLike, fps: float = encode.FPS):
        self._path, self._fps = Path(path), fps
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            advice = (
                "To look at a run of somebody else, give it as --checkpoint and a folder of yours "
                "as --logdir."
            )
            raise cannot_write(self._path.parent, error, advice) from error
        self._frames: list[np.ndarray] = []
        self._mp4 = _MP4(self._file("mp4"), fps) if _has_encoder() else None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3]. Raises ValueError if it has another size."""
        first = self._frames[0] if self._frames else frame
        if frame.shape != first.shape:
            raise ValueError(f"frames {[*frame.shape]} and {[*first.shape]} do not fit in a video")
        if len(self._frames) < min(GIF_FRAMES, 1 + GIF_BYTES // frame.nbytes):
            self._frames.append(frame)
        if self._mp4:
            self._mp4.add(frame)

    def close(self) -> list[Path]:
        """Finish the files and return their paths; none if there was no frame."""
        if not self._frames:
            return []
        gif = self._file("gif")
        encode.save_gif(gif, np.stack(self._frames), self._fps)
        return [gif, self._mp4.close()] if self._mp4 else [gif]

    def discard(self) -> None:
        """Remove the temporary file of an unfinished video."""
        if self._mp4:
            self._mp4.discard()

    def _file(self, suffix: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{suffix}")  # The name may contain dots.


def save(path: str | os.PathLike, frames: np.ndarray, fps: float = encode.FPS) -> list[Path]:
    """Write a whole video, uint8 [T, H, W, 3]; return the paths of its files."""
    film = Film(path, fps)
    try:
        for frame in frames:
            film.add(frame)
        return film.close()
    except BaseException:
        film.discard()
        raise


class _MP4:
    """H.264 in an MP4 file, made with its first frame."""

    def __init__(self, path: Path, fps: float):
        self._path, self._fps = path, Fraction(fps).limit_denominator(1000)
        self._file = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        import av  # optional

        # Color is stored for blocks of 2 x 2 pixels, so odd sizes are padded by a pixel.
        edges = (frame.shape[0] % 2, frame.shape[1] % 2)
        frame = np.pad(frame, ((0, edges[0]), (0, edges[1]), (0, 0)), mode="edge")
        if self._container is None:
            file = self._file.enter_context(replacing(self._path, concurrent=True))
            self._container = av.open(file, "w", format="mp4")
            self._stream = self._container.add_stream("h264", rate=self._fps)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"  # the only format that all browsers play
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def close(self) -> Path:
        self._container.mux(self._stream.encode())
        self._container.close()
        self._file.close()
        return self._path

    def discard(self) -> None:
        """Remove the temporary file."""
        self._file.__exit__(ValueError, ValueError("the video is not wanted"), None)


@functools.cache
def _has_encoder() -> bool:
    found = importlib.util.find_spec("av") is not None
    if not found:
        print("Videos are GIFs only; for MP4 as well: pip install 'dreamerv2[video]'.", flush=True)
    return found
