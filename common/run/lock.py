"""One process per run directory: two would overwrite each other's checkpoints."""

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from dreamerv2.common.errors import UserError, cannot_write

FILENAME = "run.lock"
MARKER = "run.lock.marker"  # exists only where the file system has no locks
WAIT = 1.0  # seconds: a killed process may leave a child between fork and exec, which has the lock
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """Holds ``LOGDIR/run.lock`` as long as the process lives, or until ``release``.

    The lock is flock(2), which the operating system drops when its process dies, however it dies.
    On a shared file system (NFS of Linux 2.6.12 or later, Lustre mounted with `flock`) the server
    drops the lock of a node that is gone when the node's lease expires, and never while the node
    answers. Where flock does not exist a marker file decides: the marker of a dead process of this
    host is taken over, and that of another host must be deleted by hand.

    ``run.lock`` stays behind and names the last holder; only the lock on it counts. Raises
    UserError: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, logdir: str | os.PathLike):
        self._path = Path(logdir) / FILENAME
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire()
            this = {"pid": os.getpid(), "host": socket.gethostname()}
            this["started"] = time.strftime("%Y-%m-%d %H:%M:%S")
            self._path.write_text(json.dumps(this) + "\n")
        except OSError as error:
            advice = "Choose a --logdir that you can write to."
            raise cannot_write(self._path, error, advice) from error

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()

    def release(self) -> None:
        """Let another process have the folder. Releasing twice is fine."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._path.write_bytes(b"")
            self._lock.release()

    def _acquire(self) -> FileLock | SoftFileLock:
        lock = FileLock(self._path, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(timeout=WAIT)
        except Timeout:
            raise self._refusal() from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(self._path.with_name(MARKER), thread_local=False)
            try:
                lock.acquire(timeout=WAIT)
            except Timeout:
                raise self._refusal(f" If that process is gone, delete {lock.lock_file}.") from None
        return lock

    def _refusal(self, advice: str = "") -> UserError:
        try:
            holder = json.loads(self._path.read_bytes())
            who = f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
        except (OSError, ValueError, TypeError, KeyError):
            who = "another process"
        return UserError(
            f"The logdir {self._path.parent} is in use by {who}; stop it first, or choose another "
            f"--logdir.{advice}"
        )
