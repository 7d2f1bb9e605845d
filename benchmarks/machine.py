"""Which machine this is, and what this process takes of its memory (Linux)."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

MIB = 1024**2


def describe() -> dict:
    """CPU model and its flag of bfloat16 products, usable cores, GPUs, versions, present load."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return {
        "cpu": _first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": _first(r"\b(amx_bf16|avx512_bf16)\b", Path("/proc/cpuinfo")) or None,
        "gpus": [_first(r"Model:\s*(.+)", card) for card in cards],
        "memory_gib": round(_kib("MemTotal", Path("/proc/meminfo")) / MIB, 1),
        "load": round(os.getloadavg()[0], 2),  # other work on the machine: noise in every figure
        "python": platform.python_version(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "numpy": importlib.metadata.version("numpy"),
    }


def memory() -> dict[str, float]:
    """Of this process in MiB: peak of RSS, RSS now, and the part of it no file stands behind."""
    status = Path("/proc/self/status")
    names = {"peak_rss": "VmHWM", "rss": "VmRSS", "rss_anon": "RssAnon"}
    return {name: _kib(field, status) / 1024 for name, field in names.items()}


def _kib(field: str, path: Path) -> float:
    return float(_first(rf"{field}:\s*(\d+) kB", path) or 0)


def _first(pattern: str, path: Path) -> str:
    """The first match of a pattern in a file; empty where there is none."""
    try:
        match = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return match[1].strip() if match else ""
