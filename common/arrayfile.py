"""Named arrays in one .npz file: nothing compressed, nothing pickled, nothing trusted."""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

NUMERIC = "biufc"  # Kinds of numpy types: no objects, no records, no strings.


class Malformed(Exception):
    """A file that ``write_arrays`` did not write; the message says why."""


def write_arrays(file: BinaryIO, arrays: Mapping[str, Any], kinds: str = NUMERIC) -> None:
    """Write an .npz as ``np.savez`` does, but one array in memory at a time, under any name.

    Args:
        file: open for writing; the caller flushes and closes it.
        arrays: name -> anything that ``np.asarray`` makes an array of those kinds of.
        kinds: of numpy types; ``read_arrays`` reads the numeric ones only.

    Raises:
        TypeError: an array is of another kind.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            array = np.asarray(value)
            if array.dtype.kind not in kinds:
                raise TypeError(f"'{name}' of type {array.dtype} is no numeric array.")
            # A fixed date: equal contents make equal files.
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what ``write_arrays`` wrote, never using more memory than the file is long.

    Raises:
        Malformed: the file is anything else, whoever made it and for whatever purpose.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Members may share their bytes in a file made to fill the memory.
            if sum(info.file_size for info in members) > os.path.getsize(path):
                raise Malformed("its arrays are larger than the file")
            return {_name(info): _read_array(archive, info) for info in members}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error) as error:
        raise Malformed(str(error)) from error
    # What the zip and array readers raise at one kind of nonsense or another.
    except (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError) as error:
        raise Malformed(str(error)) from error
    except (RuntimeError, EOFError) as error:
        raise Malformed(str(error)) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # A seek to a place that cannot be.
            raise
        raise Malformed("it points outside itself") from error


def _name(info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(".npy") or info.compress_type != zipfile.ZIP_STORED:
        raise Malformed(f"{info.filename!r} is no stored array")
    return info.filename.removesuffix(".npy")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read one array after making sure that it is as large as its header claims."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise Malformed(f"{info.filename!r} has array format {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        size = dtype.itemsize
        for length in shape:
            size *= length
        if dtype.kind not in NUMERIC or member.tell() + size != info.file_size:
            raise Malformed(f"{info.filename!r} is no numeric array of its size")
        member.seek(0)
        return np.lib.format.read_array(member, allow_pickle=False)
