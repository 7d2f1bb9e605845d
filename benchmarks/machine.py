"""The machine, and the memory of this process (Linux)."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

MIB = 1024**2


def describe() -> dict:
    """Return CPU model, its flag for bfloat16, usable cores, GPUs, load and versions."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return {
        "cpu": _first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": _first(r"\b(amx_bf16|avx512_bf16)\b", Path("/proc/cpuinfo")) or None,
        "gpus": [_first(r"Model:\s*(.+)", card) for card in cards],
        "memory_gib": round(_kib("MemTotal", Path("/proc/meminfo")) / MIB, 1),
        "load": round(os.getloadavg()[0], 2),  # other work on the machine distorts every figure
        "python": platform.python_version(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "numpy": importlib.metadata.version("numpy"),
    }


def memory() -> dict[str, float]:
    """Return memory of this process in MiB: peak RSS, RSS, and the anonymous part of RSS."""
    status = Path("/proc/self/status")
    names = {"peak_rss": "VmHWM", "rss": "VmRSS", "rss_anon": "RssAnon"}
    return {name: _kib(field, status) / 1024 for name, field in names.items()}


def _kib(field: str, path: Path) -> float:
    return float(_first(rf"{field}:\s*(\d+) kB", path) or 0)


def _first(pattern: str, path: Path) -> str:
    """Return the first match of a pattern in a file, or an empty string."""
    try:
        match = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return match[1].strip() if match else ""
