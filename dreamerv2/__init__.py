"""DreamerV2: Mastering Atari with Discrete World Models (arXiv 2010.02193)."""

import os
import platform

__version__ = "2.0.0"

# Where a CPU has no AVX-512, TensorFlow leaves oneDNN off, though it is faster there too: an update
# takes three quarters of the time (docs/performance.md). TensorFlow reads this as it is imported.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
