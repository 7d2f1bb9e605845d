"""The unfinished episode: a file that grows row by row and becomes an .npz at the end.

Compared with lists in memory, an episode of any length costs no anonymous memory, kill -9 loses at
most the row being written, and flushing is one fsync. The header and every row have a checksum, so
that after a power failure the episode ends with the last whole row.
"""

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import DamagedFile, cannot_write

JOURNAL_NAME = re.compile(r"(\d{8}T\d{6}-[0-9a-f]{32})\.journal")
_MAGIC = b"dreamerv2 journal 2 "
_CHECKSUM = "_crc32"


class Journal:
    """One unfinished episode on disk.

    Attributes: `id` (also of the later stored episode), `path`, `rows`, `dtype` (of one row).
    """

    def __init__(self, path: Path, dtype: np.dtype, rows: int, file):
        """Use `Journal.create` or `Journal.recover`."""
        self.path, self.id = path, path.name.removesuffix(".journal")
        self.dtype, self.rows = dtype, rows
        self._file = file
        self._begin = len(_header(dtype))
        row = np.zeros((), dtype)
        self._fields = {key: row[key] for key in dtype.names if key != _CHECKSUM}
        self._checksum = row[_CHECKSUM]
        self._bytes = row.reshape(1).view(np.uint8)

    @classmethod
    def create(cls, directory: Path, name: str, row: Mapping[str, np.ndarray]) -> "Journal":
        """Start an episode whose rows look like `row`. Raises UserError when the disk is full."""
        types = [(k, stored_dtype(k, np.asarray(v).dtype), np.shape(v)) for k, v in row.items()]
        dtype = np.dtype([*types, (_CHECKSUM, np.uint32)])
        path = directory / f"{name}.journal"
        try:
            file = open(path, "xb+", buffering=0)
            _write_whole(file, _header(dtype), 0)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
        return cls(path, dtype, 0, file)

    @classmethod
    def recover(cls, path: Path) -> "Journal":
        """Reopen the file of a killed process, up to its last whole row. Raises DamagedFile."""
        with open(path, "rb") as reader:
            line = reader.readline()
        dtype = _parse_header(line)
        whole = (os.path.getsize(path) - len(line)) // dtype.itemsize
        journal = cls(path, dtype, whole, open(path, "rb+", buffering=0))
        for index, row in enumerate(journal._map()):
            data = row.tobytes()
            if zlib.crc32(data[:-4]) != row[_CHECKSUM]:
                journal.rows = index
                break
        return journal

    @property
    def steps(self) -> int:
        """Number of actions so far."""
        return max(0, self.rows - 1)

    @property
    def finished(self) -> bool:
        """True if the last row is the end of the episode."""
        return bool(self.rows and self._map()["is_last"][-1])

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """Add one row. Raises ValueError (other keys or shapes), UserError (disk full)."""
        if row.keys() != self._fields.keys():
            raise ValueError(f"row has keys {sorted(row)}, the episode {sorted(self._fields)}")
        for key, field in self._fields.items():
            if np.shape(row[key]) != field.shape:
                raise ValueError(f"{key} has shape {np.shape(row[key])}, the episode {field.shape}")
            field[...] = row[key]
        self._checksum[...] = zlib.crc32(self._bytes[:-4])
        try:
            _write_whole(self._file, self._bytes, self._begin + self.rows * self.dtype.itemsize)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.rows += 1

    def read(self, start: int, out: Mapping[str, np.ndarray], cache=None) -> None:
        """Copy rows from `start` on into the arrays of `out`, key -> [n, ...]."""
        rows = len(next(iter(out.values())))
        size = self.dtype.itemsize
        data = os.pread(self._file.fileno(), rows * size, self._begin + start * size)
        array = np.frombuffer(data, self.dtype)
        for key, target in out.items():
            target[...] = array[key]

    def sync(self) -> None:
        """Write all rows so far to the disk, where a power failure does not lose them."""
        os.fsync(self._file.fileno())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return arrays [rows, ...]; an unfinished episode is closed as truncated."""
        table = self._map()
        arrays = {key: table[key] for key in self._fields}
        for key in ("is_first", "is_last", "is_terminal"):
            arrays[key] = arrays[key].copy()
        if not arrays["is_last"][-1]:
            arrays["is_last"][-1], arrays["is_terminal"][-1] = True, False
        arrays["is_first"][0] = True
        return arrays

    def _map(self) -> np.ndarray:
        if not self.rows:
            return np.zeros(0, self.dtype)
        return np.memmap(self._file, self.dtype, "r", self._begin, (self.rows,))

    def close(self) -> None:
        """Close and delete the journal, after the episode was stored or discarded."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def stored_dtype(key: str, dtype: np.dtype) -> np.dtype:
    """Return the type that a value is stored as: float32, int32, uint8 or bool.

    Raises ValueError unless it is a number.
    """
    if dtype == np.uint8 or dtype.kind == "b":
        return dtype
    kinds = {"f": np.float32, "i": np.int32, "u": np.int32}
    if dtype.kind not in kinds:
        raise ValueError(f"{key} is {dtype}; an episode holds only numbers and booleans")
    return np.dtype(kinds[dtype.kind])


def _header(dtype: np.dtype) -> bytes:
    fields = [[key, dtype[key].base.str, dtype[key].shape] for key in dtype.names]
    text = json.dumps(fields).encode()
    return _MAGIC + b"%08x " % zlib.crc32(text) + text + b"\n"


def _parse_header(line: bytes) -> np.dtype:
    match = re.fullmatch(_MAGIC + rb"([0-9a-f]{8}) (.*)\n", line)
    if not match or int(match[1], 16) != zlib.crc32(match[2]):
        raise DamagedFile("no journal of an episode, its header is damaged")
    return np.dtype([(key, kind, tuple(shape)) for key, kind, shape in json.loads(match[2])])


def _write_whole(file, data, offset: int) -> None:
    """Write all bytes at the offset, or raise OSError; the next row overwrites a torn row."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written
