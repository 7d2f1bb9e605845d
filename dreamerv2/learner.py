"""What the loop learns with: an agent, its stream of batches, and what is carried between them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import UserError
from dreamerv2.common.replay.dataset import Dataset
from dreamerv2.common.run.checkpoint import compare
from dreamerv2.health import Health

LOSS_SCALE = re.compile(r"/loss_scale(_finite)?$")  # names of the variables of optim.LossScale


class Learner:
    """Feeds batches to an agent, collects its metrics and saves and restores both.

    Args:
        agent: see agent.Agent; train(data, state, step) -> state, metrics.
        dataset: see sequences.Dataset; its place is that of the agent.
        logdir: where the batch of a failed update is saved for inspection.
    """

    def __init__(self, agent: Any, dataset: Dataset, logdir: Path):
        self.agent, self.dataset = agent, dataset
        self.updates = 0
        self._carry: Any = None  # latent state in which each batch row ended
        self._metrics: list[Mapping[str, Any]] = []
        self._health = Health(logdir)

    def update(self, step: int) -> None:
        """Learn from the next batch.

        Raises UserError for NaN or Inf in the batch, or in the update before.
        """
        batch = next(self.dataset)
        self._health.check()
        origin = (self.updates, step, batch, self.dataset.provenance)
        self._health.check_batch(*origin)
        self._carry, metrics = self.agent.train(self.dataset.placed, self._carry, step)
        self._health.note(*origin, metrics)
        self._metrics.append(metrics)
        self.updates += 1

    @property
    def pending(self) -> bool:
        """Whether there were updates since the last call of `metrics`."""
        return bool(self._metrics)

    def metrics(self) -> dict[str, float]:
        """Return the mean of every metric since the last call, and the number of overflows.

        Means are those of the updates that took place, if there was one.
        """
        self._health.check()
        if not self.pending:
            return {}
        rows, self._metrics = self._metrics, []
        values = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        skipped = {k: np.sum(v == 0) for k, v in values.items() if k.endswith("_finite")}
        whole = np.all([np.ones(len(rows)), *(values[k] for k in skipped)], axis=0)
        used = whole if whole.any() else ~whole
        means = {k: np.mean(v[used]) for k, v in values.items() if k not in skipped}
        overflows = {k.replace("_finite", "_overflows"): n for k, n in skipped.items()}
        scaled = {
            k: n for k, n in overflows.items() if k.replace("overflows", "loss_scale") in means
        }
        return {key: float(value) for key, value in (means | scaled).items()}

    # --- checkpoints ---

    def save(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return arrays and JSON-able state that `load` continues from exactly."""
        self._health.check()
        arrays, draws = self.agent.save()
        carry = {} if self._carry is None else self._carry
        arrays |= {f"carry/{key}": _storable(value) for key, value in carry.items()}
        state = {"updates": self.updates, "draws": draws, "dataset": self.dataset.state()}
        return arrays, state

    def load(self, arrays: Mapping[str, np.ndarray], state: Mapping) -> None:
        """Continue from what `save` returned.

        Raises:
            UserError: the arrays belong to another architecture; names what differs.
        """
        carry = {k.removeprefix("carry/"): v for k, v in arrays.items() if k.startswith("carry/")}
        load_agent(self.agent, arrays, state["draws"])
        start = self.agent.initial_train_state()
        same = carry and all(start[k].shape == carry[k].shape for k in start)
        self._carry = self.agent.restore_state(carry) if same else None
        self.dataset.restore(state["dataset"])
        self.updates = state["updates"]


def load_agent(agent: Any, arrays: Mapping[str, np.ndarray], draws: Mapping[str, int]) -> None:
    """Load an agent's variables from a checkpoint's arrays.

    Raises:
        UserError: names the entries that differ from this agent's.
    """
    agent.load(fitting(agent, arrays), draws)


def fitting(agent: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables among a checkpoint's arrays.

    Only float16 has loss scales. With another precision than before they are left out, or begin
    with the agent's own.

    Raises:
        UserError: names the entries that differ from this agent's.
    """
    expected = agent.expected()
    weights = {k: v for k, v in arrays.items() if not k.startswith("carry/")}
    weights = {k: v for k, v in weights.items() if k in expected or not LOSS_SCALE.search(k)}
    kept = [k for k in weights if k in expected and LOSS_SCALE.search(k)]
    weights |= {k: weights[k].astype(expected[k][1]) for k in kept}  # counters were int32 once
    new = [k for k in expected.keys() - weights.keys() if LOSS_SCALE.search(k)]
    if new:
        own, _ = agent.save()
        weights |= {k: own[k] for k in new}
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
