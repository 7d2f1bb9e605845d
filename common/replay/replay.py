"""The episode replay: rows of experience in, sequences of fixed length out, everything on disk."""

import bisect
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import NothingToSample, UserError
from dreamerv2.common.replay.dataset import Dataset
from dreamerv2.common.replay.episode import FileCache, StoredEpisode, trained_on
from dreamerv2.common.replay.journal import Journal, stored_dtype
from dreamerv2.common.replay.store import Archive, Schema, differs, worth_storing

ENDLESS = 100_000  # steps in which no episode has ended before it is not waited for any longer
HOPELESS = 100  # episodes that were all too short before the next one is not waited for


class Replay:
    """Experience of one or more workers, stored as episode files and sampled as sequences.

    Everything but the files' names is reproducible: what is sampled depends on the seed and on the
    order in which rows arrive. All methods belong on one thread.
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
        minlen, maxlen: rows of a sampled sequence (maxlen 0: up to the whole episode); an episode
            that ends sooner is not stored, one that was cut sooner is stored but not sampled.
        prioritize_ends: draw an episode's last rows as often as its middle ones.
        Raises UserError for a directory that cannot be written.
        """
        self._capacity, self._minlen, self._maxlen = int(capacity), int(minlen), int(maxlen)
        self._ongoing, self._prioritize_ends = bool(ongoing), bool(prioritize_ends)
        plain = isinstance(seed, int)
        self._seed = np.random.SeedSequence(seed) if plain else seed
        self._open: dict[int, Journal] = {}
        self._cut: set[int] = set()
        self._short = self._waiting = 0
        self._datasets: weakref.WeakSet[Dataset] = weakref.WeakSet()
        self._archive = Archive(Path(directory).expanduser(), self._minlen)
        self._candidates = [e for e in self._archive.episodes if e.rows >= self._minlen]
        self._by_id = {e.id: e for e in self._candidates}
        unused = len(self._archive.episodes) - len(self._candidates)
        self._report_short(unused + self._archive.short)

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
            self._offer(journal)
        if transition["is_last"]:
            self.end_episode(worker)
        elif self._capacity and journal.steps >= self._capacity:
            # An endless episode must not outgrow the disk: store it, go on with another.
            self.end_episode(worker)
            self._cut.add(worker)

    def _begin(self, transition: Mapping[str, np.ndarray], worker: int) -> Journal:
        arrays = {key: np.asarray(value) for key, value in transition.items()}
        self._check_schema(
            {k: (stored_dtype(k, a.dtype), a.shape) for k, a in arrays.items() if trained_on(k)}
        )
        self._cut.discard(worker)
        name = self._archive.new_name()
        self._open[worker] = Journal.create(self._archive.directory, name, arrays)
        return self._open[worker]

    def _check_schema(self, schema: Schema) -> None:
        difference = differs(schema, self.schema) if self.schema else ""
        more = [key for key in schema if self.schema and key not in self.schema]
        if more and not difference:  # batches of both would lack it
            difference = f"it has {', '.join(more)}, which they have not"
        if difference:
            raise UserError(
                f"The environment does not match the episodes in {self._archive.directory}: "
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
        short, episode = journal.rows < self._minlen, None
        if worth_storing(journal, self._minlen):
            episode = self._archive.add(journal.id, journal.arrays())
        self._withdraw(journal)
        if episode and not short:
            self._offer(episode)
        self._report_short(int(short and journal.steps > 0))
        del self._open[worker]
        if episode or not journal.steps:
            journal.close()
        else:
            self._archive.discard(journal)
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
        self._archive.sync()

    def close(self) -> None:
        """Stop the datasets' threads, store unfinished episodes, close all files."""
        for dataset in self._datasets:
            dataset.close()
        self.end_episodes()
        self.files.close()

    @property
    def ready(self) -> bool:
        """Whether there is a stored episode to sample from."""
        return any(isinstance(episode, StoredEpisode) for episode in self._candidates)

    def check_hope(self) -> None:
        """Tell whoever waits for an episode to learn from why there is none.

        Says once that none has ended. Raises UserError when so many were too short, or the first
        one goes on for so long, that waiting is in vain.
        """
        if self.ready:
            return
        if self._short >= HOPELESS:
            raise self._nothing_to_sample()
        going = max((journal.steps for journal in self._open.values()), default=0)
        if self._short or self._archive.episodes:
            return
        if not self._waiting:
            self._waiting = max(ENDLESS, 10 * going)
            print(
                f"No episode has ended in {going:,} steps; learning begins after the first. "
                "Episodes that never end need --time_limit.",
                flush=True,
            )
        elif going > self._waiting:
            raise UserError(
                f"No episode has ended in {going:,} steps, so there is nothing to learn from: give "
                "--time_limit, the agent steps after which an episode is cut."
            )

    @property
    def stats(self) -> dict[str, int]:
        """Counts in steps and episodes; total counts what was pruned as well, for all time."""
        return {
            "total_steps": self._archive.total_steps,
            "total_episodes": self._archive.total_episodes,
            "loaded_steps": self._archive.loaded_steps,
            "loaded_episodes": len(self._archive.episodes),
            "ongoing_steps": sum(journal.steps for journal in self._open.values()),
            "short_episodes": self._short,
            "damaged_episodes": self._archive.damaged,
        }

    @property
    def steps_taken(self) -> int:
        """Steps for all time: stored, pruned, unfinished and, as far as `account` knows, lost."""
        stats = self.stats
        return stats["total_steps"] + stats["ongoing_steps"] + self._archive.lost_steps

    def account(self, taken: int) -> None:
        """Count as lost what `steps_taken` lacks: of damaged episodes, or removed by the user.

        Kept across restarts: after a kill the replay knows best how far the run has come.
        """
        if taken > self.steps_taken:
            names = [self._archive.new_name(), *(journal.id for journal in self._open.values())]
            self._archive.lose(taken - self.steps_taken, min(names))

    def _report_short(self, count: int) -> None:
        """Count episodes too short to sample; say so at the 1st, 10th, 100th, ..."""
        before, self._short = self._short, self._short + count
        if len(str(self._short)) > len(str(before)) or (self._short and not before):
            print(
                f"{self._short} episode(s) so far are shorter than minlen={self._minlen} rows and "
                "are not used.",
                flush=True,
            )

    def prune(self) -> None:
        """Delete the oldest episodes beyond the capacity, but never the newest one that is sampled.

        Those after it were cut: the last to be sampled must not make room for them.
        """
        excess = self._archive.loaded_steps - self._capacity
        if not self._capacity or excess <= 0:
            return
        sampled = (e for e in reversed(self._candidates) if isinstance(e, StoredEpisode))
        spared, oldest = next(sampled, self._archive.episodes[-1]), []
        for episode in self._archive.episodes:
            if excess <= 0:
                break
            if episode is not spared:
                oldest.append(episode)
                excess -= episode.steps
        if oldest:
            self._settle()
            for episode in oldest:
                self._withdraw(episode)
            self._archive.prune(oldest)

    # Sampling.

    def dataset(self, batch: int, length: int, **options) -> Dataset:
        """Return an endless iterator over batches, key -> [batch, length, ...]; see Dataset."""
        dataset = Dataset(self, batch, length, **options)
        self._datasets.add(dataset)
        return dataset

    @property
    def schema(self) -> Schema | None:
        """Key -> dtype and shape of one row, as in batches; None before the first episode."""
        if self._archive.schema is None and self._open:
            dtype = next(iter(self._open.values())).dtype
            names = [key for key in dtype.names[:-1] if trained_on(key)]
            return {key: (dtype[key].base, dtype[key].shape) for key in names}
        return self._archive.schema

    @property
    def files(self) -> FileCache:
        """The open files that reads go through."""
        return self._archive.files

    def generator(self, row: int, draw: int) -> np.random.Generator:
        """Return the random numbers of one draw of one batch row."""
        key = (*self._seed.spawn_key, row, draw)
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self._seed.entropy, spawn_key=key))
        )

    def draw(self, generator: np.random.Generator) -> tuple[str, int, int]:
        """Choose an episode uniformly, then a sequence of it: its id, start and stop."""
        if not self._candidates:
            raise self._nothing_to_sample()
        episode = self._candidates[generator.integers(len(self._candidates))]
        longest = min(episode.rows, self._maxlen or episode.rows)
        length = max(self._minlen, longest - int(generator.integers(self._minlen)))
        last = episode.rows - length
        starts = last + 1 + (self._minlen if self._prioritize_ends else 0)
        start = min(int(generator.integers(starts)), last)
        return episode.id, start, start + length

    def find(self, identity: str | None) -> StoredEpisode | Journal | None:
        """Return the episode of that id while it can be sampled."""
        return self._by_id.get(identity)

    def set_aside(self, identity: str, reason: str) -> None:
        """Stop using an episode whose file is damaged; its steps leave the totals."""
        episode = self._by_id.get(identity)
        if episode is not None:  # It may have been pruned meanwhile.
            self._withdraw(episode)
            self._archive.set_aside(episode, reason)

    def _offer(self, episode: StoredEpisode | Journal) -> None:
        # By name, not by time of storing: a restarted run lists them in the same order.
        bisect.insort(self._candidates, episode, key=lambda e: e.id)
        self._by_id[episode.id] = episode

    def _withdraw(self, episode: StoredEpisode | Journal) -> None:
        if self._by_id.pop(episode.id, None):
            self._candidates.remove(episode)

    def _settle(self) -> None:
        for dataset in self._datasets:
            dataset.settle()

    def _nothing_to_sample(self) -> NothingToSample:
        lengths = [e.rows for e in [*self._archive.episodes, *self._open.values()]]
        held = f"{len(lengths)} episodes of at most {max(lengths)} rows" if lengths else "none yet"
        return NothingToSample(
            f"No episode in {self._archive.directory} has at least minlen={self._minlen} rows: "
            f"{held}, unfinished ones included, and {self._short} too short. Lower "
            "--replay.minlen, or collect longer episodes."
        )
