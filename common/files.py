"""Files that appear whole or not at all, and that a power failure does not undo."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dreamerv2.common.errors import cannot_write


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, mode: str = "wb", concurrent: bool = False, **options: Any
) -> Iterator[IO]:
    """Open a temporary file that takes the place of `path` when the block succeeds.

    The data are on the disk before the rename, and the rename is before the return. The next
    writer overwrites the temporary file of a killed process. `concurrent`: several processes may
    write `path` at the same time. Raises UserError (disk full); `path` is then unchanged.
    """
    path = Path(path)
    process = f".{os.getpid()}" if concurrent else ""
    temporary = path.with_name(f".{path.name}{process}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            flush(file)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def flush(file: IO) -> None:
    """Return when the content of an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(directory: str | os.PathLike) -> None:
    """Return when renames and deletions in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
