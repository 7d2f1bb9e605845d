"""Text and curves beside the frames of a video, drawn by Pillow."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamerv2.common.video.encode import displayable, to_uint8

BACK, INK, LINE = (16, 16, 20), (235, 235, 235), (90, 170, 255)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # part of Pillow: no font needs to be installed


def rgb(frames: np.ndarray) -> np.ndarray:
    """Return images [..., H, W, C] with the three channels to display."""
    frames = displayable(frames)
    return np.repeat(frames, 3, -1) if frames.shape[-1] == 1 else frames


def picture(rendered: Any) -> np.ndarray:
    """Return a rendered image, also gray or float in [0, 1] or [0, 255], as uint8 [H, W, 3]."""
    image = np.asarray(rendered)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.dtype.kind not in "uif" or 0 in image.shape:
        kind = f"{type(rendered).__name__} {list(image.shape)} of {image.dtype}"
        raise ValueError(f"render() returned no image [H, W, 3], but {kind}.")
    if image.dtype.kind == "f" and np.nanmax(image) > 1:
        image = image / 255
    return rgb(to_uint8(image))


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel of images [..., H, W, C] in both directions."""
    return frames.repeat(factor, -3).repeat(factor, -2)


def caption(text: str, width: int, size: int = 11) -> np.ndarray:
    """Return a strip [h, width, 3] with one line of text."""
    image = Image.new("RGB", (width, size + 6), BACK)
    ImageDraw.Draw(image).text((3, 1), text, INK, font=_font(size))
    return np.asarray(image)


def curve(
    label: str, values: Sequence[float], now: int, limits: tuple[float, float], width: int
) -> np.ndarray:
    """Return a strip [h, width, 3]: label and value above the curve of frames 0 to ``now``."""
    text = caption(f"{label} {values[now]:.3f}", width)
    height, (low, high) = 28, limits
    image = Image.new("RGB", (width, height), BACK)
    xs = np.linspace(1, width - 2, max(2, len(values)))[: now + 1]
    shares = (np.asarray(values[: now + 1]) - low) / max(high - low, 1e-6)
    ys = (height - 3) - np.clip(shares, 0, 1) * (height - 6)
    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    draw = ImageDraw.Draw(image)
    draw.line(points if len(points) > 1 else points * 2, LINE, width=1)
    x, y = points[-1]
    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=INK)
    return np.concatenate([text, np.asarray(image)])


def span(values: np.ndarray) -> tuple[float, float]:
    """Return limits around all values, 0.1 apart at least because of noise."""
    low, high = float(np.min(values)), float(np.max(values))
    slack = max(0.0, 0.1 - (high - low)) / 2
    return low - slack, high + slack
