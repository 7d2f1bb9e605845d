"""The program of a process in which ``process.ProcessVectorEnv`` runs one environment.

``main`` finds two inherited file descriptors in sys.argv[1:]: a pipe and a file for stack dumps.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import gymnasium

DUMP_SIGNAL = signal.SIGUSR1  # makes a hung worker write its stack


class WorkerTraceback(Exception):
    """The traceback of an exception in a worker, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Failure(NamedTuple):
    """An exception that travels from the worker to the main process."""

    error: bytes  # pickled
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Pack an exception that is being handled."""
        try:
            packed = cloudpickle.dumps(error)
            cloudpickle.loads(packed)  # some exceptions pickle but cannot be made again
        except Exception:
            packed = cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(packed, traceback.format_exc())

    def rebuild(self) -> Exception:
        """Return the exception, with the worker's traceback as its cause."""
        error = cloudpickle.loads(self.error)
        error.__cause__ = WorkerTraceback(self.trace)
        return error


class Inner(NamedTuple):
    """Spaces and render mode of an environment before the wrappers of this package."""

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    render_mode: str | None


Made = tuple[tuple[gymnasium.Space, gymnasium.Space], Inner]


def describe(env: gymnasium.Env) -> Made:
    """Return the observation and the action space, and those inside of the wrappers."""
    inner = env.unwrapped
    inside = Inner(inner.observation_space, inner.action_space, inner.render_mode)
    return (env.observation_space, env.action_space), inside


def perform(env: gymnasium.Env, command: str, argument: Any) -> Any:
    """Execute a command: 'reset' with a seed, 'step' with an action, or 'render'.

    'reset' returns the observation, 'step' observation, reward, terminated and truncated. Infos are
    left out, because nothing reads them and they may hold objects that cannot be pickled or
    stacked.
    """
    if command == "step":
        return env.step(argument)[:4]
    if command == "reset":
        return env.reset(seed=argument)[0]
    try:
        return env.render()
    except Exception as error:  # No video is worth the environment: answer with the reason.
        return f"render() raised {type(error).__name__}: {error}"


def serve(pipe: Connection) -> None:
    """Answer commands by (result, None) or (None, Failure), until 'close' or the pipe's end."""
    env = None
    while True:
        try:
            command, argument = pipe.recv()
        except (EOFError, ConnectionResetError):
            command = "close"  # the main process is gone
        if command == "close":
            if env is not None:
                env.close()
            return
        try:
            if command == "start":
                env = cloudpickle.loads(argument)()
                answer = describe(env)
            else:
                answer = perform(env, command, argument)
            pipe.send((answer, None))
        except Exception as error:
            pipe.send((None, Failure.of(error)))


def _end_with(parent: int) -> None:
    """End this process when the main one has ended, even while an environment hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Serve the pipe given on the command line."""
    pipe, dump = (int(descriptor) for descriptor in sys.argv[1:3])
    faulthandler.enable(dump)  # names the place of a crash in compiled code, too
    faulthandler.register(DUMP_SIGNAL, dump)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    serve(Connection(pipe))
