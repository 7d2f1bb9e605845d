"""Where the arrays of an episode's .npz file lie, read from its headers alone, trusting nothing."""

import errno
import functools
import io
import os
import struct
import tokenize
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

REQUIRED = ("action", "reward", "is_first", "is_last", "is_terminal")

# What zipfile and numpy raise when the bytes they parse are not what was once written.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    ValueError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
)


class Damaged(Exception):
    """An episode file that cannot be used; the message is the reason."""


class Member(NamedTuple):
    """Where one key of an episode lies: dtype, shape of one row, byte offset of row 0.

    The offset is None where the rows cannot be read in place (compressed or Fortran order).
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None


class damage_reported:
    """Context that turns what parsers raise on wrong bytes into Damaged."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, _UNREADABLE):
            reason = " ".join(str(error).split())
            raise Damaged(f"{kind.__name__}, {reason[:100]}") from error
        # Offsets outside the file, a sector the disk cannot read any more, a folder so named.
        if isinstance(error, OSError) and error.errno in (
            None,
            errno.EINVAL,
            errno.EIO,
            errno.EISDIR,
        ):
            raise Damaged(f"cannot be read: {error.strerror}") from error


class Layout(dict[str, Member]):
    """Key -> Member. A class of its own, because a plain dict takes no weak references."""

    __slots__ = ("__weakref__",)


_layouts: weakref.WeakValueDictionary[tuple, Layout] = weakref.WeakValueDictionary()


def read_layout(path: Path) -> tuple[int, Layout]:
    """Return the number of rows and the layout; equal layouts are one object (20k files)."""
    members, lengths = Layout(), set()
    with damage_reported(), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            key, rows, member = _read_member(file, info)
            members[key] = member
            lengths.add(rows)
    missing = [key for key in REQUIRED if key not in members]
    if missing:
        raise Damaged(f"no episode, {', '.join(missing)} missing")
    if len(lengths) != 1 or 0 in lengths:
        raise Damaged(f"the keys have different lengths {sorted(lengths)}")
    return lengths.pop(), _layouts.setdefault(tuple(sorted(members.items())), members)


def _read_member(file, info: zipfile.ZipInfo) -> tuple[str, int, Member]:
    """Read key, number of rows and Member from a zip entry's header, without its data."""
    if not info.filename.endswith(".npy"):
        raise Damaged(f"{info.filename} is no array")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damaged(f"{info.filename} is compressed in an unknown way")
    head = os.pread(file.fileno(), 16384 if info.compress_size > 4096 else 5000, info.header_offset)
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    begin = 30 + name_length + extra_length
    stored = info.compress_type == zipfile.ZIP_STORED
    content = head[begin:] if stored else zlib.decompressobj(-15).decompress(head[begin:], 12000)
    size, dtype, shape, fortran = _parse_header(content[: _header_size(content)])
    if dtype.hasobject:
        raise Damaged(f"{info.filename} holds pickled objects")
    if not shape or size + dtype.itemsize * int(np.prod(shape)) != info.file_size:
        raise Damaged(f"{info.filename} has not the size its header says")
    if info.file_size > 1100 * info.compress_size + 4096:  # More than deflate can compress.
        raise Damaged(f"{info.filename} claims {info.file_size} bytes")
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
