"""Environments in one process each. ``worker`` is the program that those processes run."""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Pipe
from typing import Any

import cloudpickle
import gymnasium

from dreamerv2.common.envs.vector import worker
from dreamerv2.common.envs.vector.vector import Abandoned, BatchedEnv

_MAIN = f"from {worker.__name__} import main; main()"
# One thread each, because math libraries that start a thread per core in every worker slow all of
# them down (100-fold, measured, with more workers than cores).
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerHangs(TimeoutError):
    """A worker did not answer in time."""


class WorkerDied(ConnectionError):
    """A worker ended without a request."""


class WorkerProcess:
    """One worker: starts the process, sends commands and ends it.

    Args:
        constructor: makes the environment; pickled by cloudpickle.
        timeout: seconds that an answer may take; 0 waits forever.
        deadline: returns the moment (of time.monotonic) to give up; called again and again.
    """

    PATIENCE = 5.0  # seconds between asking a worker to close and killing it
    SLICE = 0.5  # seconds between two looks at the deadline while a worker does not answer
    MAKING = 60.0  # seconds that making an environment may take, even where a step may not

    def __init__(self, constructor: bytes, timeout: float, deadline: Callable[[], float]):
        self._timeout, self._deadline = timeout, deadline
        self._dump = tempfile.TemporaryFile()
        self._pipe, other = Pipe()
        import_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        files = (other.fileno(), self._dump.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, *map(str, files)],
            env={**_THREADS, **os.environ, "PYTHONPATH": import_path},
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            # Ctrl-C reaches the whole group of the terminal, but the main process ends the workers.
            start_new_session=True,
        )
        other.close()
        self.send("start", constructor)

    def send(self, command: str, argument: Any = None) -> None:
        """Ask for a command; ``receive`` reports a worker that has ended."""
        with contextlib.suppress(OSError):
            self._pipe.send((command, argument))

    def receive(self, command: str) -> Any:
        """Wait for the answer to a command.

        Raises:
            The worker's own exception, caused by one that shows its traceback; WorkerHangs or
            Abandoned, with the place where the worker hangs; WorkerDied.
        """
        if self._pipe.closed:
            raise Abandoned("The environment's process was ended, because it had not answered.")
        limit = max(self._timeout, self.MAKING if command == "start" else 0)
        latest = time.monotonic() + (limit if self._timeout > 0 else math.inf)
        while not self._pipe.poll(max(0.0, min(self.SLICE, latest - time.monotonic()))):
            now, where = time.monotonic(), f"The environment did not finish '{command}'"
            if now >= latest:
                where += f" within {limit:g} seconds (env_timeout = {self._timeout:g})"
                raise WorkerHangs(f"{where}. It hangs here:\n{self._where()}")
            if now >= self._deadline():
                where += " before the run was stopped"
                raise Abandoned(f"{where}. It hangs here:\n{self._where()}")
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

    def close(self, latest: float = 0.0) -> None:
        """Kill the process, if it has not ended by the moment `latest` (of time.monotonic)."""
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
        # The worker cannot report the end of the stack dump, so read until nothing more comes.
        while (not text or text != before) and time.monotonic() < latest:
            time.sleep(0.1)
            before, text = text, self._read_dump()
        return text

    def _read_dump(self) -> str:
        # pread, because seek would move the position at which the worker writes.
        dump = os.pread(self._dump.fileno(), 2**20, 0)
        return dump.decode(errors="replace").strip()


class ProcessVectorEnv(BatchedEnv):
    """Environments that run in one process each.

    The processes are new Python interpreters, not forks, because a fork of a process that runs
    TensorFlow can hang. They do not import the main script, so it needs no ``__main__`` guard, and
    they never import TensorFlow unless the environment itself does. They end when this process
    ends, however it ends.

    Args:
      constructors: they travel by cloudpickle.
      timeout: seconds that a worker may take to answer, at least 60 of them for making its
        environment; 0 waits forever. A worker that hangs or dies counts as a failure.

    An exception that no restart mends closes all workers.
    """

    def __init__(
        self,
        constructors: Sequence[Callable[[], gymnasium.Env]],
        restarts: int = 0,
        seeds: Sequence[int] | None = None,
        timeout: float = 0,
    ):
        self._timeout = timeout
        self._deadline = math.inf  # for all workers together, see hurry
        self.abandoned = set()
        super().__init__(constructors, restarts, seeds)

    def hurry(self, seconds: float = 5.0) -> None:
        """Wait for workers no longer than this from now on, because the run is being stopped.

        An episode whose worker has not answered by then is marked as truncated.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _open(self, constructors: Sequence[Callable]) -> list[worker.Made]:
        self._constructors = [cloudpickle.dumps(constructor) for constructor in constructors]
        self._workers: list[WorkerProcess] = []
        for index in range(self.num_envs):  # one by one: an interrupt must find all of them
            self._workers.append(self._start(index))
        return [process.receive("start") for process in self._workers]

    def _start(self, index: int) -> WorkerProcess:
        return WorkerProcess(self._constructors[index], self._timeout, lambda: self._deadline)

    def _ask(self, command: str, arguments: dict[int, Any]) -> dict[int, Any]:
        try:
            return super()._ask(command, arguments)
        except BaseException:
            self.close(terminate=True)
            raise

    def _answer(self, index: int, command: str, argument: Any) -> Any:
        """Answer for a worker that a stop does not wait for; a reset has no answer."""
        try:
            return super()._answer(index, command, argument)
        except Abandoned:
            self._workers[index].close()
            self.abandoned.add(index)
            if command == "reset":
                raise
            return self._truncated(index) if command == "step" else None

    def _replace(self, index: int, error: Exception) -> None:
        process, latest = self._workers[index], 0.0
        if not isinstance(error, WorkerHangs | WorkerDied):
            process.send("close")  # the environment may hold processes or licences of its own
            latest = time.monotonic() + WorkerProcess.PATIENCE
        process.close(latest)
        self._workers[index] = self._start(index)
        self._workers[index].receive("start")

    def _send(self, index: int, command: str, argument: Any) -> None:
        self._workers[index].send(command, argument)

    def _receive(self, index: int, command: str, argument: Any) -> Any:
        return self._workers[index].receive(command)

    def close_extras(self, terminate: bool = False, **kwargs) -> None:
        """Close every environment and wait until its process has ended, together for all."""
        latest = 0.0
        if not terminate:
            for process in self._workers:
                process.send("close")
            latest = time.monotonic() + WorkerProcess.PATIENCE
        for process in self._workers:
            process.close(latest)
