"""DreamerV2: Mastering Atari with Discrete World Models (arXiv 2010.02193)."""

import os
import platform

__version__ = "2.0.0"

# TensorFlow reads these as it is imported. Level 1 hides remarks and shows warnings, such as that
# about a missing GPU library.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# Without AVX-512, TensorFlow leaves oneDNN off, though an update then takes a third longer
# (docs/performance.md).
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
