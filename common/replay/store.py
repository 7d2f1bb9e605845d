"""The directory of stored episodes: open, recover, add, prune, set damaged files aside."""

import bisect
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import DamagedFile, cannot_write
from dreamerv2.common.files import replacing, sync
from dreamerv2.common.replay.episode import (
    FILE_NAME,
    TEMPORARY,
    FileCache,
    Names,
    StoredEpisode,
    trained_on,
    write_episode,
)
from dreamerv2.common.replay.journal import JOURNAL_NAME, Journal

Schema = dict[str, tuple[np.dtype, tuple[int, ...]]]
_LEDGER = "pruned.json"
# Missing steps (see add_missing_steps), and the steps stored then under names before `before`.
NOTHING_LOST = {"lost": 0, "before": "", "held": 0}


class Store:
    """All stored episodes of one directory, in the order of their names.

    Attributes: `directory`; `episodes` (sorted); `schema` (key -> dtype and shape of one row, of
    the keys in batches; None while unknown); `files` (the cache that reads go through);
    `loaded_steps` (of `episodes`); `damaged` (files set aside by this process); `short` (journals
    too short to be stored).
    """

    def __init__(self, directory: Path, minlen: int = 1, readonly: bool = False):
        """Open a directory, creating it where needed. Raises UserError when it is not writable.

        minlen: rows below which a recovered episode that had ended is not worth storing.
        readonly: nothing is created, recovered, renamed or deleted.
        """
        self.directory = directory
        self._minlen, self._readonly = minlen, readonly
        self.episodes: list[StoredEpisode] = []
        self.schema: Schema | None = None
        self.files = FileCache()
        self.damaged = self.short = 0
        self.loaded_steps = 0
        self._ledger = {"steps": 0, "episodes": 0, "deleting": []} | NOTHING_LOST
        try:
            bad = {} if readonly else self._recover()
            self._load(bad)
        except OSError as error:
            raise cannot_write(directory, error) from error

    @property
    def total_steps(self) -> int:
        """Steps of all episodes, pruned and short ones included, damaged ones not."""
        return self._ledger["steps"] + self.loaded_steps

    @property
    def lost_steps(self) -> int:
        """Missing steps recorded for all time, less those whose episodes were put back."""
        return self._ledger["lost"]

    @property
    def total_episodes(self) -> int:
        """Episodes ever stored, pruned ones included, damaged ones not."""
        return self._ledger["episodes"] + len(self.episodes)

    def new_name(self) -> str:
        """Return a name that sorts after all present and all given so far."""
        return self._names.new()

    def add(self, journal: Journal) -> StoredEpisode:
        """Store an episode. Raises UserError (disk full); then nothing has changed."""
        episode = StoredEpisode(write_episode(self.directory, journal.id, journal.arrays()))
        self._insert(episode)
        return episode

    def _insert(self, episode: StoredEpisode) -> None:
        bisect.insort(self.episodes, episode, key=lambda e: e.id)
        self.loaded_steps += episode.steps

    def _remove(self, episode: StoredEpisode) -> None:
        self.episodes.remove(episode)
        self.loaded_steps -= episode.steps
        self.files.forget(episode.path)

    def prune(self, episodes: list[StoredEpisode]) -> None:
        """Delete episodes for good, while the totals keep counting them.

        The ledger is written first and names the files to delete, so that after a kill at any
        moment every episode is counted once.
        """
        self._write_ledger(
            [episode.path.name for episode in episodes],
            steps=self._ledger["steps"] + sum(episode.steps for episode in episodes),
            episodes=self._ledger["episodes"] + len(episodes),
            held=self._ledger["held"] - self._held(episodes, self._ledger["before"]),
        )
        for episode in episodes:
            self._remove(episode)
        for episode in episodes:
            episode.path.unlink(missing_ok=True)

    def discard(self, journal: Journal) -> None:
        """Delete the journal of an episode too short to be stored; its steps count as taken."""
        self._write_ledger([journal.path.name], steps=self._ledger["steps"] + journal.steps)
        journal.close()

    def add_missing_steps(self, steps: int, before: str) -> None:
        """Record steps that were taken, but whose episodes are damaged or deleted.

        before: no episode of a smaller name will be collected, so that a file that appears there
            later was put back, and its steps are missing no more.
        """
        held = self._held(self.episodes, before)
        self._write_ledger(lost=self.lost_steps + steps, before=before, held=held)

    @staticmethod
    def _held(episodes: Iterable[StoredEpisode], before: str) -> int:
        return sum(episode.steps for episode in episodes if episode.id < before)

    def _find_returned(self) -> None:
        held = self._held(self.episodes, self._ledger["before"])
        if held > self._ledger["held"]:
            lost = max(0, self.lost_steps - (held - self._ledger["held"]))
            self._ledger |= {"lost": lost, "held": held}

    def _write_ledger(self, deleting: Sequence[str] = (), **changes: int | str) -> None:
        left = [name for name in self._ledger["deleting"] if (self.directory / name).exists()]
        ledger = {**self._ledger, **changes, "deleting": [*left, *deleting]}
        with replacing(self.directory / _LEDGER) as file:
            file.write(json.dumps(ledger).encode())
        self._ledger = ledger

    def set_aside(self, episode: StoredEpisode, reason: str) -> None:
        """Rename a damaged file, with a message, and leave its steps out of the totals."""
        self._remove(episode)
        self._rename(episode.path)
        suffix = "" if self._readonly else ".damaged"
        print(f"Set aside damaged episode {episode.path.name}{suffix}: {reason}.", flush=True)

    def _rename(self, path: Path) -> None:
        self.damaged += 1
        if self._readonly:
            return
        try:
            path.rename(path.with_name(path.name + ".damaged"))
        except OSError as error:
            # The file is deleted, or belongs to another user; it is not used either way.
            print(f"Could not rename {path.name}: {error.strerror}.", flush=True)

    def _recover(self) -> dict[Path, str]:
        """Finish the work of a process that was killed; return damaged journals with reasons."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._read_ledger()
        names = sorted(path.name for path in self.directory.iterdir())
        for name in filter(TEMPORARY.fullmatch, names):
            (self.directory / name).unlink()
        ours = filter(lambda name: FILE_NAME.fullmatch(name) or JOURNAL_NAME.fullmatch(name), names)
        self._names = Names(max(ours, default=""))
        return self._recover_journals(names)

    def _load(self, bad: dict[Path, str]) -> None:
        episodes = self._open_all(bad)
        self.schema = common_schema(episodes)
        for episode in episodes:
            difference = differs(schema_of(episode), self.schema)
            if difference:
                bad[episode.path] = difference
            else:
                self._insert(episode)
        self._find_returned()
        self._set_aside_all(bad)

    def _read_ledger(self) -> None:
        """Read the totals of pruned and missing episodes and finish an interrupted deletion."""
        path = self.directory / _LEDGER
        if not path.exists():
            return
        try:
            ledger = json.loads(path.read_bytes())
            lost = {key: type(new)(ledger.get(key, new)) for key, new in NOTHING_LOST.items()}
            self._ledger = lost | {
                "steps": int(ledger["steps"]),
                "episodes": int(ledger["episodes"]),
                "deleting": [Path(name).name for name in ledger["deleting"]],
            }
        except (ValueError, TypeError, KeyError) as error:
            print(
                f"{path.name} is damaged ({error}); pruned and lost steps count as 0.", flush=True
            )
            return
        for name in self._ledger["deleting"]:
            (self.directory / name).unlink(missing_ok=True)

    def _recover_journals(self, names: list[str]) -> dict[Path, str]:
        """Store the unfinished episodes of a process that was killed, closed as truncated."""
        bad: dict[Path, str] = {}
        stored = {name.rpartition("-")[0] for name in names if name.endswith(".npz")}
        for path in (self.directory / name for name in filter(JOURNAL_NAME.fullmatch, names)):
            try:
                # Killed after storing the episode, or before the journal's first byte.
                if path.stem in stored or not path.stat().st_size:
                    path.unlink()
                else:
                    self._store_journal(Journal.recover(path))
            except DamagedFile as error:
                bad[path] = str(error)
        return bad

    def _store_journal(self, journal: Journal) -> None:
        if worth_storing(journal, self._minlen):
            write_episode(self.directory, journal.id, journal.arrays())
        elif journal.steps:
            self.short += 1
            self.discard(journal)
            return
        journal.close()

    def _open_all(self, bad: dict[Path, str]) -> list[StoredEpisode]:
        """Return the episodes in the order of their names; add damaged files to `bad`."""
        episodes: dict[str, StoredEpisode] = {}
        for path in sorted(self.directory.glob("*.npz")):
            try:
                episode = StoredEpisode(path)
                if episode.id in episodes:
                    raise DamagedFile(f"it repeats {episodes[episode.id].path.name}")
                episodes[episode.id] = episode
            except DamagedFile as error:
                bad[path] = str(error)
            except FileNotFoundError:  # pruned by the process that writes
                continue
        return sorted(episodes.values(), key=lambda e: e.id)

    def _set_aside_all(self, bad: dict[Path, str]) -> None:
        """Rename damaged files, with one message for all."""
        if not bad:
            return
        for path in bad:
            self._rename(path)
        reasons = [f"{path.name} ({reason})" for path, reason in bad.items()]
        more = f" and {len(reasons) - 10} more" if len(reasons) > 10 else ""
        names = "" if self._readonly else " as *.damaged"
        print(
            f"Set aside {len(bad)} damaged episode files in {self.directory}{names}: "
            f"{'; '.join(reasons[:10])}{more}.",
            flush=True,
        )

    def sync(self) -> None:
        """Make the directory's entries durable."""
        sync(self.directory)


