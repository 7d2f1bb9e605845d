"""Batches in, updates and metrics out; NaN and Inf end the run and keep the batch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import UserError
from dreamerv2.common.files import replacing
from dreamerv2.common.npz import NUMERIC, write_arrays
from dreamerv2.common.replay.dataset import Dataset
from dreamerv2.common.run.checkpoint import compare

LOSS_SCALE = re.compile(r"/loss_scale(_finite)?$")  # names of the variables of optim.LossScale
MAX_OVERFLOWS = 100  # updates in a row that may overflow in float16


class Learner:
    """Feeds batches to an agent, averages its metrics, and saves and restores both.

    The batch of a failed update goes to the logdir.
    """

    def __init__(self, agent: Any, dataset: Dataset, logdir: Path):
        self.agent, self.dataset, self.updates = agent, dataset, 0
        self._carry: Any = None  # latent state at the end of each batch row
        self._metrics: list[Mapping[str, Any]] = []
        self._finite = FiniteCheck(logdir)
        self._last: tuple[Update, Mapping[str, Any]] | None = None  # not yet checked

    def update(self, step: int) -> None:
        """Learn from a batch; UserError for NaN or Inf in it or in the update before."""
        update = Update(self.updates, step, next(self.dataset), self.dataset.provenance)
        self._check_last()
        self._finite.check_batch(update)
        self._carry, metrics = self.agent.train(self.dataset.placed, self._carry, step)
        self._last = update, metrics
        self._metrics.append(metrics)
        self.updates += 1

    def _check_last(self) -> None:
        """Check the last update, now that its metrics need not wait for the device."""
        if self._last:
            last, self._last = self._last, None
            self._finite.check_metrics(*last)

    @property
    def pending(self) -> bool:
        """True if there were updates since the last call of `metrics`."""
        return bool(self._metrics)

    def metrics(self) -> dict[str, float]:
        """Return the means of all metrics since the last call, and counts of overflows.

        Updates that float16 skipped are not in the means, unless all of them were skipped.
        """
        self._check_last()
        if not self.pending:
            return {}
        rows, self._metrics = self._metrics, []
        values = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        flags = {k: values.pop(f"{k}_finite") for k in _updated(rows[0])}
        whole = np.all([np.ones(len(rows)), *flags.values()], axis=0)
        used = whole if whole.any() else ~whole
        means = {key: float(np.mean(value[used])) for key, value in values.items()}
        scaled = [name for name in flags if f"{name}_loss_scale" in means]
        return means | {f"{name}_overflows": float(np.sum(flags[name] == 0)) for name in scaled}

    def save(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return arrays and JSON-able state from which `load` continues exactly."""
        self._check_last()
        arrays, draws = self.agent.save()
        carry = {} if self._carry is None else self._carry
        arrays |= {f"carry/{key}": _storable(value) for key, value in carry.items()}
        state = {"updates": self.updates, "draws": draws, "dataset": self.dataset.state()}
        return arrays, state

    def load(self, arrays: Mapping[str, np.ndarray], state: Mapping) -> None:
        """Continue from the result of `save`."""
        carry = {k.removeprefix("carry/"): v for k, v in arrays.items() if k.startswith("carry/")}
        self.agent.load(match_variables(self.agent, arrays), state["draws"])
        start = self.agent.initial_train_state()
        same = carry and all(start[k].shape == carry[k].shape for k in start)
        self._carry = self.agent.restore_state(carry) if same else None
        self.dataset.restore(state["dataset"])
        self.updates = state["updates"]


