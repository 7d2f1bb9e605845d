"""Sampling: draws of sequences, and batches of them.

The rows of a batch are chosen on the caller's thread, in order; a second thread copies them.

    next() call          n                          n+1
    caller's thread      wait batch n, plan n+1     wait batch n+1, plan n+2
    copying thread               copy and place n+1 ....   copy and place n+2 ....

So the content of a batch is decided one call ahead, from the episodes present then, and never
depends on the speed of a thread.
"""

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import DamagedFile, NothingToSample
from dreamerv2.common.replay.episode import StoredEpisode
from dreamerv2.common.replay.journal import Journal
from dreamerv2.common.replay.store import Store


class Sampler:
    """The episodes that can be sampled, and random draws of sequences from them.

    Attributes: `episodes` (sorted by name); `store`; `short` (episodes found too short so far).
    """

    def __init__(
        self, store: Store, minlen: int, maxlen: int, prioritize_ends: bool, seed, unfinished
    ):
        """The options are those of Replay; `unfinished` are its open journals by worker."""
        self.store, self.short, self._unfinished = store, 0, unfinished
        self._minlen, self._maxlen, self._prioritize_ends = minlen, maxlen, prioritize_ends
        self._seed: np.random.SeedSequence = seed
        self.episodes = [e for e in store.episodes if e.rows >= minlen]
        self._by_id: dict[str, StoredEpisode | Journal] = {e.id: e for e in self.episodes}

    def add(self, episode: StoredEpisode | Journal) -> None:
        """Make an episode available."""
        # By name, not by time of storing: a restarted run lists them in the same order.
        bisect.insort(self.episodes, episode, key=lambda e: e.id)
        self._by_id[episode.id] = episode

    def remove(self, episode: StoredEpisode | Journal) -> None:
        """Draw an episode no more; no-op where it is not available."""
        if self._by_id.pop(episode.id, None):
            self.episodes.remove(episode)

    def find(self, identity: str | None) -> StoredEpisode | Journal | None:
        """Return the episode of that id while it can be sampled."""
        return self._by_id.get(identity)

    def draw(self, row: int, number: int) -> tuple[str, int, int]:
        """Choose an episode uniformly, then a sequence of it: its id, start and stop.

        Depends on the seed, the batch row and the number of the row's draw alone.
        """
        if not self.episodes:
            raise self.nothing_to_sample()
        key = (*self._seed.spawn_key, row, number)
        seed = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
        generator = np.random.Generator(np.random.PCG64(seed))
        episode = self.episodes[generator.integers(len(self.episodes))]
        longest = min(episode.rows, self._maxlen or episode.rows)
        length = max(self._minlen, longest - int(generator.integers(self._minlen)))
        last = episode.rows - length
        starts = last + 1 + (self._minlen if self._prioritize_ends else 0)
        start = min(int(generator.integers(starts)), last)
        return episode.id, start, start + length

    def set_aside(self, identity: str, reason: str) -> None:
        """Stop using an episode whose file is damaged; its steps leave the totals."""
        episode = self._by_id.get(identity)
        if episode is not None:  # It may have been pruned meanwhile.
            self.remove(episode)
            self.store.set_aside(episode, reason)

    def nothing_to_sample(self) -> NothingToSample:
        """Return the error that names the lengths of all episodes and the remedy."""
        rows = [episode.rows for episode in [*self.store.episodes, *self._unfinished.values()]]
        found = f"{len(rows)} episodes of at most {max(rows)} rows" if rows else "none yet"
        return NothingToSample(
            f"No episode in {self.store.directory} has at least minlen={self._minlen} rows: "
            f"{found}, unfinished ones included, and {self.short} too short. Lower "
            "--replay.minlen, or collect longer episodes."
        )


class Piece(NamedTuple):
    """Rows [start, stop) of one episode; `first` where a sampled sequence begins with them."""

    episode: str
    start: int
    stop: int
    first: bool


@dataclasses.dataclass
class Stream:
    """Position of one batch row: draws made so far, and the rest of its sequence."""

    draw: int = 0
    episode: str | None = None
    cursor: int = 0
    stop: int = 0


