"""A file that is replaced is whole or not there, whatever happens while it is written."""

import errno
import os

import pytest

from dreamerv2.common.errors import UserError
from dreamerv2.common.files import replacing


@pytest.mark.parametrize("concurrent", [False, True])
def test_the_new_content_appears_when_the_block_ends(tmp_path, concurrent):
    path = tmp_path / "a"
    for content in ("old", "new ü"):
        before = path.read_text("utf-8") if path.exists() else None
        with replacing(path, "w", concurrent, encoding="utf-8") as file:
            file.write(content)
            assert (path.read_text("utf-8") if path.exists() else None) == before
        assert path.read_text("utf-8") == content and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="Could not write .*a: No space left .* Make room"):
        with replacing(tmp_path / "a") as file:
            file.write(b"new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_another_error_in_the_block_stays_that_error(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as file:
        file.write(b"%d" % (1 // 0))
    assert not os.listdir(tmp_path)


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="Could not write .*missing.*: No such file"):
        with replacing(tmp_path / "missing" / "a"):
            raise AssertionError("nothing was opened")


def test_the_temporary_file_of_a_killed_process_is_overwritten(tmp_path):
    (tmp_path / ".a.tmp").write_bytes(b"longer than the new content")
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]
