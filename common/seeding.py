"""One random stream per consumer, all from one seed."""

import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of the consumer called by these names.

    Streams of different names are independent, and adding a consumer moves no other's numbers.
    """
    key = tuple(zlib.crc32(str(name).encode()) for name in names)
    return np.random.SeedSequence(seed, spawn_key=key)


def integer(seed: int, *names: str | int) -> int:
    """Return a non-negative 31-bit seed, for consumers that take a plain number."""
    return int(stream(seed, *names).generate_state(1)[0] >> 1)
