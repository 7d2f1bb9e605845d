"""Watching the updates: every number must be finite, unless loss scaling explains it."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import NotFinite, UserError
from dreamerv2.common.npz import NUMERIC, write_arrays
from dreamerv2.common.run.counter import Counter

PATIENCE = 100  # updates in a row that may overflow before float16 is beyond rescue
UNTOUCHED = "The last checkpoint is untouched"


class Health:
    """Stops a run whose numbers have left the finite ones, and keeps the batch to look at.

    Args:
        logdir: folder that the batch of a failed update is saved in.
    """

    def __init__(self, logdir: Path):
        self._logdir = logdir
        self._unchecked: tuple | None = None
        self._overflows = 0

    def check_batch(self, update: int, step: int, batch: Mapping, provenance: Sequence) -> None:
        """Look at a batch, key -> [B, T, ...], before anything is learned from it.

        Raises:
            UserError: names the keys with NaN or Inf and the episodes they are from.
        """
        found = [
            f"'{key}' ({_origin(value, provenance)})"
            for key, value in batch.items()
            if value.dtype.kind == "f" and not np.isfinite(value).all()
        ]
        if found:
            raise UserError(
                f"The replay holds NaN or Inf in {', '.join(found)}, in the batch of update "
                f"{update} at agent step {step}, which is in "
                f"{self._save(update, batch, provenance)}. {UNTOUCHED}: take that episode's file "
                "out of the replay and run the same command again."
            )

    def note(
        self, update: int, step: int, batch: Mapping, provenance: Sequence, metrics: Mapping
    ) -> None:
        """Take note of an update. Its flags are read by the next `check`: by then they are known,
        while asking for them now would make the host wait for the device."""
        self._unchecked = (update, step, batch, provenance, metrics)

    def check(self) -> None:
        """Look at the last update.

        Raises:
            UserError: it was not finite, or the last of too many in a row that overflowed.
        """
        if self._unchecked is None:
            return
        update, step, batch, provenance, metrics = self._unchecked
        self._unchecked = None
        bad = [k.removesuffix("_finite") for k in metrics if k.endswith("_finite")]
        bad = [name for name in bad if not metrics[f"{name}_finite"]]
        scales = [float(metrics[f"{k}_loss_scale"]) for k in bad if f"{k}_loss_scale" in metrics]
        self._overflows = self._overflows + 1 if bad else 0
        if not bad or (len(scales) == len(bad) and self._overflows < PATIENCE):
            return
        if scales:
            what = (
                f"The {' and '.join(bad)} update has overflowed {self._overflows} times in a row, "
                f"down to a loss scale of {min(scales):g}, so float16 cannot hold its gradients"
            )
            advice = "try --precision 32"
        else:
            what = f"The {' and '.join(bad)} update is not finite"
            advice = "try a lower learning rate"
        raise UserError(
            f"{what}: {_broken(metrics)} in update {update} at agent step {step}, whose batch is "
            f"in {self._save(update, batch, provenance)}. {UNTOUCHED}: look at the batch, or "
            f"{advice}."
        )

    def _save(self, update: int, batch: Mapping, provenance: Sequence) -> str:
        rows = np.array([str(row) for row in provenance])
        return save_evidence(
            self._logdir / f"failed_batch_{update}.npz", {**batch, "provenance": rows}
        )


class Locate:
    """Says at which agent step an environment gave what is no number, and keeps it to look at."""

    def __init__(self, logdir: Path, step: Counter):
        self._logdir, self._step = logdir, step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, *unused: object) -> None:
        if isinstance(error, NotFinite):
            path = self._logdir / f"failed_observation_{self._step.value}.npz"
            where = save_evidence(path, error.values)
            raise UserError(
                f"At agent step {self._step.value}: {error} What came is in {where}."
            ) from error


def save_evidence(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write arrays for a person to look at; return where they are, or why they are nowhere."""
    kinds = NUMERIC + "U"
    arrays = {k: v if np.asarray(v).dtype.kind in kinds else str(v) for k, v in arrays.items()}
    try:
        with open(path, "wb") as file:
            write_arrays(file, arrays, kinds)  # np.savez cannot store a key 'file'
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return f"no file, because {path} could not be written ({error.strerror})"
    return str(path)


def _broken(metrics: Mapping[str, Any]) -> str:
    """The losses and gradients that are not finite, with their values."""
    values = {k: float(v) for k, v in metrics.items() if k.endswith(("_loss", "_grad_norm"))}
    return ", ".join(f"{k} is {v}" for k, v in values.items() if not np.isfinite(v))


def _origin(value: np.ndarray, provenance: Sequence) -> str:
    """Where the first number that is not finite comes from: its place in batch and replay."""
    row, time = (int(i) for i in np.argwhere(~np.isfinite(value))[0][:2])
    place = f"batch row {row}, time {time}"
    begin = 0
    for piece in provenance[row]:
        if time < begin + piece.stop - piece.start:
            return f"{place}: row {piece.start + time - begin} of episode {piece.episode}"
        begin += piece.stop - piece.start
    return place
