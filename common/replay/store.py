"""The directory of stored episodes: open, recover, add, prune, set damaged files aside."""

import bisect
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamerv2.common.errors import DamagedFile, cannot_write
from dreamerv2.common.files import replacing
from dreamerv2.common.replay.episode import (
    FILE_NAME,
    TEMPORARY,
    ArrayCache,
    Names,
    StoredEpisode,
    trained_on,
    write_episode,
)
from dreamerv2.common.replay.journal import JOURNAL_NAME, Journal

Schema = dict[str, tuple[np.dtype, tuple[int, ...]]]
_LEDGER = "pruned.json"
# Steps and episodes pruned, and the files still to delete. Of the names smaller than `before`:
# steps whose episodes were missing, and steps held, when the missing ones were recorded.
_EMPTY = {"steps": 0, "episodes": 0, "deleting": [], "lost": 0, "before": "", "held": 0}


class Store:
    """All stored episodes of one directory, in the order of their names.

    Attributes: `directory`; `episodes` (sorted); `schema` (key -> dtype and shape of one row, of
    the keys in batches; None while unknown); `cache` (of compressed episodes); `names` (of episodes
    to come); `damaged` (files set aside by this process); `short` (recovered episodes that were too
    short to be stored).
    """

    def __init__(self, directory: Path, minlen: int):
        """Open a directory, creating it where needed. Raises UserError when it is not writable.

        minlen: rows below which an episode that has ended is not worth storing.
        """
        self.directory, self._minlen = directory, minlen
        self.episodes: list[StoredEpisode] = []
        self.schema: Schema | None = None
        self.cache = ArrayCache()
        self.damaged = self.short = 0
        self._ledger = dict(_EMPTY)
        try:
            self._load(self._recover())
        except OSError as error:
            raise cannot_write(directory, error) from error

    @property
    def loaded_steps(self) -> int:
        """Steps of `episodes`."""
        return self._steps_since("")

    @property
    def total_steps(self) -> int:
        """Steps of all episodes, pruned and short ones included, damaged ones not."""
        return self._ledger["steps"] + self.loaded_steps

    @property
    def total_episodes(self) -> int:
        """Episodes ever stored, pruned ones included, damaged ones not."""
        return self._ledger["episodes"] + len(self.episodes)

    @property
    def steps_taken(self) -> int:
        """Steps for all time, those recorded as missing included, though a file be put back."""
        ledger = self._ledger
        known = ledger["steps"] + ledger["lost"] + ledger["held"]
        return known + self._steps_since(ledger["before"])

    def record_missing_steps(self, steps: int, before: str) -> None:
        """Count steps that were taken, but whose episodes are damaged or deleted.

        before: no episode of a smaller name will be collected, so that a file that appears there
            later was put back, and adds nothing to the steps taken.
        """
        lost = self.steps_taken + steps - self.total_steps
        held = self.loaded_steps - self._steps_since(before)
        self._write_ledger(lost=lost, before=before, held=held)

    def _steps_since(self, name: str) -> int:
        return sum(episode.steps for episode in self.episodes if episode.id >= name)

    def finish(self, journal: Journal) -> StoredEpisode | None:
        """Store an episode and delete its journal; the steps of a short one are only counted.

        An episode is short that has ended in fewer than `minlen` rows. The end of a process
        interrupts others, and they are stored however short: they cannot be sampled, but their
        steps were taken. Raises UserError (disk full); then nothing has changed.
        """
        episode = None
        if journal.steps and (journal.rows >= self._minlen or not journal.finished):
            episode = StoredEpisode(write_episode(self.directory, journal.id, journal.arrays()))
            bisect.insort(self.episodes, episode, key=lambda e: e.id)
        elif journal.steps:
            steps = self._ledger["steps"] + journal.steps
            self._write_ledger([journal.path.name], steps=steps)
        journal.close()
        return episode

    def prune(self, episodes: list[StoredEpisode]) -> None:
        """Delete episodes for good, while the totals keep counting them.

        The ledger is written first and names the files to delete, so that after a kill at any
        moment every episode is counted once.
        """
        ledger = self._ledger
        held = sum(episode.steps for episode in episodes if episode.id < ledger["before"])
        self._write_ledger(
            [episode.path.name for episode in episodes],
            steps=ledger["steps"] + sum(episode.steps for episode in episodes),
            episodes=ledger["episodes"] + len(episodes),
            held=ledger["held"] - held,
        )
        for episode in episodes:
            self.episodes.remove(episode)
        for episode in episodes:
            episode.path.unlink(missing_ok=True)

    def set_aside(self, episode: StoredEpisode, reason: str) -> None:
        """Rename a damaged file, with a message, and leave its steps out of the totals."""
        self.episodes.remove(episode)
        self._rename(episode.path)
        print(f"Set aside damaged episode {episode.path.name}.damaged: {reason}.", flush=True)

    def _write_ledger(self, deleting: Sequence[str] = (), **changes: int | str) -> None:
        left = [name for name in self._ledger["deleting"] if (self.directory / name).exists()]
        ledger = {**self._ledger, **changes, "deleting": [*left, *deleting]}
        with replacing(self.directory / _LEDGER) as file:
            file.write(json.dumps(ledger).encode())
        self._ledger = ledger

    def _read_ledger(self) -> None:
        """Read the ledger and finish an interrupted deletion."""
        path = self.directory / _LEDGER
        if not path.exists():
            return
        try:
            ledger = _EMPTY | json.loads(path.read_bytes())
            self._ledger = {key: type(empty)(ledger[key]) for key, empty in _EMPTY.items()}
            names = [Path(name).name for name in self._ledger["deleting"]]
            Names(self._ledger["before"])  # a ValueError unless it is a name
        except (ValueError, TypeError) as error:
            self._ledger, names = dict(_EMPTY), []
            print(
                f"{path.name} is damaged ({error}); pruned and lost steps count as 0.", flush=True
            )
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    def _recover(self) -> dict[Path, str]:
        """Finish the work of a process that was killed; return damaged journals with reasons."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._read_ledger()
        names = sorted(path.name for path in self.directory.iterdir())
        for name in filter(TEMPORARY.fullmatch, names):
            (self.directory / name).unlink()
        ours = filter(lambda name: FILE_NAME.fullmatch(name) or JOURNAL_NAME.fullmatch(name), names)
        self.names = Names(max([self._ledger["before"], *ours]))
        bad: dict[Path, str] = {}
        stored = {name.rpartition("-")[0] for name in names if name.endswith(".npz")}
        for path in (self.directory / name for name in filter(JOURNAL_NAME.fullmatch, names)):
            try:
                # Killed after storing the episode, or before the journal's first byte.
                if path.stem in stored or not path.stat().st_size:
                    path.unlink()
                else:
                    journal = Journal.recover(path)
                    self.short += not self.finish(journal) and journal.steps > 0
            except DamagedFile as error:
                bad[path] = str(error)
        return bad

    def _load(self, bad: dict[Path, str]) -> None:
        """Open all episodes and set damaged files aside, those in `bad` included."""
        opened = []
        for path in sorted(self.directory.glob("*.npz")):
            try:
                opened.append(StoredEpisode(path))
            except DamagedFile as error:
                bad[path] = str(error)
        self.schema = common_schema(opened)
        for episode in opened:
            if difference := differs(schema_of(episode), self.schema):
                bad[episode.path] = difference
        self.episodes = [episode for episode in opened if episode.path not in bad]
        if not bad:
            return
        for path in bad:
            self._rename(path)
        reasons = [f"{path.name} ({reason})" for path, reason in bad.items()]
        more = f" and {len(reasons) - 10} more" if len(reasons) > 10 else ""
        print(
            f"Set aside {len(bad)} damaged episode files in {self.directory} as *.damaged: "
            f"{'; '.join(reasons[:10])}{more}.",
            flush=True,
        )

    def _rename(self, path: Path) -> None:
        self.damaged += 1
        try:
            path.rename(path.with_name(path.name + ".damaged"))
        except OSError as error:
            # The file is deleted, or belongs to another user; it is not used either way.
            print(f"Could not rename {path.name}: {error.strerror}.", flush=True)


def schema_of(episode: StoredEpisode) -> Schema:
    """Return key -> dtype and row shape, of the keys in batches."""
    return {k: (m.dtype, m.shape) for k, m in episode.layout.items() if trained_on(k)}


def common_schema(episodes: list[StoredEpisode]) -> Schema | None:
    """Return the schema most episodes have; among equals, the latest one's."""
    votes = Counter(tuple(sorted(schema_of(e).items())) for e in reversed(episodes))
    return dict(votes.most_common(1)[0][0]) if votes else None


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
