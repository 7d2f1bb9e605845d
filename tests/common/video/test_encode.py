"""GIFs show every frame for its time, with exact grays and close colors."""

import numpy as np
import pytest
from logs import assert_gif_shows, gif_frames, moving_square

from dreamerv2.common.video import encode


def test_gray_gif_is_exact_even_for_noise():
    clip = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 1), np.uint8)
    assert_gif_shows(encode.encode_gif(clip), clip)


def test_colors_of_a_long_video_stay_close():
    t, y, x = np.mgrid[:30, :48, :64]
    clip = np.stack([128 + 120 * np.sin(x / 9 + t / 5), y * 5, (x + y) * 2], -1).astype(np.uint8)
    shown, _ = gif_frames(encode.encode_gif(clip))
    assert np.abs(shown[::5].astype(int) - clip).mean() < 12, "of 255"


def test_small_bright_object_in_a_color_video_survives():
    clip = np.full((20, 64, 64, 3), 90, np.uint8)
    for t in range(20):
        clip[t, 30, 3 * t] = [255, 0, 0]
    assert_gif_shows(encode.encode_gif(clip), clip)


def test_floats_are_scaled_and_a_diverged_model_is_still_shown():
    values = np.array([0, 0.5, 1, -3, 7, np.nan, np.inf, -np.inf], np.float32)
    assert encode.to_uint8(values).tolist() == [0, 128, 255, 0, 255, 0, 255, 0]


@pytest.mark.parametrize(("fps", "seconds"), [(20, 0.05), (50, 0.02), (1000, 0.02), (1, 1.0)])
def test_frame_duration_follows_fps(fps, seconds):
    clip = moving_square(4)
    assert gif_frames(encode.encode_gif(clip, fps))[1] == pytest.approx(4 * seconds)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (0, 8, 8, 3), (4, 0, 8, 3)])
def test_gif_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="must be"):
        encode.encode_gif(np.zeros(shape, np.uint8))
