import os
import subprocess
import sys

import pytest

from dreamerv2.common.envs import vectorize


@pytest.fixture
def vector():
    """``vectorize``, with everything it made closed at the end."""
    made = []

    def make(*args, **kwargs):
        made.append(vectorize(*args, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


@pytest.fixture
def python():
    """Start a new Python that imports from the same places; keywords are environment variables."""

    def start(*command, cwd=None, **variables):
        path = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
