"""Named arrays in .npz files: write, read, and find the arrays of an episode by its headers."""

import contextlib
import errno
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dreamerv2.common.errors import PARSE_ERRORS, DamagedFile

NUMERIC = "biufc"  # kinds of NumPy types: no objects, no records, no strings
EPISODE_KEYS = ("action", "reward", "is_first", "is_last", "is_terminal")

# An offset outside the file, a sector that the disk cannot read, a folder of that name.
_UNREADABLE = (None, errno.EINVAL, errno.EIO, errno.EISDIR)


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Raise DamagedFile in place of the errors that reading malformed bytes causes."""
    try:
        yield
    except PARSE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise DamagedFile(f"{type(error).__name__}, {reason[:100]}") from error
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise DamagedFile(f"cannot be read: {error.strerror}") from error


def write_arrays(file: BinaryIO, arrays: Mapping[str, Any], kinds: str = NUMERIC) -> None:
    """Write an .npz as ``np.savez`` does, but one array in memory at a time, under any name.

    Args:
        file: open for writing; the caller flushes and closes it.
        arrays: name -> anything that ``np.asarray`` makes an array of those kinds of.
        kinds: of NumPy types.

    Raises:
        TypeError: an array is of another kind.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            array = np.asarray(value)
            if array.dtype.kind not in kinds:
                raise TypeError(f"'{name}' of type {array.dtype} is no numeric array.")
            # A fixed date, so that equal contents make equal files.
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of a file, without pickle. Raises DamagedFile, OSError."""
    with damage_reported(), open(path, "rb") as file:
        with np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise DamagedFile("it holds files other than arrays")
    return arrays


class Member(NamedTuple):
    """Place of one key of an episode: dtype, shape of one row, byte offset of row 0.

    The offset is None where the rows cannot be read in place (compressed or Fortran order).
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None


Layout = dict[str, Member]


def read_layout(path: Path) -> tuple[int, Layout]:
    """Return the number of rows and the layout of an episode from its headers alone.

    Equal layouts are one object, because a replay opens 20,000 files. Raises DamagedFile.
    """
    members, lengths = {}, set()
    with damage_reported(), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            key, rows, member = _read_member(file, info)
            members[key] = member
            lengths.add(rows)
    missing = [key for key in EPISODE_KEYS if key not in members]
    if missing:
        raise DamagedFile(f"no episode, {', '.join(missing)} missing")
    if len(lengths) != 1 or 0 in lengths:
        raise DamagedFile(f"the keys have different lengths {sorted(lengths)}")
    return lengths.pop(), _shared(tuple(sorted(members.items())))


@functools.lru_cache(4096)
def _shared(members: tuple[tuple[str, Member], ...]) -> Layout:
    return dict(members)


def _read_member(file: BinaryIO, info: zipfile.ZipInfo) -> tuple[str, int, Member]:
    """Read key, number of rows and Member from a zip entry's header, without its data."""
    if not info.filename.endswith(".npy"):
        raise DamagedFile(f"{info.filename} is no array")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DamagedFile(f"{info.filename} is compressed in an unknown way")
    head = os.pread(file.fileno(), 16384 if info.compress_size > 4096 else 5000, info.header_offset)
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    begin = 30 + name_length + extra_length
    stored = info.compress_type == zipfile.ZIP_STORED
    content = head[begin:] if stored else zlib.decompressobj(-15).decompress(head[begin:], 12000)
    size, dtype, shape, fortran = _parse_header(content[: _header_size(content)])
    if dtype.hasobject:
        raise DamagedFile(f"{info.filename} holds pickled objects")
    if not shape or size + dtype.itemsize * int(np.prod(shape)) != info.file_size:
        raise DamagedFile(f"{info.filename} has not the size its header says")
    if info.file_size > 1100 * info.compress_size + 4096:  # more than deflate can compress
        raise DamagedFile(f"{info.filename} claims {info.file_size} bytes")
    in_place = stored and not (fortran and len(shape) > 1)
    offset = info.header_offset + begin + size if in_place else None
    return info.filename[:-4], shape[0], Member(dtype, shape[1:], offset)


def _header_size(content: bytes) -> int:
    """Return the length of an .npy header with its magic (version 1: 2 length bytes, 2: 4)."""
    if content[6] == 1:
        return 10 + struct.unpack_from("<H", content, 8)[0]
    return 12 + struct.unpack_from("<I", content, 8)[0]


@functools.lru_cache(4096)
def _parse_header(header: bytes) -> tuple[int, np.dtype, tuple[int, ...], bool]:
    """Parse an .npy header; cached, because most files of a replay have the same few."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = readers[version](stream)
    return len(header), dtype, shape, fortran
