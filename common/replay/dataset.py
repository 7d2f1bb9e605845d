"""Batches of sequences from the replay: what to read is decided here, in order; the copying of
rows happens on a thread.

    next() call          n                          n+1
    caller's thread      wait batch n, plan n+1     wait batch n+1, plan n+2
    copying thread               copy and place n+1 ....   copy and place n+2 ....

What a batch holds is thus decided at the call before, from the episodes present then, never by how
fast a thread runs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import UserError
from dreamerv2.common.npzlayout import Damaged

if TYPE_CHECKING:
    from dreamerv2.common.replay.replay import Replay


class Piece(NamedTuple):
    """Rows [start, stop) of one episode; `first` where a sampled sequence begins with them."""

    episode: str
    start: int
    stop: int
    first: bool


@dataclasses.dataclass
class Stream:
    """Where one batch row stands: draws made so far, and what is left of its sequence."""

    draw: int = 0
    episode: str | None = None
    cursor: int = 0
    stop: int = 0


class Dataset:
    """Endless iterator over batches, key -> [B, T, ...].

    Row b of a batch continues row b of the one before. `provenance` tells, for each row of the
    last batch, the pieces it was made of; `placed` is what `place` made of it.
    """

    def __init__(
        self,
        replay: "Replay",
        batch: int,
        length: int,
        place: Callable[[Mapping[str, np.ndarray]], Any] = lambda batch: batch,
    ):
        """B = batch rows of T = length time steps.

        place: called with every batch on the copying thread, such as to copy it to the device.
        """
        self._replay = replay
        self._batch, self._length, self._place = int(batch), int(length), place
        self._streams = [Stream() for _ in range(self._batch)]
        self._plan: list[list[Piece]] | None = None
        self._copied: Future | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self.provenance: list[list[Piece]] = []
        self.placed: Any = None

    def __iter__(self) -> "Dataset":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch. Raises UserError when there is nothing to sample."""
        if self._plan is None:
            self._submit([self._fill(row, []) for row in range(self._batch)])
        batch, self.placed = self._collect()
        self.provenance, self._plan = self._plan, None
        try:
            self._submit([self._fill(row, []) for row in range(self._batch)])
        except UserError:
            self._copied = None  # This batch is good; the next call raises.
        return batch

    def _fill(self, row: int, pieces: list[Piece]) -> list[Piece]:
        """Continue a row's pieces until they are T time steps long."""
        stream = self._streams[row]
        missing = self._length - sum(piece.stop - piece.start for piece in pieces)
        while missing:
            episode = self._replay.find(stream.episode)
            first = episode is None or stream.cursor >= stream.stop or stream.stop > episode.rows
            if first:
                self._draw(row, stream)
            rows = min(missing, stream.stop - stream.cursor)
            piece = Piece(stream.episode, stream.cursor, stream.cursor + rows, first)
            pieces.append(piece)
            stream.cursor, missing = piece.stop, missing - rows
        return pieces

    def _draw(self, row: int, stream: Stream) -> None:
        """Choose a row's next sequence; depends on seed, row and draw number alone."""
        generator = self._replay.generator(row, stream.draw)
        stream.episode, stream.cursor, stream.stop = self._replay.draw(generator)
        stream.draw += 1

    def _refill(self, plan: list[list[Piece]]) -> list[list[Piece]]:
        """Redraw whatever is no longer in the replay, and what came after it in its row."""
        for row, pieces in enumerate(plan):
            for index, piece in enumerate(pieces):
                episode = self._replay.find(piece.episode)
                if episode is None or piece.stop > episode.rows:
                    self._streams[row].episode = None
                    plan[row] = self._fill(row, pieces[:index])
                    break
        return plan

    def _submit(self, plan: list[list[Piece]]) -> None:
        """Start copying. The episodes are looked up here: the thread touches no shared list."""
        episodes = {p.episode: self._replay.find(p.episode) for row in plan for p in row}
        self._plan = plan
        self._copied = self._thread.submit(self._copy, plan, episodes)

    def _collect(self) -> tuple[dict[str, np.ndarray], Any]:
        """Wait for the copy; episodes found damaged on the way are set aside and redrawn."""
        while True:
            batch, placed, damaged = self._copied.result()
            if not damaged:
                return batch, placed
            for episode, reason in damaged.items():
                self._replay.set_aside(episode, reason)
            self._submit(self._refill(self._plan))

    def _copy(self, plan: list[list[Piece]], episodes: Mapping) -> tuple[dict, Any, dict[str, str]]:
        """Return the batch, also placed, and the episodes that could not be read with reasons."""
        damaged: dict[str, str] = {}
        size = (self._batch, self._length)
        schema = self._replay.schema
        batch = {key: np.empty(size + shape, dtype) for key, (dtype, shape) in schema.items()}
        for row, pieces in enumerate(plan):
            stop = 0
            for piece in pieces:
                start, stop = stop, stop + piece.stop - piece.start
                out = {key: array[row, start:stop] for key, array in batch.items()}
                try:
                    episodes[piece.episode].read(piece.start, out, self._replay.files)
                except Damaged as error:
                    damaged[piece.episode] = str(error)
                if piece.first:
                    batch["is_first"][row, start] = True
        return batch, None if damaged else self._place(batch), damaged

    def settle(self) -> None:
        """Wait until no file is being read, so that episodes can be deleted."""
        if self._copied is not None:
            self._copied.exception()

    def state(self) -> dict:
        """Return the place of every row and the batch decided but not yet delivered, for JSON."""
        return {
            "length": self._length,
            "streams": [dataclasses.astuple(stream) for stream in self._streams],
            "plan": self._plan and [[tuple(piece) for piece in row] for row in self._plan],
        }

    def restore(self, state: Mapping) -> None:
        """Go on from `state()`, on the same replay with the same draws.

        With another batch size or length, every row starts a new sequence: what had been decided
        but not delivered does not fit.
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
        """Let the copying thread finish what it was given, and end."""
        self._thread.shutdown(wait=True)  # a copy that is cancelled could not be settled
