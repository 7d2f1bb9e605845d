"""The main process's end of a process that runs one environment; ``worker`` is the other end."""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Pipe
from typing import Any

from dreamerv2.common.envs.vector import worker

_MAIN = f"from {worker.__name__} import main; main()"
# Each worker is one of several on this machine. Math libraries that start a thread for every core
# in each of them slow all down (100-fold, measured, when more workers than cores do so).
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerHangs(TimeoutError):
    """A worker did not answer in time."""


class Abandoned(WorkerHangs):
    """A worker had not answered when the run was to be stopped."""


class WorkerDied(ConnectionError):
    """A worker has ended without having been asked to."""


class WorkerProcess:
    """Starts one worker, asks it for commands and ends it.

    It is a new Python interpreter, not a fork, because a fork of a process that runs TensorFlow can
    hang. It never imports the main script.

    Args:
        constructor: makes the environment; pickled by cloudpickle.
    """

    PATIENCE = 5.0  # seconds between asking a worker to close and killing it
    SLICE = 0.5  # seconds between two looks at the deadline while a worker does not answer
    MAKING = 60.0  # seconds that making an environment may take, even where a step may not

    def __init__(self, constructor: bytes):
        self._dump = tempfile.TemporaryFile()
        self._pipe, other = Pipe()
        environment = {**_THREADS, **os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
        files = (other.fileno(), self._dump.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, *map(str, files)],
            env=environment,
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            # Ctrl-C reaches the whole terminal group: the main process decides what ends when.
            start_new_session=True,
        )
        other.close()
        self.send("start", constructor)

    def send(self, command: str, argument: Any) -> None:
        """Ask for a command; a worker that is gone is reported by ``receive``."""
        with contextlib.suppress(OSError):
            self._pipe.send((command, argument))

    def receive(
        self, command: str, timeout: float, deadline: Callable[[], float] = lambda: math.inf
    ) -> Any:
        """Wait for the answer to a command.

        Args:
            timeout: seconds it may take; 0 waits forever.
            deadline: the moment (of time.monotonic) to give up at, asked again and again.

        Raises:
            The worker's own exception, caused by one that shows its traceback; WorkerHangs, with
            the place where it hangs; WorkerDied.
        """
        if self._pipe.closed:
            raise WorkerDied("The environment's process was ended, because it had not answered.")
        limit = f"within env_timeout = {timeout:g} seconds"
        if command == "start" and 0 < timeout < self.MAKING:
            timeout = self.MAKING
            limit = f"within {timeout:g} seconds (more than env_timeout, for making it)"
        latest = time.monotonic() + (timeout if timeout > 0 else math.inf)
        while not self._pipe.poll(max(0.0, min(self.SLICE, latest - time.monotonic()))):
            now = time.monotonic()
            if now >= min(latest, deadline()):
                limit = limit if now >= latest else "before the run was stopped"
                raise WorkerHangs(
                    f"The environment did not finish '{command}' {limit}. "
                    f"It hangs here:\n{self._where()}"
                )
        try:
            result, failure = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            status = self._process.wait()
            raise WorkerDied(
                f"The environment's process ended in '{command}' with exit status {status}.\n"
                f"{self._read_dump()}"
            ) from None
        if failure is not None:
            raise failure.rebuild()
        return result

    def ask_to_end(self) -> None:
        """Have the worker close its environment and end; `close` waits for that."""
        if self._process.poll() is None:
            self.send("close", None)

    def close(self, latest: float = 0.0) -> None:
        """End the process by force, if it has not ended by the moment `latest` (time.monotonic)."""
        try:
            self._process.wait(max(0.0, latest - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe.close()
        self._dump.close()

    def _where(self) -> str:
        self._process.send_signal(worker.DUMP_SIGNAL)
        latest = time.monotonic() + self.PATIENCE
        before, text = None, ""
        # The worker has no way to say that it is done writing: until nothing more comes.
        while (not text or text != before) and time.monotonic() < latest:
            time.sleep(0.1)
            before, text = text, self._read_dump()
        return text

    def _read_dump(self) -> str:
        # Not seek and read: they would move the place where the worker is writing.
        dump = os.pread(self._dump.fileno(), 2**20, 0)
        return dump.decode(errors="replace").strip()


def _import_path() -> Iterable[str]:
    """Where this process finds modules; '' (the working directory) spelled out."""
    return [path or os.getcwd() for path in sys.path]
