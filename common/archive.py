"""The directory of stored episodes: opened, recovered, extended, pruned, damage set aside."""

import bisect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamerv2.common.episodes import (
    FILE_NAME,
    TEMPORARY,
    FileCache,
    Names,
    StoredEpisode,
    cannot_write,
    sync_directory,
    trained_on,
    write_atomically,
    write_episode,
)
from dreamerv2.common.journal import JOURNAL_NAME, Journal
from dreamerv2.common.npzlayout import Damaged

Schema = dict[str, tuple[np.dtype, tuple[int, ...]]]
_LEDGER = "pruned.json"


class Archive:
    """All stored episodes of one directory, in the order of their names.

    Attributes: `directory`; `episodes` (sorted); `schema` (key -> dtype and shape of one row, of
    what is trained on; None while unknown); `files` (the cache that reads go through);
    `total_steps`, `total_episodes` (stored here ever, kept across pruning and restarts);
    `lost_steps` (see `lose`); `damaged` (files set aside by this process); `short` (journals too
    short to be stored).
    """

    def __init__(self, directory: Path, minlen: int = 1):
        """Open a directory, creating it where needed. Raises UserError when it is not writable.

        minlen: rows below which a recovered episode that had ended is not worth storing.
        """
        self.directory = directory
        self._minlen = minlen
        self.episodes: list[StoredEpisode] = []
        self.schema: Schema | None = None
        self.files = FileCache()
        self.damaged = self.short = 0
        self.loaded_steps = 0
        self._pruned = {"steps": 0, "episodes": 0, "lost": 0, "deleting": []}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._load()
        except OSError as error:
            raise cannot_write(directory, error) from error

    @property
    def total_steps(self) -> int:
        """Steps ever taken: pruned ones and those of short episodes too, damaged ones not."""
        return self._pruned["steps"] + self.loaded_steps

    @property
    def lost_steps(self) -> int:
        """Steps that `lose` was told of, for all time."""
        return self._pruned["lost"]

    @property
    def total_episodes(self) -> int:
        """Episodes ever stored, pruned ones included, damaged ones not."""
        return self._pruned["episodes"] + len(self.episodes)

    def new_name(self) -> str:
        """Return a name that sorts after all present and all given so far."""
        return self._names.new()

    def add(self, name: str, arrays: Mapping[str, np.ndarray]) -> StoredEpisode:
        """Store an episode. Raises UserError (disk full); then nothing has changed."""
        episode = StoredEpisode(write_episode(self.directory, name, arrays))
        self._insert(episode)
        self.schema = self.schema or schema_of(episode)
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

        The ledger is written first and names what is being deleted, so that a kill at any moment
        neither counts an episode twice nor forgets it.
        """
        steps = sum(episode.steps for episode in episodes)
        self._write_ledger(steps, len(episodes), [episode.path.name for episode in episodes])
        for episode in episodes:
            self._remove(episode)
            episode.path.unlink(missing_ok=True)

    def discard(self, journal: Journal) -> None:
        """Delete the journal of an episode too short to be stored; its steps count as taken."""
        self._write_ledger(journal.steps, 0, [journal.path.name])
        journal.close()

    def lose(self, steps: int) -> None:
        """Remember steps that were taken, but whose episodes are damaged or were removed."""
        self._write_ledger(lost=steps)

    def _write_ledger(
        self, steps: int = 0, episodes: int = 0, deleting: Sequence[str] = (), lost: int = 0
    ) -> None:
        pruned = {
            "steps": self._pruned["steps"] + steps,
            "episodes": self._pruned["episodes"] + episodes,
            "lost": self._pruned["lost"] + lost,
            "deleting": list(deleting),
        }
        ledger = json.dumps(pruned).encode()
        write_atomically(self.directory / _LEDGER, lambda file: file.write(ledger))
        self._pruned = pruned

    def set_aside(self, episode: StoredEpisode, reason: str) -> None:
        """Rename a damaged file, say so, and count its steps no more."""
        self._remove(episode)
        self._rename(episode.path)
        print(f"Set aside damaged episode {episode.path.name}.damaged: {reason}.", flush=True)

    def _rename(self, path: Path) -> None:
        self.damaged += 1
        try:
            path.rename(path.with_name(path.name + ".damaged"))
        except OSError as error:
            # Deleted by somebody, or not ours to rename: not used either way.
            print(f"Could not rename {path.name}: {error.strerror}.", flush=True)

    def _load(self) -> None:
        self._read_ledger()
        names = sorted(path.name for path in self.directory.iterdir())
        for name in filter(TEMPORARY.fullmatch, names):
            (self.directory / name).unlink()
        bad = self._recover_journals(names)
        episodes = self._open_all(bad)
        self.schema = common_schema(episodes)
        for episode in episodes:
            difference = differs(schema_of(episode), self.schema)
            if difference:
                bad[episode.path] = difference
            else:
                self._insert(episode)
        self._report(bad)
        ours = filter(lambda name: FILE_NAME.fullmatch(name) or JOURNAL_NAME.fullmatch(name), names)
        self._names = Names(max(ours, default=""))

    def _read_ledger(self) -> None:
        """Read the totals of pruned episodes and finish an interrupted deletion."""
        path = self.directory / _LEDGER
        if not path.exists():
            return
        try:
            ledger = json.loads(path.read_bytes())
            self._pruned = {
                "steps": int(ledger["steps"]),
                "episodes": int(ledger["episodes"]),
                "lost": int(ledger.get("lost", 0)),
                "deleting": [Path(name).name for name in ledger["deleting"]],
            }
        except (ValueError, TypeError, KeyError) as error:
            print(f"{path.name} is damaged ({error}); pruned steps count as 0.", flush=True)
            return
        for name in self._pruned["deleting"]:
            (self.directory / name).unlink(missing_ok=True)

    def _recover_journals(self, names: list[str]) -> dict[Path, str]:
        """Store what a killed process was collecting, closed as truncated."""
        bad: dict[Path, str] = {}
        stored = {name.rpartition("-")[0] for name in names if name.endswith(".npz")}
        for name in filter(JOURNAL_NAME.fullmatch, names):
            path = self.directory / name
            try:
                # Killed after storing the episode, or before the journal's first byte.
                if path.stem in stored or not path.stat().st_size:
                    path.unlink()
                else:
                    self._store_journal(Journal.recover(path))
            except Damaged as error:
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
        episodes: dict[str, StoredEpisode] = {}
        for path in sorted(self.directory.glob("*.npz")):
            try:
                episode = StoredEpisode(path)
                if episode.id in episodes:
                    raise Damaged(f"it repeats {episodes[episode.id].path.name}")
                episodes[episode.id] = episode
            except Damaged as error:
                bad[path] = str(error)
        return sorted(episodes.values(), key=lambda e: e.id)

    def _report(self, bad: dict[Path, str]) -> None:
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

    def sync(self) -> None:
        """Make the directory's entries durable."""
        sync_directory(self.directory)


def worth_storing(journal: Journal, minlen: int) -> bool:
    """Tell whether an episode is kept: not if it came to its end in less than `minlen` rows.

    One that was cut, by the end of the process, is kept however short. It cannot be sampled, but
    its steps were taken and counted.
    """
    return journal.steps > 0 and (journal.rows >= minlen or not journal.finished)


def schema_of(episode: StoredEpisode) -> Schema:
    """Return key -> dtype and row shape, of what is trained on."""
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
    """Return how a schema fails to serve as the reference, or ""; additional keys are fine."""
    missing = [key for key in reference if key not in schema]
    if missing:
        return f"it has no {', '.join(missing)}"
    for key, (dtype, shape) in reference.items():
        has, had = schema[key]
        if had != shape or not np.can_cast(has, dtype, "same_kind"):
            return f"{key} is {has}{list(had)} but {dtype}{list(shape)} in the others"
    return ""
