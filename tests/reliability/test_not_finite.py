"""NaN and Inf: named, with the step and the batch, and never in a checkpoint."""

import shutil

import numpy as np
import pytest
from reliable import LIGHT, SHORT, checkpoints, episodes, run
from test_exact_resume import make_config, make_learner

from dreamerv2.common.errors import UserError
from dreamerv2.learner import MAX_OVERFLOWS, save_arrays

# An environment as a user would write one; it is found through PYTHONPATH.
MODULE = """
import gymnasium, numpy as np

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        {"speed": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self, what):
        self.what, self.total = what, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return {"speed": np.zeros(2, np.float32)}, {}
    def step(self, action):
        self.count += 1
        self.total += 1
        late = self.total > 100
        speed = np.array([0, np.nan if late and self.what == "observation" else 1], np.float32)
        reward = np.inf if late and self.what == "reward" else 1.0
        return {"speed": speed}, reward, self.count == 20, False, {}

for what in ("observation", "reward"):
    gymnasium.register(f"{what}-v0", lambda what=what: Broken(what))
"""


@pytest.mark.parametrize("what, parallel", [("observation", "none"), ("reward", "process")])
def test_an_environment_that_returns_nan_is_named_with_the_step(tmp_path, what, parallel):
    (tmp_path / "broken_env.py").write_text(MODULE)
    command = [*SHORT, "--task", f"gym_broken_env:{what}-v0", "--envs_parallel", parallel]
    command += ["--logdir", tmp_path / "run"]
    path = {"PYTHONPATH": f"{tmp_path}:{LIGHT.parent.parent.parent}", "OWN_TASK": "yes"}
    status, said = run(LIGHT, *command, log=tmp_path / "log", **path)
    assert status == 2 and "Traceback" not in said, said[-3000:]
    error = next(line for line in said.splitlines() if line.startswith("Error: "))
    assert "At agent step 100: " in error, error  # in the 101st step
    named = "'speed' contains NaN or Inf" if what == "observation" else "the reward inf"
    assert named in error, error
    kept = dict(np.load(tmp_path / "run/failed_observation_100.npz", allow_pickle=False))
    key = "speed" if what == "observation" else "reward"
    assert str(tmp_path / "run/failed_observation_100.npz") in error
    assert not np.isfinite(kept[key]).all(), "the values were not kept"
    stored = episodes(tmp_path / "run")
    assert sum(len(episode["reward"]) - 1 for episode in stored) == 100, "good steps were lost"
    assert all(np.isfinite(episode[key]).all() for episode in stored)
    assert checkpoints(tmp_path / "run") == [61], "the good checkpoint was touched"


@pytest.mark.parametrize("key", ["place", pytest.param("reward", marks=pytest.mark.slow)])
def test_nan_in_the_replay_is_named_by_key_and_episode(tmp_path, key):
    command = [*SHORT, "--logdir", tmp_path / "run"]
    status, said = run(LIGHT, *command, "--steps", "120", log=tmp_path / "log")
    assert status == 0, said[-3000:]
    before = {p: p.read_bytes() for p in (tmp_path / "run/checkpoints").rglob("*.npz")}
    for path in (tmp_path / "run/train_episodes").glob("*.npz"):
        arrays = dict(np.load(path))
        arrays[key][3] = np.nan if key == "place" else np.inf
        np.savez(path, **arrays)
    status, said = run(LIGHT, *command, "--steps", "400", log=tmp_path / "log")
    assert status == 2 and "Traceback" not in said, said[-3000:]
    error = next(line for line in said.splitlines() if line.startswith("Error: "))
    assert f"'{key}' (batch row " in error and ": row 3 of episode 20" in error, error
    assert "in update " in error and "at agent step 121" in error, error
    (saved,) = (tmp_path / "run").glob("failed_batch_*.npz")
    batch = np.load(saved, allow_pickle=False)
    assert str(saved) in error and not np.isfinite(batch[key]).all()
    assert batch[key].shape[:2] == (4, 8) and len(batch["provenance"]) == 4
    assert {p: p.read_bytes() for p in (tmp_path / "run/checkpoints").rglob("*.npz")} == before

    # What the message advises: take those episodes away, run the same command again.
    shutil.rmtree(tmp_path / "run/train_episodes")
    status, said = run(LIGHT, *command, "--steps", "400", log=tmp_path / "log")
    assert status == 0 and "Continuing from agent step 120." in said, said[-3000:]


