import os

import numpy as np
import pytest
from episode_rows import make_arrays, make_row

from dreamerv2.common.errors import DamagedFile
from dreamerv2.common.replay.episode import (
    FILE_NAME,
    ArrayCache,
    Names,
    StoredEpisode,
    write_episode,
)
from dreamerv2.common.replay.journal import Journal

NAME = "20210102T030405-" + "ab" * 16


def buffers(rows):
    return {"action": np.empty((rows, 2), np.float32), "image": np.empty((rows, 2, 2, 1), np.uint8)}


def save(directory, arrays, saver=np.savez, name=f"{NAME}-9.npz"):
    saver(directory / name, **arrays)
    return directory / name


def test_a_written_file_has_the_name_and_format_of_the_release(tmp_path):
    path = write_episode(tmp_path, NAME, make_arrays(3, 9))
    assert path.name == f"{NAME}-9.npz"
    with np.load(path, allow_pickle=False) as archive:
        assert archive["reward"].tolist() == [300 + t for t in range(10)]
        assert archive["log_extra"].shape == (10,), "log_ keys are kept in the file"
    assert os.listdir(tmp_path) == [path.name], "a temporary file stayed"
    other = write_episode(tmp_path, NAME[:-1] + "c", make_arrays(1, 9))
    layouts = [StoredEpisode(each).layout for each in (path, other)]
    assert layouts[0] is layouts[1], "20,000 files would have 20,000 layouts"


def test_names_sort_in_the_order_given_within_a_second_and_when_the_clock_goes_back():
    names = Names()
    given = [names.new() for _ in range(50)]
    later = Names("29991231T235959-" + "0f" * 16)
    given += [later.new() for _ in range(3)]
    assert given == sorted(set(given))
    assert all(FILE_NAME.fullmatch(f"{name}-7.npz") for name in given)
    assert given[-1].startswith("29991231T235959-0f0f0f12")


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("odd", [False, True])
def test_any_rows_of_stored_and_compressed_files_are_read(tmp_path, saver, odd):
    arrays = make_arrays(2, 9) | {"ram": np.zeros((10, 128), np.uint8)}
    if odd:  # other number types, and Fortran's order
        arrays["action"] = np.asfortranarray(arrays["action"].astype(">f8"))
    episode = StoredEpisode(save(tmp_path, arrays, saver))
    assert (episode.rows, episode.steps, episode.id) == (10, 9, NAME)
    cache = ArrayCache()
    for start, rows in [(0, 10), (9, 1), (3, 4)]:
        out = buffers(rows)
        episode.read(start, out, cache)
        for key, array in out.items():
            np.testing.assert_array_equal(array, arrays[key][start : start + rows])


def test_the_cache_of_compressed_episodes_is_bounded(tmp_path):
    cache = ArrayCache(max_bytes=500)
    for index in range(8):
        name = f"20210102T030405-{index:032x}-9.npz"
        episode = StoredEpisode(save(tmp_path, make_arrays(index, 9), np.savez_compressed, name))
        out = buffers(2)
        episode.read(0, out, cache)
        assert out["action"][1].tolist() == [index, 1] and 0 < cache.bytes <= 500


WHOLE = make_arrays(1, 9)


@pytest.mark.parametrize(
    "arrays, reason",
    [
        (WHOLE | {"log_extra": np.array([{}] * 10, object)}, "pickled"),
        ({"weights": np.zeros((10, 3))}, "missing"),
        (WHOLE | {"reward": WHOLE["reward"][:-1]}, "different lengths"),
        ({key: array[:0] for key, array in WHOLE.items()}, "different lengths"),
        ({key: array for key, array in WHOLE.items() if key != "is_last"}, "is_last missing"),
    ],
)
@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_a_file_that_is_no_episode_is_refused_with_the_reason(tmp_path, arrays, reason, saver):
    path = save(tmp_path, arrays, saver)
    with pytest.raises(DamagedFile, match=reason):
        StoredEpisode(path)


@pytest.mark.parametrize("keep", [0, 1, 100, -30, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = write_episode(tmp_path, NAME, make_arrays(1, 9))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile):
        StoredEpisode(path)


def test_any_flipped_bit_of_the_data_is_found_before_it_is_delivered(tmp_path):
    arrays = make_arrays(1, 9)
    path = write_episode(tmp_path, NAME, arrays)
    whole = path.read_bytes()
    position = whole.index(arrays["action"].tobytes())
    for byte in range(position, position + arrays["action"].nbytes, 7):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 4]) + whole[byte + 1 :])
        with pytest.raises(DamagedFile, match=r"CRC|checksum"):
            StoredEpisode(path).read(0, buffers(1), ArrayCache())


def test_a_file_that_is_cut_or_deleted_after_it_was_opened_is_an_error_not_a_crash(tmp_path):
    episode = StoredEpisode(write_episode(tmp_path, NAME, make_arrays(1, 9)))
    episode.read(0, buffers(10), ArrayCache())
    os.truncate(episode.path, 200)
    with pytest.raises(DamagedFile, match="truncated"):
        episode.read(0, buffers(10), ArrayCache())
    episode.path.unlink()
    with pytest.raises(DamagedFile, match="vanished"):
        episode.read(0, buffers(2), ArrayCache())


def journal(tmp_path, rows):
    journal = Journal.create(tmp_path, NAME, make_row(4, 0))
    for t in range(rows):
        journal.append(make_row(4, t))
    return journal


def test_no_flipped_bit_in_a_journals_header_passes(tmp_path):
    path = journal(tmp_path, 3).path
    whole = path.read_bytes()
    for place in range(0, 8 * (whole.index(b"\n") + 1), 7):  # in every byte, all bits in turn
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile):
            Journal.recover(path)
    path.write_bytes(whole)
    assert Journal.recover(path).rows == 3


@pytest.mark.parametrize("lost", [1, 10, 50, 70])
def test_a_torn_row_ends_the_recovered_episode(tmp_path, lost):
    whole = journal(tmp_path, 6)
    os.truncate(whole.path, whole.path.stat().st_size - lost)
    rows = 6 - -(-lost // whole.dtype.itemsize)
    assert Journal.recover(whole.path).rows == rows
    data = bytearray(whole.path.read_bytes())
    data[-3 * whole.dtype.itemsize] ^= 1
    whole.path.write_bytes(data)
    assert Journal.recover(whole.path).rows < rows, "a row with a wrong checksum was used"


@pytest.mark.parametrize("data", [b"", b"dreamerv2 journal 1 [[\n", b"\x93NUMPY" * 50])
def test_what_is_no_journal_is_refused(tmp_path, data):
    path = tmp_path / f"{NAME}.journal"
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match="no journal"):
        Journal.recover(path)


def test_a_row_of_another_shape_or_with_other_keys_is_refused_by_name(tmp_path):
    open_journal = journal(tmp_path, 2)
    with pytest.raises(ValueError, match="image has shape"):
        open_journal.append(make_row(4, 2) | {"image": np.zeros((2, 2, 3), np.uint8)})
    with pytest.raises(ValueError, match="log_new"):
        open_journal.append(make_row(4, 2) | {"log_new": 1})
    with pytest.raises(ValueError, match="only numbers"):
        Journal.create(tmp_path / "x", NAME, {"name": np.asarray("pong")})
