"""Rows of results: repeated timing, the share of the roofline, one table line and one JSON line."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

SECONDS = {"s": 1.0, "ms": 1e-3}
COLUMNS = (
    f"{'':56} {'median':>10} {'min':>10} {'max':>10} {'unit':12} {'GFLOP/s':>8} {'GB/s':>7} "
    f"{'of roofline':>11}"
)


@dataclasses.dataclass
class Row:
    """One measured quantity.

    Args:
        name: title of the row.
        values: one number per run, in `unit`.
        unit: s or ms for times; a unit that ends in /s for rates; anything else, such as MiB.
        flops: floating point operations of one call (or of one unit of a rate); 0: not counted.
        bytes: bytes that one call must at least read and write; 0: not counted.
        peak_flops: operations per second of a large matrix product here, in the row's type.
        peak_bytes: bytes per second, read plus written, of a large copy here.
        details: anything else worth a field in the JSON line.
    """

    name: str
    values: Sequence[float]
    unit: str
    flops: float = 0
    bytes: float = 0
    peak_flops: float = 0
    peak_bytes: float = 0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def seconds(self) -> float:
        """Time of one call, or of one unit of a rate; 0 for other units."""
        if self.unit.endswith("/s"):
            return 1 / self.median
        return self.median * SECONDS.get(self.unit, 0)

    @property
    def roofline(self) -> float:
        """The shortest possible time on this machine over the time taken; 0: unknown."""
        bounds = ((self.flops, self.peak_flops), (self.bytes, self.peak_bytes))
        least = max(amount / peak if peak else 0 for amount, peak in bounds)
        return least / self.seconds if self.seconds else 0

    def line(self) -> str:
        """Return one line of the table, whose header is COLUMNS."""
        numbers = (self.median, min(self.values), max(self.values))
        flops, size = (f"{x:.1f}" if x else "" for x in self._rates())
        share = f"{self.roofline:.0%}" if self.roofline else ""
        shown = " ".join(f"{number(x):>10}" for x in numbers)
        return f"{self.name:56} {shown} {self.unit:12} {flops:>8} {size:>7} {share:>11}".rstrip()

    def json(self) -> str:
        """Return the row as one line of JSON."""
        flops, size = self._rates()
        fields = {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "runs": len(self.values),
        }
        if flops:
            fields |= {"gflop": self.flops / 1e9, "gflop_per_s": flops}
        if size:
            fields |= {"gbyte": self.bytes / 1e9, "gbyte_per_s": size}
        if self.roofline:
            fields["roofline"] = self.roofline
        return json.dumps(fields | self.details)

    def _rates(self) -> tuple[float, float]:
        """Return the GFLOP/s and GB/s reached, 0 if not counted."""
        seconds = self.seconds
        return tuple(x / seconds / 1e9 if seconds else 0 for x in (self.flops, self.bytes))


def number(value: float) -> str:
    """Return four significant digits, with separators of thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def repeat(call: Callable[[], Any], budget: float, least: int = 3, most: int = 50) -> list[float]:
    """Return the seconds of each of several calls, after a first one that is not counted.

    Args:
        call: returns when the work is done; see devices.wait.
        budget: seconds after which no further call starts, but `least` calls are made.
    """
    call()
    times: list[float] = []
    while len(times) < least or (sum(times) < budget and len(times) < most):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def milliseconds(seconds: Sequence[float]) -> list[float]:
    """Convert seconds to milliseconds."""
    return [1000 * value for value in seconds]
