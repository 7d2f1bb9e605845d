"""The episode replay: rows of experience in, batches of sequences out, everything on disk."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import UserError
from dreamerv2.common.files import sync
from dreamerv2.common.replay.dataset import Dataset, Sampler
from dreamerv2.common.replay.episode import StoredEpisode, trained_on
from dreamerv2.common.replay.journal import Journal, stored_dtype
from dreamerv2.common.replay.store import Schema, Store, differs

MAX_STEPS_WITHOUT_EPISODE = 100_000
MAX_SHORT_EPISODES = 100  # before the first one that is long enough


class Replay:
    """Experience of one or more workers, stored as episode files and sampled as sequences.

    Everything but the files' names is reproducible: samples depend on the seed and on the order
    in which rows arrive. All methods belong on one thread.
    """

    def __init__(
        self,
        directory: str | Path,
        capacity: int = 0,
        ongoing: bool = False,
        minlen: int = 1,
        maxlen: int = 0,
        prioritize_ends: bool = False,
        seed: int | np.random.SeedSequence = 0,
    ):
        """Open the replay in `directory`, with all episodes found there.

        capacity: steps kept, in the list and on disk, oldest deleted first (0: no limit). Nothing
            is deleted before the first `prune`, or the end of the first episode.
        ongoing: unfinished episodes are sampled too.
        minlen, maxlen: rows of a sampled sequence (maxlen 0: up to the whole episode). A finished
            episode of fewer rows is not stored; an interrupted one is stored but not sampled.
        prioritize_ends: draw an episode's last rows as often as its middle ones.
        Raises UserError for a directory that cannot be written.
        """
        self._capacity, self._minlen = capacity, minlen
        self._ongoing = ongoing
        self._open: dict[int, Journal] = {}
        self._cut: set[int] = set()
        self._step_limit = 0
        self._datasets: list[Dataset] = []
        self._store = Store(Path(directory).expanduser(), minlen)
        if not isinstance(seed, np.random.SeedSequence):
            seed = np.random.SeedSequence(seed)
        self._sampler = Sampler(self._store, minlen, maxlen, prioritize_ends, seed, self._open)
        unused = len(self._store.episodes) - len(self._sampler.episodes)
        self._report_short(unused + self._store.short)

    # Collecting.

    def add_step(self, transition: Mapping[str, np.ndarray], worker: int = 0) -> None:
        """Append a row of one worker: is_first starts an episode, is_last stores it.

        An episode that never got its is_last is closed as truncated by the next is_first.
        Raises ValueError (no is_first at the start, changed keys or shapes), UserError (disk full,
        or other shapes than the episodes already here).
        """
        if transition["is_first"]:
            self.end_episode(worker)
        elif worker not in self._open and worker not in self._cut:
            raise ValueError(f"the first row of worker {worker} has no is_first")
        journal = self._open.get(worker) or self._begin(transition, worker)
        journal.append(transition)
        if self._ongoing and journal.rows == self._minlen:
            self._sampler.add(journal)
        if transition["is_last"]:
            self.end_episode(worker)
        elif self._capacity and journal.steps >= self._capacity:
            # An endless episode must not outgrow the disk, so it is stored in parts.
            self.end_episode(worker)
            self._cut.add(worker)

    def _begin(self, transition: Mapping[str, np.ndarray], worker: int) -> Journal:
        row = {key: np.asarray(value) for key, value in transition.items()}
        schema = {k: (stored_dtype(k, v.dtype), v.shape) for k, v in row.items() if trained_on(k)}
        self._check_schema(schema)
        self._store.schema = self._store.schema or schema
        self._cut.discard(worker)
        name = self._store.names.new()
        self._open[worker] = Journal.create(self._store.directory, name, row)
        return self._open[worker]

    def _check_schema(self, schema: Schema) -> None:
        stored = self._store.schema or schema
        difference = differs(schema, stored)
        more = [key for key in schema if key not in stored]
        if more and not difference:  # a batch of old and new episodes would lack the key
            difference = f"it has {', '.join(more)}, which they have not"
        if difference:
            raise UserError(
                f"The environment does not match the episodes in {self._store.directory}: "
                f"{difference}. Choose another --logdir, or the settings those episodes were "
                "recorded with."
            )

    def end_episode(self, worker: int = 0) -> None:
        """Store a worker's episode, closed as truncated where it has not ended; no-op without."""
        journal = self._open.get(worker)
        if journal is None:
            return
        if self._ongoing:
            self._settle()  # The journal may be being read.
        episode = self._store.finish(journal)
        del self._open[worker]
        self._sampler.remove(journal)
        if journal.rows >= self._minlen and episode:
            self._sampler.add(episode)
        elif journal.steps:
            self._report_short(1)
        self.prune()

    def end_episodes(self) -> None:
        """Store every worker's unfinished episode, closed as truncated."""
        for worker in list(self._open):
            self.end_episode(worker)

    def flush(self) -> None:
        """Make unfinished episodes durable against a power failure too.

        Against the end of the process they already are: rows are on disk when `add_step` returns,
        and the next start stores them, closed as truncated.
        """
        for journal in self._open.values():
            journal.sync()
        sync(self._store.directory)

    def close(self) -> None:
        """Stop the datasets' threads and store unfinished episodes."""
        for dataset in self._datasets:
            dataset.close()
        self.end_episodes()

    @property
    def ready(self) -> bool:
        """Whether there is a stored episode to sample from."""
        return any(isinstance(episode, StoredEpisode) for episode in self._sampler.episodes)

    def check_prefill_progress(self) -> None:
        """Warn once, then raise UserError, if no usable episode has been collected."""
        if self.ready:
            return
        if self._sampler.short >= MAX_SHORT_EPISODES:
            raise self._sampler.nothing_to_sample()
        steps = max((journal.steps for journal in self._open.values()), default=0)
        if self._sampler.short or self._store.episodes:
            return
        if not self._step_limit:
            self._step_limit = max(MAX_STEPS_WITHOUT_EPISODE, 10 * steps)
            print(
                f"No episode has ended in {steps:,} steps; learning begins after the first. "
                "Episodes that never end need --time_limit.",
                flush=True,
            )
        elif steps > self._step_limit:
            raise UserError(
                f"No episode has ended in {steps:,} steps, so there is nothing to learn from: give "
                "--time_limit, the agent steps after which an episode is cut."
            )

    @property
    def stats(self) -> dict[str, int]:
        """Counts in steps and episodes; the totals include pruned episodes, for all time."""
        return {
            "total_steps": self._store.total_steps,
            "total_episodes": self._store.total_episodes,
            "loaded_steps": self._store.loaded_steps,
            "loaded_episodes": len(self._store.episodes),
            "ongoing_steps": self._ongoing_steps,
            "short_episodes": self._sampler.short,
            "damaged_episodes": self._store.damaged,
        }

    @property
    def _ongoing_steps(self) -> int:
        return sum(journal.steps for journal in self._open.values())

    @property
    def steps_taken(self) -> int:
        """Steps for all time: stored, pruned, unfinished and recorded as missing."""
        return self._store.steps_taken + self._ongoing_steps

    def record_missing_steps(self, steps_taken: int) -> None:
        """Add steps whose episodes were damaged or deleted, so that the total never decreases.

        Kept across restarts: after a kill the replay knows best how far the run has come.
        """
        missing = steps_taken - self.steps_taken
        if missing > 0:
            names = [self._store.names.new(), *(journal.id for journal in self._open.values())]
            self._store.record_missing_steps(missing, before=min(names))

    def _report_short(self, count: int) -> None:
        """Count episodes too short to sample, with a message at the 1st, 10th, 100th, ..."""
        before = self._sampler.short
        self._sampler.short += count
        short = self._sampler.short
        if short and (not before or len(str(short)) > len(str(before))):
            print(
                f"{short} episode(s) so far are shorter than minlen={self._minlen} rows and are "
                "not used.",
                flush=True,
            )

    def prune(self) -> None:
        """Delete the oldest episodes beyond the capacity, but never the newest one that is sampled.

        The episodes after the newest sampled one are short, and must not take its place.
        """
        excess = self._store.loaded_steps - self._capacity
        if not self._capacity or excess <= 0:
            return
        sampled = [e for e in self._sampler.episodes if isinstance(e, StoredEpisode)]
        spared, oldest = (sampled or self._store.episodes)[-1], []
        for episode in self._store.episodes:
            if excess > 0 and episode is not spared:
                oldest.append(episode)
                excess -= episode.steps
        if oldest:
            self._settle()
            for episode in oldest:
                self._sampler.remove(episode)
            self._store.prune(oldest)

    # Sampling.

    def dataset(self, batch: int, length: int, **options) -> Dataset:
        """Return an endless iterator over batches, key -> [batch, length, ...]; see Dataset."""
        dataset = Dataset(self._sampler, batch, length, **options)
        self._datasets.append(dataset)
        return dataset

    def _settle(self) -> None:
        for dataset in self._datasets:
            dataset.settle()
