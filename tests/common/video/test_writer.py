"""Video files: a GIF always, an MP4 where the encoder is there, and no draft where it fails."""

import errno
import importlib.util
import os

import numpy as np
import pytest
from logs import video_frames
from PIL import Image

from dreamerv2 import dream
from dreamerv2.common.errors import UserError
from dreamerv2.common.video import writer


def test_without_an_encoder_there_are_gifs_and_one_line(tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "av" else real(n))
    writer._has_encoder.cache_clear()
    picture = np.zeros((2, 8, 9, 3), np.uint8)
    paths = [*writer.save(tmp_path / "a", picture), *writer.save(tmp_path / "b", picture)]
    writer._has_encoder.cache_clear()
    assert [path.name for path in paths] == ["a.gif", "b.gif"]
    assert capsys.readouterr().out.count("dreamerv2[video]") == 1


def test_a_video_that_fails_leaves_no_draft_and_the_former_video(tmp_path, monkeypatch):
    (tmp_path / "a.gif").write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space"):
        writer.save(tmp_path / "a", np.zeros((2, 8, 9, 3), np.uint8))
    assert (tmp_path / "a.gif").read_bytes() == b"old"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_names_of_images_lead_out_of_no_folder_and_may_hold_dots(tmp_path):
    assert dream.file_name("/../../esc_openloop") == "_.._.._esc_openloop"
    assert dream.file_name("camera.rgb_imagined") == "camera.rgb_imagined"
    gif, *_ = writer.save(tmp_path / "camera.rgb_imagined", np.zeros((2, 8, 9, 3), np.uint8))
    assert gif.name == "camera.rgb_imagined.gif"


def test_a_gif_of_large_frames_ends_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "GIF_BYTES", 1000)
    gif, *_ = writer.save(tmp_path / "large", np.zeros((9, 8, 9, 3), np.uint8))
    with Image.open(gif) as image:
        assert image.info["duration"] == 5 * 50, "5 frames of 216 bytes"


def test_an_mp4_holds_odd_sizes_too(tmp_path):
    pytest.importorskip("av", reason="the extra video is not installed")
    _, mp4 = writer.save(tmp_path / "odd", np.full((3, 33, 35, 3), 200, np.uint8))
    shown = video_frames(mp4)
    assert len(shown) == 3 and shown[0].shape == (34, 36, 3)
    assert np.abs(shown[0].astype(int) - 200).max() < 6
