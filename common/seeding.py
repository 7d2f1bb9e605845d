"""One random stream per consumer, all from one seed."""

import zlib
from collections.abc import Iterable

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of the consumer of these names.

    Streams of different names are independent, so a new consumer changes no other stream.
    """
    key = tuple(zlib.crc32(str(name).encode()) for name in names)
    return np.random.SeedSequence(seed, spawn_key=key)


class Streams:
    """The streams of one owner; `draws`: name -> draws so far, part of a checkpoint."""

    def __init__(self, seed: int, owner: str, names: Iterable[str]):
        self._keys = {name: integer(seed, owner, name) for name in names}
        self.draws = dict.fromkeys(self._keys, 0)

    def next(self, name: str) -> tuple[int, int]:
        """Return the key of the stream and the number of its next draw, from 1."""
        self.draws[name] += 1
        return self._keys[name], self.draws[name]


def integer(seed: int, *names: str | int) -> int:
    """Return a non-negative 31-bit seed, for consumers that take a plain number."""
    return int(stream(seed, *names).generate_state(1)[0] >> 1)
