"""A short run of the real loop: start-up, frames per second, peak memory."""

import functools
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Row

WORK = ("policy", "environment", "update")


class Run:
    """The record of `benchmarks.child` for one run that starts with a filled replay.

    After the first step, which writes metrics and a checkpoint, the run only acts and learns.
    """

    def __init__(self, bench: Bench, updates: int):
        with tempfile.TemporaryDirectory() as folder:
            logdir, output = Path(folder) / "logdir", Path(folder) / "noted.json"
            bench.task.fill(logdir / "train_episodes", 5000)
            off = {"prefill": 0, "log_every": "1e9", "checkpoint_every": "1e9"}
            flags = [text for key, value in off.items() for text in (f"--{key}", str(value))]
            argv = [*bench.flags, "--logdir", str(logdir), *flags, "--pretrain", "1"]
            command = [sys.executable, "-m", "benchmarks.child", str(output), str(updates), *argv]
            self.start = time.time()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not output.exists():
                raise RuntimeError(f"the run failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
            self.noted = json.loads(output.read_text())

    def of(self, name: str) -> list[tuple[float, float]]:
        """Return start and end of every call with this name."""
        return [(start, end) for called, start, end in self.noted["calls"] if called == name]

    @property
    def full_speed(self) -> int:
        """Index of the first update that took no more than 1.5 times the typical one."""
        times = [end - start for start, end in self.of("update")]
        typical = statistics.median(times[len(times) // 2 :])
        return next(i for i, seconds in enumerate(times) if seconds <= 1.5 * typical)

    def cycles(self) -> list[dict[str, float]]:
        """Return the seconds of each kind of work, and of all, between the ends of two updates.

        Starts at the end of the first full-speed update, when the policy has been traced.
        """
        ends = [end for _, end in self.of("update")][self.full_speed :]
        result = []
        for start, stop in itertools.pairwise(ends):
            cycle = dict.fromkeys(WORK, 0.0) | {"all": stop - start}
            for name, begin, end in self.noted["calls"]:
                if name in WORK and start <= begin < stop:
                    cycle[name] += end - begin
            result.append(cycle)
        return result


@functools.cache
def shared_run(bench: Bench) -> Run:
    """Return the one run that gives all rows of this file."""
    return Run(bench, 5 if bench.quick else 20)


def startup(bench: Bench) -> Iterator[Row]:
    """Measure the time from the start of the process to the first full-speed update."""
    run = shared_run(bench)
    updates, (imports,), (building,) = run.of("update"), run.of("import"), run.of("build agent")
    typical = statistics.median(end - start for start, end in updates[run.full_speed :])
    slow = updates[: run.full_speed]
    spans = {
        "Python and light imports": run.noted["imported"] - run.start,
        "building environments and replay": imports[0] - run.noted["imported"],
        "importing TensorFlow and agent": imports[1] - imports[0],
        "building agent": building[1] - building[0],
        "tracing the update": sum(end - start - typical for start, end in slow),
    }
    total = updates[run.full_speed][0] - run.start
    # The rest: the first update without its tracing, the first policy steps and checkpoint.
    spans["else, until the next update"] = total - sum(spans.values())
    details = {"slow_updates": len(slow)}
    yield Row("start-up, process start to full speed", [total], "s", details=details)
    for name, seconds in spans.items():
        yield Row(f"start-up, {name}", [seconds], "s")


def loop(bench: Bench) -> Iterator[Row]:
    """Measure frames per second, and the share of each kind of work."""
    run, config = shared_run(bench), bench.config
    frames = config.train_every * config.action_repeat / config.train_steps
    cycles = run.cycles()
    yield Row("loop", [frames / cycle["all"] for cycle in cycles], "frames/s")
    for name in WORK:
        shares = [100 * cycle[name] / cycle["all"] for cycle in cycles]
        yield Row(f"loop, share of {name}", shares, "%")
    rest = [100 * (1 - sum(c[name] for name in WORK) / c["all"]) for c in cycles]
    yield Row("loop, share of none of these", rest, "%")


def memory(bench: Bench) -> Iterator[Row]:
    """Measure the peak memory of the training process, without evaluations and videos."""
    noted = shared_run(bench).noted
    yield Row("memory, peak RSS", [noted["memory"]["peak_rss"]], "MiB")
    yield Row("memory, largest RssAnon after an update", [noted["memory"]["rss_anon"]], "MiB")
    if noted["gpu"]:
        yield Row("memory, peak on the GPU", [noted["gpu"]], "MiB")
