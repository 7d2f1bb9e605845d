"""Checkpoints: whole or not at all, and without pickle.

Layout: ``DIRECTORY/{step:012d}/`` (``{step:012d}-{n}`` where a step was saved again) holds
``variables.npz`` (stored, not compressed), ``state.json`` and, written last, ``complete.json`` with
the format version, the step, and the size and SHA-256 of the other two files. The folder has a
temporary name until all of it is on the disk.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import DamagedFile, UserError, cannot_write
from dreamerv2.common.files import flush, sync
from dreamerv2.common.npz import damage_reported, read_arrays, write_arrays

FORMAT = 1
VARIABLES, STATE, MARKER = "variables.npz", "state.json", "complete.json"
TEMPORARY = ".saving-"


class Version(NamedTuple):
    """One saved checkpoint, complete or not. Versions sort by age."""

    step: int
    number: int
    path: Path


class Checkpoint:
    """Saves and loads the state of a run in versions, of which the newest ``keep`` stay.

    The first save creates the folder. Loading changes nothing, and another process may save
    meanwhile.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        assert keep >= 1, keep
        self._directory = Path(directory)
        self._keep = keep
        self._damaged: list[Version] = []

    def save(self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
        """Write a version, remove the superfluous ones, and return the folder of the new one.

        The same step may be saved again and replaces its former version. Raises UserError (disk
        full); then the former versions remain, and nothing half-written.

        step: agent steps; the version of the highest step is loaded.
        arrays: name -> numeric array. Items are converted one at a time, so that a mapping of
            TensorFlow variables needs no second copy of the model.
        state: everything else, as JSON can hold it.
        """
        text = json.dumps(dict(state)).encode()
        target = self._next_path(step)
        temporary = self._directory / f"{TEMPORARY}{target.name}"
        for leftover in self._directory.glob(f"{TEMPORARY}*"):  # of a process that was killed
            self._remove(leftover)
        try:
            temporary.mkdir(parents=True)
            _write(temporary, step, arrays, text)
            os.rename(temporary, target)
            sync(self._directory)
        except OSError as error:
            good = self._undamaged()
            last = f"The checkpoint of step {good[-1].step} is intact. " if good else ""
            advice = "Make room or permit writing there, then run the same command again."
            raise cannot_write(target, error, last + advice) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune()
        return target

    def load(self) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Return (step, arrays, state) of the newest version, or None if nothing was saved.

        A damaged version is skipped with a warning, and the version before it is loaded. Raises
        UserError: all versions are damaged, or the newest is of a later format.
        """
        self._damaged = []
        versions = self._versions()
        for version in reversed(versions):
            try:
                loaded = _read(version)
            except DamagedFile as damage:
                if not version.path.exists():  # Pruned by the running process: look again.
                    return self.load()
                self._damaged.append(version)
                print(f"Warning: checkpoint {version.path} is damaged ({damage}).", flush=True)
                continue
            if self._damaged:
                print(f"Warning: using the checkpoint of step {loaded[0]} instead.", flush=True)
            return loaded
        if not versions:
            return None
        raise UserError(
            f"Every checkpoint in {self._directory} is damaged; put a good copy there, or start "
            "anew with another --logdir."
        )

    def _versions(self) -> list[Version]:
        if not self._directory.is_dir():
            return []
        return sorted(filter(None, map(_version, self._directory.iterdir())))

    def _undamaged(self) -> list[Version]:
        return [version for version in self._versions() if version not in self._damaged]

    def _next_path(self, step: int) -> Path:
        numbers = [x.number for x in self._versions() if x.step == step]
        suffix = f"-{max(numbers) + 1}" if numbers else ""
        return self._directory / f"{step:012d}{suffix}"

    def _prune(self) -> None:
        """Keep the newest versions of different steps. Damaged versions are removed as well."""
        newest = {version.step: version for version in self._undamaged()}
        kept = list(newest.values())[-self._keep :]
        for version in self._versions():
            if version not in kept:
                self._remove(version.path)
        self._damaged = []

    def _remove(self, path: Path) -> None:
        """Rename a folder, then remove it, so that a kill leaves no incomplete version.

        A network disk may refuse while another process reads: a warning, and the run goes on.
        """
        try:
            if not path.name.startswith(TEMPORARY):
                path = path.rename(path.with_name(f"{TEMPORARY}{path.name}"))
            shutil.rmtree(path)
        except OSError as error:
            print(f"Warning: cannot remove {path} ({error.strerror}).", flush=True)


def load_version(
    path: str | os.PathLike,
) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
    """Load one version by its folder, such as ``checkpoints/000000100000``.

    Returns (step, arrays, state), or None if the folder is not called like a version. Raises
    UserError: it is damaged, or of a later format.
    """
    version = _version(Path(path))
    if version is None:
        return None
    try:
        return _read(version)
    except DamagedFile as damage:
        raise UserError(f"Checkpoint {path} is damaged ({damage}); choose another one.") from None


def compare(
    expected: Mapping[str, tuple[tuple[int, ...], Any]], arrays: Mapping[str, np.ndarray]
) -> list[str]:
    """Return the differences of a checkpoint's arrays from a model, the first five by name.

    expected: name -> (shape, dtype) of the model's variables.
    """
    model = {k: (list(shape), np.dtype(dtype)) for k, (shape, dtype) in expected.items()}
    saved = {k: (list(array.shape), array.dtype) for k, array in arrays.items()}
    phrases = []
    for name in sorted(model.keys() | saved.keys()):
        if name not in saved:
            phrases.append(f"{name} is missing in the checkpoint")
        elif name not in model:
            phrases.append(f"{name} is unknown to this model")
        elif model[name] != saved[name]:
            has, needs = next((a, b) for a, b in zip(saved[name], model[name]) if a != b)
            phrases.append(f"{name} is {has} in the checkpoint, {needs} in this model")
    rest = len(phrases) - 5
    return phrases if rest <= 0 else [*phrases[:5], f"and {rest} more"]


def _version(path: Path) -> Version | None:
    match = re.fullmatch(r"(\d{12,})(?:-(\d+))?", path.name)
    return Version(int(match[1]), int(match[2] or 0), path) if match else None


def _write(folder: Path, step: int, arrays: Mapping[str, Any], state: bytes) -> None:
    """Write the files of a version to the disk, the marker last."""
    with (folder / VARIABLES).open("wb") as file:
        write_arrays(file, arrays)
        flush(file)
    _write_bytes(folder / STATE, state)
    files = {name: _fingerprint(folder / name) for name in (VARIABLES, STATE)}
    marker = {"format": FORMAT, "step": step, "files": files}
    _write_bytes(folder / MARKER, json.dumps(marker, indent=1).encode())
    sync(folder)


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        flush(file)


def _read(version: Version) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    try:
        with damage_reported():
            _check_marker(version)
            state = json.loads((version.path / STATE).read_bytes())
            arrays = read_arrays(version.path / VARIABLES)
    except OSError as error:
        name = Path(error.filename or version.path).name
        raise DamagedFile(f"{name}: {error.strerror}") from error
    if not isinstance(state, dict):
        raise DamagedFile(f"{STATE} holds no object")
    return version.step, arrays, state


def _check_marker(version: Version) -> None:
    """Compare the files of a version with its marker, before anything else reads them."""
    marker = json.loads((version.path / MARKER).read_bytes())
    if marker["format"] > FORMAT:
        raise UserError(
            f"Checkpoint {version.path} has format {marker['format']}, but this program knows "
            f"formats up to {FORMAT}; use the newer program that wrote it."
        )
    if marker.get("step") != version.step:
        raise DamagedFile("its step is not that of the folder")
    for name in (VARIABLES, STATE):
        if _fingerprint(version.path / name) != marker["files"].get(name):
            raise DamagedFile(f"{name} has changed since it was saved")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
