"""Settings for all tests."""

import os

from hypothesis import settings

import dreamerv2  # noqa: F401 - before TensorFlow, whose oneDNN it switches on

os.environ.pop("PYTHONUNBUFFERED", None)  # users' Python buffers what it prints

# Where one failure stops others' work the examples are the same each time; elsewhere they are new.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
