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

from dreamerv2.common.errors import DamagedFile, UserError

NUMERIC = "biufc"  # kinds of NumPy types: no objects, no records, no strings
EPISODE_KEYS = ("action", "reward", "is_first", "is_last", "is_terminal")

# An offset outside the file, a sector that the disk cannot read, a folder of that name.
_UNREADABLE = (None, errno.EINVAL, errno.EIO, errno.EISDIR)


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Raise DamagedFile in place of the errors that reading malformed bytes causes."""
    try:
        yield
    except (DamagedFile, UserError):
        raise
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise DamagedFile(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # the readers of zip, .npy and JSON raise many kinds
        reason = " ".join(str(error).split())
        raise DamagedFile(f"{type(error).__name__}, {reason[:100]}") from error


def write_arrays(file: BinaryIO, arrays: Mapping[str, Any], kinds: str = NUMERIC) -> None:
    """Write an .npz as ``np.savez`` does, but one array in memory at a time, under any name.

    The values are converted with ``np.asarray``. Raises TypeError for other kinds of NumPy types.
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
            rows, member = _read_member(file, info)
            members[info.filename.removesuffix(".npy")] = member
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


def _read_member(file: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, Member]:
    """Read the number of rows and the place of a zip entry, without its data."""
    head = os.pread(file.fileno(), 4096, info.header_offset)
    begin = 30 + sum(struct.unpack_from("<HH", head, 26))  # after the name and the extra field
    content, stored = head[begin:], info.compress_type == zipfile.ZIP_STORED
    if not stored:
        content = zlib.decompressobj(-15).decompress(content, 4096)
    size = 10 + struct.unpack_from("<H", content, 8)[0]
    shape, fortran, dtype = _parse_header(content[:size])
    if dtype.hasobject:
        raise DamagedFile(f"{info.filename} holds pickled objects")
    if not shape or size + dtype.itemsize * int(np.prod(shape)) != info.file_size:
        raise DamagedFile(f"{info.filename} has not the size its header says")
    in_place = stored and not (fortran and len(shape) > 1)
    offset = info.header_offset + begin + size if in_place else None
    return shape[0], Member(dtype, shape[1:], offset)


@functools.lru_cache(4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Parse an .npy header; cached, because most files of a replay have the same few."""
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    return np.lib.format.read_array_header_1_0(stream)  # other versions hold only records
