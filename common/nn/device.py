"""The device that computes: GPUs, CUDA's libraries, and the abilities of the CPU."""

import contextlib
import ctypes
import importlib.util
import os
import re
from pathlib import Path

import tensorflow as tf

NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
# The CUDA libraries that cuSOLVER needs, in the order in which they need each other.
CUSOLVER = (
    "nvjitlink/lib/libnvJitLink.so.*",
    "cublas/lib/libcublasLt.so.*",
    "cublas/lib/libcublas.so.*",
    "cusparse/lib/libcusparse.so.*",
    "cusolver/lib/libcusolver.so.*",
)


def gpus() -> list:
    """Return the GPUs that TensorFlow will use."""
    return tf.config.get_visible_devices("GPU")


def set_up_devices() -> str:
    """Choose the device before first use, and return a sentence that names it.

    The first GPU's memory is taken as needed, so that others can share the card.
    """
    preload_cusolver()
    found = gpus()
    if not tf.config.list_physical_devices("GPU") and driver_has_gpus():
        return (
            "TensorFlow cannot use the GPU that NVIDIA's driver lists: computing on the CPU. With "
            "TF_CPP_MIN_LOG_LEVEL=0 it says which library is missing."
        )
    if not found:
        return "No GPU was found: computing on the CPU."
    # TensorFlow refuses when a library user's own code has set up the devices: keep that set-up.
    with contextlib.suppress(RuntimeError, ValueError):
        tf.config.set_visible_devices(found[:1], "GPU")
        tf.config.experimental.set_memory_growth(found[0], True)
    if len(found) == 1:
        return "Using the GPU, with XLA."
    return f"Using the first of {len(found)} GPUs, with XLA; CUDA_VISIBLE_DEVICES chooses another."


def preload_cusolver() -> None:
    """Load cuSOLVER and the libraries it needs from their Python packages, if installed.

    TensorFlow 2.21 does not search cuSOLVER's package, and uses no GPU without it; a loaded library
    is found by its name. Remove this when setup.py's lower bound is above 2.21.
    """
    spec = importlib.util.find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        for pattern in CUSOLVER:
            for library in sorted(Path(root).glob(pattern)):
                with contextlib.suppress(OSError):  # TensorFlow then reports the missing library
                    ctypes.CDLL(str(library))


def driver_has_gpus() -> bool:
    """Tell whether NVIDIA's driver (Linux) lists a GPU that CUDA_VISIBLE_DEVICES does not hide."""
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    return not hidden and NVIDIA_DRIVER.is_dir() and any(NVIDIA_DRIVER.iterdir())


def cpu_has_bfloat16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Tell whether this processor is faster in bfloat16 than in float32 (Linux; else False).

    AMD's are with AVX512_BF16, Intel's with AMX alone: see docs/performance.md.
    """
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return False
    flags = "amx_bf16" if "GenuineIntel" in text else "avx512_bf16|amx_bf16"
    return bool(re.search(rf"\b({flags})\b", text))
