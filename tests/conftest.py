"""Settings for all tests."""

import os

from hypothesis import HealthCheck, settings

import dreamerv2  # noqa: F401 - before TensorFlow, whose oneDNN it switches on

# Two test processes share two cores, where more threads of each would wait for one another.
for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ.pop("PYTHONUNBUFFERED", None)  # users' Python buffers what it prints

# A failure in CI stops the work of others, so its examples are the same each time; elsewhere they
# are new, and few, because the tests run often.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("quick", max_examples=50, **COMMON)
settings.register_profile("ci", max_examples=300, derandomize=True, **COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "quick")
