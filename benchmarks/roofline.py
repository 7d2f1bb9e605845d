"""Limits of this machine: a large matrix product in each type, and a large copy."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Row


class Probe(NamedTuple):
    """One measurement of a peak.

    Attributes:
        call: runs once and waits for the end.
        amount: billions of operations, or of bytes read plus written.
        unit: GFLOP/s or GB/s.
        rates: of every call so far.
    """

    call: Callable[[], object]
    amount: float
    unit: str
    rates: list[float]


class Roofline:
    """Measures a peak on every request, as the best of a few runs.

    A row is then compared with the speed of the machine at the same moment: other work slows both
    equally.

    Args:
        quick: fewer runs.
    """

    def __init__(self, quick: bool):
        self._runs = 3 if quick else 10
        self._probes: dict[str, Probe] = {}

    def flops(self, dtype: str) -> float:
        """Return the operations per second of a matrix product on TensorFlow's device."""
        return self._peak(f"matmul {dtype}", lambda: matmul(dtype))

    def device_bytes(self) -> float:
        """Return the bytes per second, read plus written, of TensorFlow's device."""
        return self._peak("a += b, TensorFlow", device_copy)

    def host_bytes(self) -> float:
        """Return the bytes per second, read plus written, of one thread of the host."""
        return self._peak("copy, one thread", host_copy)

    def rows(self) -> Iterator[Row]:
        """Yield all measurements so far."""
        for name, probe in self._probes.items():
            yield Row(f"roofline, {name}", probe.rates, probe.unit)

    def _peak(self, name: str, make: Callable[[], Probe]) -> float:
        if name not in self._probes:
            self._probes[name] = make()
            self._probes[name].call()
        probe = self._probes[name]
        for _ in range(self._runs):
            start = time.perf_counter()
            probe.call()
            probe.rates.append(probe.amount / (time.perf_counter() - start))
        return max(probe.rates[-self._runs :]) * 1e9


def matmul(dtype: str) -> Probe:
    """Multiply square matrices so large that the time of the memory is negligible."""
    import tensorflow as tf

    from benchmarks.devices import wait
    from dreamerv2.common.nn.device import gpus

    size = 8192 if gpus() else 2048
    x = tf.cast(tf.random.stateless_uniform((size, size), (0, 0)), dtype)
    return Probe(lambda: wait(x @ x), 2 * size**3 / 1e9, "GFLOP/s", [])


def device_copy() -> Probe:
    """Add in place: a copy to new memory would measure the kernel, which clears pages."""
    import tensorflow as tf

    from benchmarks.devices import wait
    from dreamerv2.common.nn.device import gpus

    size = 2**28 if gpus() else 2**25  # floats
    source, target = tf.ones((size,)), tf.Variable(tf.zeros((size,)))
    return Probe(lambda: wait(target.assign_add(source)[:1]), 3 * 4 * size / 1e9, "GB/s", [])


def host_copy() -> Probe:
    """Copy 128 MiB with NumPy."""
    source = np.ones(2**27, np.uint8)
    target = np.empty_like(source)
    return Probe(lambda: np.copyto(target, source), 2 * source.nbytes / 1e9, "GB/s", [])


def rows(bench) -> Iterator[Row]:
    """Measure all peaks, in the types of the update."""
    from dreamerv2.common.nn.precision import PRECISIONS

    for name in bench.precisions:
        bench.roofline.flops(PRECISIONS[name])
    bench.roofline.device_bytes()
    bench.roofline.host_bytes()
    yield from bench.roofline.rows()
