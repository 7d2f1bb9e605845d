"""Settings for all tests."""

import os

from hypothesis import settings

# Where one failure stops others' work the examples are the same each time; elsewhere they are new.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
