"""The CUDA libraries of the extra `gpu`, where TensorFlow does not find them by itself."""

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

# In the order in which they need each other.
LIBRARIES = (
    "nvjitlink/lib/libnvJitLink.so.*",
    "cublas/lib/libcublasLt.so.*",
    "cublas/lib/libcublas.so.*",
    "cusparse/lib/libcusparse.so.*",
    "cusolver/lib/libcusolver.so.*",
)
DRIVER = Path("/proc/driver/nvidia/gpus")


def preload() -> None:
    """Load cuSOLVER and what it needs, if they are installed as Python packages.

    TensorFlow 2.21 looks for CUDA's libraries in the folders of these packages, but the part of it
    that looks (libtensorflow_framework) lacks cuSOLVER's in its RUNPATH. Without that one library
    it uses no GPU. A library that is loaded already is found by its name.
    """
    spec = importlib.util.find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        for pattern in LIBRARIES:
            for library in sorted(Path(root).glob(pattern)):
                with contextlib.suppress(OSError):  # then TensorFlow will say what it lacks
                    ctypes.CDLL(str(library))


def driver_has_gpus() -> bool:
    """Whether NVIDIA's driver lists a GPU (Linux) that nobody hides from TensorFlow."""
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    return not hidden and DRIVER.is_dir() and any(DRIVER.iterdir())
