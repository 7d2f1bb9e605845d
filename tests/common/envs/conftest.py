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
