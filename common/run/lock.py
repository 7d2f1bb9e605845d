"""One process per run directory: two would overwrite each other's checkpoints."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import weakref
from pathlib import Path
from typing import Any

from dreamerv2.common.errors import UserError

FILENAME = "run.lock"
PATIENCE = 5.0  # Seconds to wait for the last traces of a dead process.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """Holds ``LOGDIR/run.lock`` as long as the process lives, or until ``release``.

    The operating system drops the lock when its process dies, however it dies, so that the same
    command can continue a killed run. Where the file system knows no locks, the process id and
    host written in the file decide. The file stays behind; only the lock on it counts.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, logdir: str | os.PathLike):
        self._path = Path(logdir) / FILENAME
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"Cannot write to the logdir {logdir} ({error.strerror}); "
                "choose a --logdir that you can write to."
            ) from error
        try:
            self._acquire()
            self._write(_this_process())
        except OSError as error:
            self._close()
            raise UserError(f"Cannot write {self._path} ({error.strerror}).") from error
        except BaseException:
            self._close()
            raise
        _held.add(self)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()

    def release(self) -> None:
        """Let another process have the folder. Releasing twice is fine."""
        if self._fd is not None:
            with contextlib.suppress(OSError):  # The lock itself goes with the descriptor.
                os.ftruncate(self._fd, 0)
            self._close()

    def _acquire(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._try_lock():
            owner = self._owner(patience=1.0)
            # A killed process may leave a child that is just being born and will let go at once.
            if not owner or _may_live(owner) or time.monotonic() > deadline:
                raise self._refusal(owner)
            time.sleep(0.02)

    def _try_lock(self) -> bool:
        """Whether the folder is ours now; where the system has no locks, ask the file."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            if error.errno not in UNSUPPORTED:
                raise
            owner = self._owner()
            if owner and _may_live(owner):
                raise self._refusal(owner, certain=False) from None
        return True

    def _refusal(self, owner: dict[str, Any], certain: bool = True) -> UserError:
        who = "another process"
        if owner:
            who = f"process {owner['pid']} on {owner['host']} (since {owner['started']})"
        advice = "stop it first, or choose another --logdir."
        if not certain and owner["host"] != socket.gethostname():
            advice += f" If that process is gone, delete {self._path}."
        return UserError(f"The logdir {self._path.parent} is in use by {who}; {advice}")

    def _owner(self, patience: float = 0.0) -> dict[str, Any]:
        """What the file says about its holder; empty if nothing readable within ``patience`` s."""
        deadline = time.monotonic() + patience  # The holder writes just after it locks.
        while True:
            owner = _parse(os.pread(self._fd, 4096, 0))
            if owner or time.monotonic() >= deadline:
                return owner
            time.sleep(0.02)

    def _write(self, owner: dict[str, Any]) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(owner).encode() + b"\n", 0)
        os.fsync(self._fd)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


# A forked child (an environment worker) shares the lock with its parent. Were it to outlive a
# killed parent, the run could not be continued, so a child closes its copy at once.
_held: weakref.WeakSet = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_forget_in_child)


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "born": _born(os.getpid()),
    }


def _parse(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
        if owner["pid"] < 1:
            return {}
        return {
            "pid": int(owner["pid"]),
            "host": str(owner["host"]),
            "started": str(owner.get("started", "an unknown time")),
            "born": owner.get("born"),
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _may_live(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run; a process on another host cannot be asked."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # It lives and belongs to somebody else.
    # Process ids are used again (in a container it is always a small one); birth times are not.
    return owner["born"] is None or owner["born"] == _born(owner["pid"])


def _born(pid: int) -> int | None:
    """The process's start in clock ticks since boot, or None where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
