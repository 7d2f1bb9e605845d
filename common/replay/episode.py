"""One episode as one .npz file: its name, writing, reading of any rows, detection of damage.

Files are written stored, not compressed, so that rows can be read in place. Rows are read with
`preadv` into the batch, not through a memory map: both use the page cache and no anonymous memory,
but truncating a mapped file kills the process with SIGBUS, while a short read is an error that can
be handled. Compressed files (of the 2021 release) are decompressed whole and cached.
"""

import io
import os
import re
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import DamagedFile
from dreamerv2.common.files import replacing
from dreamerv2.common.npz import damage_reported, read_layout, write_arrays

try:
    import resource
except ImportError:  # a system without limits on open files
    resource = None

FILE_NAME = re.compile(r"(\d{8}T\d{6}-[0-9a-f]{32})-(\d+)\.npz")
# Earlier versions of this program wrote temporary names without the dot at the beginning.
TEMPORARY = re.compile(r"\.?(\d{8}T\d{6}-[0-9a-f]{32}-\d+\.npz|pruned\.json)\.tmp")


class Names:
    """Episode names `{YYYYmmddTHHMMSS}-{32 hex digits}` that sort in the order of creation.

    The first eight digits count up and the timestamp never decreases, even if the clock does.
    """

    def __init__(self, last: str = ""):
        """Start after the name `last`, the largest one present (empty: none)."""
        self._count = 0
        self._earliest = datetime.min
        if last:
            self._earliest = _after(last)

    def new(self) -> str:
        """Return the next name, without steps and suffix."""
        self._earliest = max(datetime.now(), self._earliest)
        name = f"{self._earliest:%Y%m%dT%H%M%S}-{self._count:08x}{uuid.uuid4().hex[8:]}"
        self._count += 1
        return name


def _after(name: str) -> datetime:
    """Return the second after a name's timestamp, 1970 for an impossible one (month 13)."""
    try:
        return datetime.strptime(name[:15], "%Y%m%dT%H%M%S") + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return datetime(1970, 1, 1)


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

    def read(self, start: int, out: Mapping[str, np.ndarray], files: "FileCache") -> None:
        """Copy rows from `start` on into the arrays of `out`, key -> contiguous [n, ...].

        The first read checks the checksums of the whole file. Raises DamagedFile.
        """
        try:
            if not self._checked:
                self._check()
            for key, target in out.items():
                self._read_key(key, start, target, files)
        except FileNotFoundError as error:
            raise DamagedFile("the file has vanished") from error

    def _read_key(self, key, start, target, files):
        member = self.layout[key]
        if member.offset is None:
            rows = files.arrays(self)[key][start : start + len(target)]
            np.copyto(target, rows, casting="same_kind")
            return
        same = member.dtype == target.dtype
        raw = target if same else np.empty(target.shape, member.dtype)
        offset = member.offset + start * (raw.nbytes // len(raw))
        # View as bytes: one flat buffer whatever the dtype, shape () rows included.
        if os.preadv(files.descriptor(self.path), [raw.data], offset) != raw.nbytes:
            raise DamagedFile("the file has been truncated")
        if not same:
            np.copyto(target, raw, casting="same_kind")

    def _check(self):
        """Compare every member with its CRC (1 GB/s or more), once per process."""
        if all(member.offset is not None for member in self.layout.values()):
            with damage_reported(), zipfile.ZipFile(self.path) as archive:
                bad = archive.testzip()
            if bad:
                raise DamagedFile(f"the checksum of {bad} is wrong")
        self._checked = True  # Compressed members are checked whenever they are decompressed.


class FileCache:
    """Open files and decompressed episodes, the least recently used dropped first.

    A quarter of the files that this process may open at most: a run has two replays, and
    TensorFlow, workers and logs open files too.
    """

    def __init__(self, max_files: int = 256, max_bytes: int = 256 * 2**20):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 1024
        if limit > 0:  # negative: unlimited
            max_files = max(1, min(max_files, limit // 4))
        self._max_files, self._max_bytes = max_files, max_bytes
        self._files: OrderedDict[Path, io.FileIO] = OrderedDict()
        self._arrays: OrderedDict[Path, dict[str, np.ndarray]] = OrderedDict()

    def descriptor(self, path: Path) -> int:
        """Return a descriptor of the open file, opening it where needed."""
        file = self._files.get(path)
        if file is None:
            while len(self._files) >= self._max_files:
                self._files.popitem(last=False)[1].close()
            file = self._files[path] = open(path, "rb", buffering=0)
        self._files.move_to_end(path)
        return file.fileno()

    def arrays(self, episode: StoredEpisode) -> dict[str, np.ndarray]:
        """Return the decompressed episode; raises DamagedFile where a checksum is wrong."""
        if episode.path not in self._arrays:
            self._arrays[episode.path] = _decompress(episode)
            while len(self._arrays) > 1 and self.cached_bytes > self._max_bytes:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(episode.path)
        return self._arrays[episode.path]

    @property
    def cached_bytes(self) -> int:
        """Memory held by decompressed episodes."""
        return sum(a.nbytes for arrays in self._arrays.values() for a in arrays.values())

    def forget(self, path: Path) -> None:
        """Close and drop one file, so that deleting it frees its space."""
        self._arrays.pop(path, None)
        if path in self._files:
            self._files.pop(path).close()

    def close(self) -> None:
        """Close everything."""
        for path in [*self._files, *self._arrays]:
            self.forget(path)


def _decompress(episode: StoredEpisode) -> dict[str, np.ndarray]:
    with damage_reported(), np.load(episode.path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in episode.layout if trained_on(key)}
    if any(len(array) != episode.rows for array in arrays.values()):
        raise DamagedFile("its arrays have changed their lengths")
    return arrays


def trained_on(key: str) -> bool:
    """Return whether a key belongs in batches: not `log_` keys, nor the release's emulator RAM."""
    return not key.startswith("log_") and key != "ram"
