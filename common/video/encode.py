"""Videos as animated GIFs, encoded in this process by Pillow: no ffmpeg, no pipes."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from dreamerv2.common.files import replacing

FPS = 20  # Default playback speed, frames per second.


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Return images as uint8; floats are in [0, 1], clipped, and NaN becomes black."""
    frames = np.asarray(frames)
    if frames.dtype == np.uint8:
        return frames
    if np.issubdtype(frames.dtype, np.integer):
        return np.clip(frames, 0, 255).astype(np.uint8)
    scaled = np.nan_to_num(frames.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)


def displayable(frames: np.ndarray) -> np.ndarray:
    """Return the first 3 channels of images [..., C] (others are alpha or old frames), or 1."""
    return frames[..., : 3 if frames.shape[-1] >= 3 else 1]


def encode_gif(frames: np.ndarray, fps: float = FPS) -> bytes:
    """Encode a video as a GIF that loops forever.

    Args:
        frames: [T, H, W, C] uint8, or float in [0, 1]; C is 1 (exact) or 3 (256 colors).
        fps: frames per second, at most 50: a GIF counts in hundredths of a second, and browsers
            slow down frames shorter than two of them.
    """
    frames = to_uint8(frames)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"A video must be [T, H, W, 1 or 3], not {list(frames.shape)}.")
    images = list(map(_image, frames)) if frames.shape[-1] == 1 else _quantized(frames)
    buffer = io.BytesIO()
    options = {"format": "GIF", "duration": 10 * max(2, round(100 / fps)), "loop": 0}
    images[0].save(buffer, save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def save_gif(path: str | os.PathLike, frames: np.ndarray, fps: float = FPS) -> None:
    """Write ``frames`` (as for ``encode_gif``) to ``path``, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode_gif(frames, fps)
    with replacing(path, concurrent=True) as file:
        file.write(content)


def _image(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)


def _quantized(frames: np.ndarray) -> list[Image.Image]:
    """Reduce a video [T, H, W, 3] to 256 colors.

    One palette is fast and does not flicker. Its colors are those of whole frames, evenly spaced,
    because sampled pixels would miss small objects.
    """
    sample = frames[:: -(-frames.size // (3 * 2**18))]
    palette = _image(sample.reshape(-1, *sample.shape[2:])).quantize(256)
    return [_image(x).quantize(palette=palette, dither=Image.Dither.NONE) for x in frames]