class Dataset:
    """Endless iterator over batches, key -> [B, T, ...]; row b continues row b of the one before.

    Attributes: `provenance` (for each row of the last batch, its pieces); `placed` (the result of
    `place` for the last batch).
    """

    def __init__(self, sampler: Sampler, batch: int, length: int, place: Callable = lambda b: b):
        """B = batch rows of T = length time steps.

        place: called with every batch on the copying thread, such as to copy it to the device.
        """
        assert batch > 0 and length > 0, (batch, length)
        self._sampler = sampler
        self._batch, self._length, self._place = batch, length, place
        self._streams = [Stream() for _ in range(self._batch)]
        self._plan: list[list[Piece]] | None = None
        self._copied: Future | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self.provenance: list[list[Piece]] = []
        self.placed: Any = None

    def __iter__(self) -> "Dataset":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch. Raises NothingToSample."""
        if self._plan is None:
            self._submit(self._next_plan())
        batch, self.placed = self._collect()
        self.provenance, self._plan = self._plan, None
        try:
            self._submit(self._next_plan())
        except NothingToSample:
            self._copied = None  # This batch is good; the next call raises.
        return batch

    def _next_plan(self) -> list[list[Piece]]:
        return [self._fill(row, []) for row in range(self._batch)]

    def _fill(self, row: int, pieces: list[Piece]) -> list[Piece]:
        """Continue a row's pieces until they are T time steps long."""
        stream = self._streams[row]
        missing = self._length - sum(piece.stop - piece.start for piece in pieces)
        while missing:
            episode = self._sampler.find(stream.episode)
            first = episode is None or stream.cursor >= stream.stop or stream.stop > episode.rows
            if first:
                stream.episode, stream.cursor, stream.stop = self._sampler.draw(row, stream.draw)
                stream.draw += 1
            rows = min(missing, stream.stop - stream.cursor)
            piece = Piece(stream.episode, stream.cursor, stream.cursor + rows, first)
            pieces.append(piece)
            stream.cursor, missing = piece.stop, missing - rows
        return pieces

    def _refill(self, plan: list[list[Piece]]) -> list[list[Piece]]:
        """Redraw the pieces that are no longer in the replay, and those after them in their row."""
        for row, pieces in enumerate(plan):
            for index, piece in enumerate(pieces):
                episode = self._sampler.find(piece.episode)
                if episode is None or piece.stop > episode.rows:
                    self._streams[row].episode = None
                    plan[row] = self._fill(row, pieces[:index])
                    break
        return plan

    def _submit(self, plan: list[list[Piece]]) -> None:
        """Start copying. The episodes are looked up here: the thread touches no shared list."""
        episodes = {p.episode: self._sampler.find(p.episode) for row in plan for p in row}
        self._plan = plan
        self._copied = self._thread.submit(self._copy, plan, episodes)

    def _collect(self) -> tuple[dict[str, np.ndarray], Any]:
        """Wait for the copy; episodes found damaged on the way are set aside and redrawn."""
        while True:
            batch, placed, damaged = self._copied.result()
            if not damaged:
                return batch, placed
            for episode, reason in damaged.items():
                self._sampler.set_aside(episode, reason)
            self._submit(self._refill(self._plan))

    def _copy(self, plan: list[list[Piece]], episodes: Mapping) -> tuple[dict, Any, dict[str, str]]:
        """Return the batch, also placed, and the episodes that could not be read with reasons."""
        damaged: dict[str, str] = {}
        size = (self._batch, self._length)
        schema = self._sampler.store.schema
        batch = {key: np.empty(size + shape, dtype) for key, (dtype, shape) in schema.items()}
        for row, pieces in enumerate(plan):
            stop = 0
            for piece in pieces:
                start, stop = stop, stop + piece.stop - piece.start
                out = {key: array[row, start:stop] for key, array in batch.items()}
                try:
                    episodes[piece.episode].read(piece.start, out, self._sampler.store.cache)
                except DamagedFile as error:
                    damaged[piece.episode] = str(error)
                if piece.first:
                    batch["is_first"][row, start] = True
        return batch, None if damaged else self._place(batch), damaged

    def settle(self) -> None:
        """Wait until no file is being read, so that episodes can be deleted."""
        if self._copied is not None:
            self._copied.exception()

    def state(self) -> dict:
        """Return the position of every row and the planned next batch, for JSON."""
        return {
            "length": self._length,
            "streams": [dataclasses.astuple(stream) for stream in self._streams],
            "plan": self._plan and [[tuple(piece) for piece in row] for row in self._plan],
        }

    def restore(self, state: Mapping) -> None:
        """Go on from `state()`, on the same replay with the same draws.

        With another batch size or length the planned batch does not fit, so every row starts a
        new sequence.
        """
        self.settle()
        self._plan = self._copied = None
        for stream, values in zip(self._streams, state["streams"], strict=False):
            stream.draw, stream.episode, stream.cursor, stream.stop = values
        same = (len(state["streams"]), state["length"]) == (self._batch, self._length)
        if not same:
            for stream in self._streams:
                stream.episode = None
        elif state["plan"]:
            plan = [[Piece(*piece) for piece in row] for row in state["plan"]]
            self._submit(self._refill(plan))

    def close(self) -> None:
        """Wait for the copying thread to finish its work, and end it."""
        self._thread.shutdown(wait=True)  # settle() would wait for a cancelled copy forever