def match_variables(agent: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the agent's variables among a checkpoint's arrays; UserError if some differ.

    Loss-scale variables exist only in float16: those of a checkpoint of another precision are
    dropped, and missing ones keep the agent's own values.
    """
    expected = agent.expected()
    weights = {k: v for k, v in arrays.items() if not k.startswith("carry/")}
    weights = {k: v for k, v in weights.items() if k in expected or not LOSS_SCALE.search(k)}
    scales = [k for k in expected if LOSS_SCALE.search(k)]
    if not weights.keys() >= set(scales):
        own, _ = agent.save()
        weights = {k: own[k] for k in scales} | weights
    # The counters were int32 in old checkpoints.
    weights |= {k: weights[k].astype(expected[k][1]) for k in scales}
    differences = compare(expected, weights)
    explored = any(name.startswith("expl/") for name in weights.keys() - expected.keys())
    if differences:
        raise UserError(
            "The checkpoint holds another architecture, optimizer or action space than the config "
            f"makes: {'; '.join(differences)}. Use that of the run, or another --logdir."
            + " To end exploration, keep --expl_behavior and give --expl_until."
            * explored
        )
    return weights


def _storable(value: Any) -> np.ndarray:
    # NumPy's files know no bfloat16; float32 holds its values exactly.
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


# --- NaN and Inf ---


class Update(NamedTuple):
    """One update and its batch, for error messages."""

    number: int
    step: int  # agent steps
    batch: Mapping[str, np.ndarray]  # [B, T, ...]
    provenance: Sequence  # of each batch row, see replay.dataset.Dataset

    def failure(self, problem: str, advice: str, logdir: Path) -> UserError:
        """Write the batch to `failed_batch_NUMBER.npz`; return the error to raise."""
        arrays = {**self.batch, "provenance": np.array([str(row) for row in self.provenance])}
        path = save_arrays(logdir / f"failed_batch_{self.number}.npz", arrays)
        return UserError(
            f"{problem} in update {self.number} at agent step {self.step}, whose batch is in "
            f"{path}. The last checkpoint is untouched: {advice}."
        )


class FiniteCheck:
    """Raises UserError where a batch, loss or gradient is NaN or Inf.

    float16 may overflow now and then: its loss scale then halves, and the update is skipped.
    """

    def __init__(self, logdir: Path):
        self._logdir = logdir
        self._overflows = 0  # in a row

    def check_batch(self, update: Update) -> None:
        """Check the batch of an update, before the agent learns from it."""
        found = [
            f"'{key}' ({_origin(value, update.provenance)})"
            for key, value in update.batch.items()
            if value.dtype.kind == "f" and not np.isfinite(value).all()
        ]
        if found:
            problem = f"The replay holds NaN or Inf in {', '.join(found)}, found"
            advice = "take that episode's file out of the replay and run the same command again"
            raise update.failure(problem, advice, self._logdir)

    def check_metrics(self, update: Update, metrics: Mapping[str, Any]) -> None:
        """Check an update, once: all losses and gradients finite, or scaled."""
        bad = [name for name in _updated(metrics) if not metrics[f"{name}_finite"]]
        scales = [float(metrics[f"{k}_loss_scale"]) for k in bad if f"{k}_loss_scale" in metrics]
        self._overflows = self._overflows + 1 if bad else 0
        if not bad or (len(scales) == len(bad) and self._overflows < MAX_OVERFLOWS):
            return
        problem, advice = "is not finite", "look at the batch, or try a lower learning rate"
        if scales:
            problem = (
                f"has overflowed {self._overflows} times in a row, down to a loss scale of "
                f"{min(scales):g}, so float16 cannot hold its gradients"
            )
            advice = "look at the batch, or try --precision 32"
        values = {k: float(v) for k, v in metrics.items() if k.endswith(("_loss", "_grad_norm"))}
        named = ", ".join(f"{k} is {v}" for k, v in values.items() if not np.isfinite(v))
        problem = f"The {' and '.join(bad)} update {problem}: {named}"
        raise update.failure(problem, advice, self._logdir)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write arrays for a person to look at; return the path, or why there is no file."""
    kinds = NUMERIC + "U"
    arrays = {k: v if np.asarray(v).dtype.kind in kinds else str(v) for k, v in arrays.items()}
    try:
        with replacing(path) as file:
            write_arrays(file, arrays, kinds)  # np.savez cannot store a key 'file'
    except UserError as error:
        return f"no file, because {path} could not be written ({error.__cause__.strerror})"
    return str(path)


def _updated(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the parts, such as model, that report a flag NAME_finite."""
    return [key.removesuffix("_finite") for key in metrics if key.endswith("_finite")]


def _origin(value: np.ndarray, provenance: Sequence) -> str:
    """Name the place of the first NaN or Inf in the batch and in the replay."""
    row, time = (int(i) for i in np.argwhere(~np.isfinite(value))[0][:2])
    rows = [(p.episode, n) for p in provenance[row] for n in range(p.start, p.stop)]
    episode, number = rows[time]
    return f"batch row {row}, time {time}: row {number} of episode {episode}"
