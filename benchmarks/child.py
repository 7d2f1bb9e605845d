"""A real training run that records the time of every call, in its own process.

    python -m benchmarks.child OUTPUT UPDATES FLAGS...

Runs the training's command line, times the calls of environments and agent, ends after UPDATES
updates, and writes the record to OUTPUT as JSON. Times are seconds since the epoch: the parent
relates them to the start of the process.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine
from dreamerv2 import train as program

IMPORTED = time.time()  # when the imports of the command line were done


class Finished(Exception):
    """Ends the run from inside; the loop closes its files and processes."""


class Clock:
    """Records start and end of calls.

    Attributes: `calls`, list of (name, start, end).
    """

    def __init__(self):
        self.calls: list[tuple[str, float, float]] = []

    def timed(self, name: str, function: Callable) -> Callable:
        """Return the function, with each call recorded."""

        def call(*args, **kwargs):
            start = time.time()
            result = function(*args, **kwargs)
            self.calls.append((name, start, time.time()))
            return result

        return call


def main(output: str, updates: str, *argv: str) -> None:
    """Run, then write the calls and the peaks of the memory."""
    clock, loop = Clock(), program.train
    memory: list[dict[str, float]] = []

    def timed_loop(config, make_envs: Callable, make_agent: Callable, *rest) -> None:
        # Without the first evaluation: its episode may be long and is no part of a cycle.
        config = config.update(eval_every=0)
        loop(config, timed_envs(clock, make_envs), timed_agent(clock, make_agent, end), *rest)

    def end() -> None:
        memory.append(machine.memory())
        if len(memory) == int(updates):
            raise Finished

    program.train = timed_loop
    try:
        program.main(argv)
    except Finished:
        print("The benchmark has measured enough updates.", flush=True)
    peak = {key: max(row[key] for row in memory) for key in memory[0]}
    noted = {"imported": IMPORTED, "calls": clock.calls, "memory": peak, "gpu": gpu_memory()}
    Path(output).write_text(json.dumps(noted))


def timed_envs(clock: Clock, make: Callable) -> Callable:
    """Return a constructor of environments that records their steps and resets."""

    def make_envs(*args):
        vector = make(*args)
        vector.step = clock.timed("environment", vector.step)
        vector.reset = clock.timed("environment", vector.reset)
        return vector

    return make_envs


def timed_agent(clock: Clock, make: Callable, after_update: Callable[[], None]) -> Callable:
    """Return a constructor of the agent that records construction, policy and updates."""

    def imports():
        importlib.import_module("dreamerv2.agent")

    def make_agent(*args):
        clock.timed("import", imports)()
        agent = clock.timed("build agent", make)(*args)
        plain = agent.train

        def update(*args):
            # Calls return before a GPU has finished, so wait, to see the update's time. This costs
            # the loop little: the next update waits for the same result, see Learner.
            return wait(plain(*args))

        timed_update = clock.timed("update", update)

        def counted(*args):
            result = timed_update(*args)
            after_update()
            return result

        agent.policy, agent.train = clock.timed("policy", agent.policy), counted
        return agent

    def wait(result):
        from benchmarks import devices  # TensorFlow has been imported by now

        return devices.wait(result)

    return make_agent


def gpu_memory() -> float:
    """Return the peak of TensorFlow's memory on the GPU in MiB; 0 without a GPU."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return 0
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / machine.MIB


if __name__ == "__main__":
    main(*sys.argv[1:])