def worth_storing(journal: Journal, minlen: int) -> bool:
    """Return whether an episode is kept: not if it has ended in fewer than `minlen` rows.

    An episode that the end of the process interrupted is kept however short: it cannot be
    sampled, but its steps were taken and counted.
    """
    return journal.steps > 0 and (journal.rows >= minlen or not journal.finished)


def schema_of(episode: StoredEpisode) -> Schema:
    """Return key -> dtype and row shape, of the keys in batches."""
    return {k: (m.dtype, m.shape) for k, m in episode.layout.items() if trained_on(k)}


def common_schema(episodes: list[StoredEpisode]) -> Schema | None:
    """Return the schema most episodes have; among equals, the latest one's."""
    votes: Counter[tuple] = Counter()
    for episode in reversed(episodes):
        votes[tuple(sorted((k, d.str, s) for k, (d, s) in schema_of(episode).items()))] += 1
    if not votes:
        return None
    return {key: (np.dtype(kind), shape) for key, kind, shape in votes.most_common(1)[0][0]}


def differs(schema: Schema, reference: Schema) -> str:
    """Return the first difference of a schema from the reference, or ""; more keys are fine."""
    missing = [key for key in reference if key not in schema]
    if missing:
        return f"it has no {', '.join(missing)}"
    for key, (dtype, shape) in reference.items():
        has, had = schema[key]
        if had != shape or not np.can_cast(has, dtype, "same_kind"):
            return f"{key} is {has}{list(had)} but {dtype}{list(shape)} in the others"
    return ""
