"""The replay on disk: time to open, batches per second, waiting time of `next`."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.measure import Row, milliseconds, repeat
from dreamerv2.common.replay.dataset import Dataset
from dreamerv2.common.replay.replay import Replay


def rows(bench: Bench) -> Iterator[Row]:
    """Measure a replay generated in a temporary folder, so its files are in the page cache."""
    steps = 20_000 if bench.quick else 200_000
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "train_episodes"
        bench.task.fill(directory, steps)
        bench.roofline.host_bytes()  # allocate its arrays before the replay is measured
        before = machine.memory()["rss_anon"]
        options = {**bench.config.replay, "capacity": 0}
        times = repeat(lambda: Replay(directory, **options).close(), 1.0)
        name = f"replay of {steps:,} steps"
        yield Row(f"{name}, open", times, "s")
        replay = Replay(directory, **options)
        dataset = replay.dataset(**bench.config.dataset)
        yield from _batches(bench, name, dataset)
        grown = machine.memory()["rss_anon"] - before
        yield Row(f"{name}, growth of RssAnon", [grown], "MiB")
        replay.close()


def _batches(bench: Bench, name: str, dataset: Dataset) -> Iterator[Row]:
    size = sum(array.nbytes for array in next(dataset).values())
    count = 20 if bench.quick else 100

    def several() -> None:
        for _ in range(count):
            next(dataset)

    rates = [count / t for t in repeat(several, bench.budget / 2)]
    shape = f"{bench.config.dataset.batch} x {bench.config.dataset.length}"
    bound = {"bytes": 2 * size, "peak_bytes": bench.roofline.host_bytes()}
    yield Row(f"{name}, batches of {shape}", rates, "batches/s", **bound)
    waits = []
    for _ in range(count):
        time.sleep(0.02)  # an update on a fast GPU
        start = time.perf_counter()
        next(dataset)
        waits.append(time.perf_counter() - start)
    yield Row(f"{name}, next() between updates of 20 ms", milliseconds(waits), "ms")
