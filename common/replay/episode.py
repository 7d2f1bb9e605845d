"""One episode as one .npz file: its name, writing, reading of any rows, detection of damage.

Files are written stored, not compressed, so that rows can be read in place. Rows are read with
`preadv` into the batch, not through a memory map: both use the page cache and no anonymous memory,
but truncating a mapped file kills the process with SIGBUS, while a short read is an error that can
be handled. Compressed files (of the 2021 release) are decompressed whole and cached.
"""

import os
import re
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import DamagedFile
from dreamerv2.common.files import replacing
from dreamerv2.common.npz import Member, damage_reported, read_arrays, read_layout, write_arrays

FILE_NAME = re.compile(r"(\d{8}T\d{6}-[0-9a-f]{32})-(\d+)\.npz")
# Earlier versions of this program wrote temporary names without the dot at the beginning.
TEMPORARY = re.compile(r"\.?(\d{8}T\d{6}-[0-9a-f]{32}-\d+\.npz|pruned\.json)\.tmp")


class Names:
    """Episode names `{YYYYmmddTHHMMSS}-{32 hex digits}` that sort in the order of creation.

    The first eight digits count up and the timestamp never decreases, even if the clock does.
    """

    def __init__(self, last: str = ""):
        """Start after the name `last`, the largest one present (empty: none)."""
        self._time = last[:15]
        self._count = int(last[16:24], 16) + 1 if last else 0

    def new(self) -> str:
        """Return the next name, without steps and suffix."""
        self._time = max(f"{datetime.now():%Y%m%dT%H%M%S}", self._time)
        name = f"{self._time}-{self._count % 2**32:08x}{uuid.uuid4().hex[8:]}"
        self._count += 1
        return name


def write_episode(directory: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays [steps+1, ...] as `{name}-{steps}.npz`, stored. Raises UserError (disk full)."""
    steps = len(arrays["reward"]) - 1
    path = directory / f"{name}-{steps}.npz"
    with replacing(path) as file:
        write_arrays(file, arrays)
    return path


class StoredEpisode:
    """A whole episode on disk. Opening reads only headers; rows are read on demand.

    Attributes: `path`; `id` (the name without steps and suffix, which stays the same when an
    unfinished episode becomes a stored one); `rows` (steps + 1); `layout` (key -> Member).
    """

    __slots__ = ("path", "id", "rows", "layout", "_checked")

    def __init__(self, path: Path):
        """Open the file. Raises DamagedFile when it is not a whole, unpickled episode."""
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            raise DamagedFile("the name is not TIMESTAMP-HEX-STEPS.npz")
        self.path, self.id = path, match[1]
        self.rows, self.layout = read_layout(path)
        self._checked = False

    @property
    def steps(self) -> int:
        """Number of actions in the episode."""
        return self.rows - 1

    def read(self, start: int, out: Mapping[str, np.ndarray], cache: "ArrayCache") -> None:
        """Copy rows from `start` on into the arrays of `out`, key -> contiguous [n, ...].

        The first read compares the whole file with its checksums (1 GB/s or more). Raises
        DamagedFile.
        """
        try:
            if any(member.offset is None for member in self.layout.values()):
                arrays = cache.arrays(self)
                for key, target in out.items():
                    rows = arrays[key][start : start + len(target)]
                    np.copyto(target, rows, casting="same_kind")
                return
            if not self._checked:
                self._check()
            with open(self.path, "rb", buffering=0) as file:
                for key, target in out.items():
                    _read_rows(file.fileno(), self.layout[key], start, target)
        except FileNotFoundError as error:
            raise DamagedFile("the file has vanished") from error

    def _check(self) -> None:
        with damage_reported(), zipfile.ZipFile(self.path) as archive:
            bad = archive.testzip()
        if bad:
            raise DamagedFile(f"the checksum of {bad} is wrong")
        self._checked = True


def _read_rows(descriptor: int, member: Member, start: int, target: np.ndarray) -> None:
    same = member.dtype == target.dtype
    raw = target if same else np.empty(target.shape, member.dtype)
    offset = member.offset + start * (raw.nbytes // len(raw))
    if os.preadv(descriptor, [raw.data], offset) != raw.nbytes:
        raise DamagedFile("the file has been truncated")
    if not same:
        np.copyto(target, raw, casting="same_kind")


class ArrayCache:
    """The arrays of compressed episodes, the least recently used dropped first."""

    def __init__(self, max_bytes: int = 256 * 2**20):
        self._max_bytes = max_bytes
        self._arrays: OrderedDict[Path, dict[str, np.ndarray]] = OrderedDict()

    def arrays(self, episode: StoredEpisode) -> dict[str, np.ndarray]:
        """Return the decompressed episode; raises DamagedFile where a checksum is wrong."""
        if episode.path not in self._arrays:
            arrays = {k: v for k, v in read_arrays(episode.path).items() if trained_on(k)}
            if any(len(array) != episode.rows for array in arrays.values()):
                raise DamagedFile("its arrays have changed their lengths")
            self._arrays[episode.path] = arrays
            while len(self._arrays) > 1 and self.bytes > self._max_bytes:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(episode.path)
        return self._arrays[episode.path]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(a.nbytes for arrays in self._arrays.values() for a in arrays.values())


def trained_on(key: str) -> bool:
    """Return whether a key belongs in batches: not `log_` keys, nor the release's emulator RAM."""
    return not key.startswith("log_") and key != "ram"