# --- the real agent ---


def test_a_loss_or_gradient_that_is_not_finite_is_named_and_its_batch_kept(tmp_path):
    learner = make_learner(make_config("--precision", "32"), tmp_path)
    learner.update(5)
    learner.save()
    actor = next(v for v in learner.agent.task_behavior.actor.trainable_variables)
    actor.assign(actor * np.inf)
    learner.update(7)  # the device is still at it: the verdict comes with the next call
    with pytest.raises(UserError) as caught:
        learner.save()
    said = str(caught.value)
    assert said.startswith("The actor ") or "actor and" in said, said
    assert "actor_loss is nan" in said and "in update 1 at agent step 7" in said, said
    assert "failed_batch_1.npz" in said and "checkpoint is untouched" in said
    batch = np.load(tmp_path / "failed_batch_1.npz", allow_pickle=False)
    assert batch["image"].shape == (3, 6, 64, 64, 1) and np.isfinite(batch["place"]).all()
    assert "Piece(episode=" in batch["provenance"][0]


def test_a_failed_batch_that_cannot_be_kept_is_no_second_failure(tmp_path):
    learner = make_learner(make_config("--precision", "32"), tmp_path)
    (tmp_path / "failed_batch_0.npz").mkdir()
    learner.agent.model_opt.weights[0].assign(learner.agent.model_opt.weights[0] * np.nan)
    learner.update(3)
    with pytest.raises(UserError, match=r"model_loss is nan.*no file, because .*Is a directory"):
        learner.metrics()


def test_an_observation_of_any_name_is_kept(tmp_path):
    arrays = {"file": np.array([np.nan]), "provenance": np.array(["row 3"]), "reward": 1.5}
    arrays["odd"] = np.array([None])
    where = save_arrays(tmp_path / "x.npz", arrays)
    kept = dict(np.load(where, allow_pickle=False))
    assert np.isnan(kept["file"]).all() and kept["reward"] == 1.5
    assert kept["provenance"].tolist() == ["row 3"] and kept["odd"] == "[None]"


def test_float16_overflows_are_skipped_and_counted(tmp_path):
    learner = make_learner(make_config("--precision", "16"), tmp_path)
    optimizer = learner.agent.model_opt
    optimizer.scaling.scale.assign(2.0**40)
    weights = [variable.numpy() for variable in optimizer.weights]
    for update in range(3):
        learner.update(update)
        assert all(np.array_equal(w, v) for w, v in zip(weights, optimizer.weights))
    assert learner.metrics()["model_overflows"] == 3
    assert float(optimizer.scaling.scale) == 2.0**37, "each overflow halves the scale"
    optimizer.scaling.scale.assign(2.0**40)
    learner.update(3)
    optimizer.scaling.scale.assign(2.0**10)
    learner.update(4)
    metrics = learner.metrics()
    assert metrics["model_overflows"] == 1 and metrics["actor_overflows"] == 0
    assert all(np.isfinite(value) for value in metrics.values()), "one overflow spoiled a mean"


@pytest.mark.slow
def test_an_endless_float16_overflow_is_reported_as_what_it_is(tmp_path):
    config = make_config("--precision", "16", "--clip_rewards", "identity")
    learner = make_learner(config, tmp_path)
    batch = next(learner.dataset)
    batch["reward"][:] = 1e30  # a finite number, whose square is none
    learner.dataset = Repeat(batch, learner.dataset)
    with pytest.raises(UserError) as caught:
        for update in range(MAX_OVERFLOWS + 1):
            learner.update(update)
    said = str(caught.value)
    assert f"has overflowed {MAX_OVERFLOWS} times in a row, down to a loss scale of 1," in said, (
        said
    )
    assert f"in update {MAX_OVERFLOWS - 1} at agent step {MAX_OVERFLOWS - 1}" in said
    assert "--precision 32" in said and "float16" in said


class Repeat:
    """A dataset of one batch for ever."""

    def __init__(self, batch, dataset):
        self.batch = self.placed = batch
        self.provenance = dataset.provenance

    def __next__(self):
        return self.batch
