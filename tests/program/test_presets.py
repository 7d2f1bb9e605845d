"""Each suite's config, through the real command line on the real environment.

Networks and schedules are small: the tests check that suite, replay, model and logs fit together.
All runs use this process, which loads TensorFlow once.
"""

import importlib.util
import json
import re

import numpy as np
import pytest
from commandline import FLAGS, run_here
from reliable import episodes

LENGTH = 20  # of an episode
SHORT = [*FLAGS, f"--time_limit={LENGTH}", "--prefill=30", "--train_every=20"]
SHORT += ["--eval_every=50", "--log_every=50"]
ALWAYS = {
    *("train_return", "train_length", "eval_return", "eval_length", "train_total_steps", "fps"),
    *("model_loss", "kl_loss", "reward_loss", "actor_loss", "actor_ent", "critic_loss"),
}


def need(package):
    """Return a mark that skips a test if a suite's package is missing."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def run(folder, *arguments, steps=60):
    """Train until the agent step `steps`; return metric name -> values."""
    run_here(*arguments, *SHORT, "--steps", steps, "--logdir", folder / "run")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").open()]
    names = set().union(*lines)
    metrics = {name: [line[name] for line in lines if name in line] for name in names}
    assert metrics.keys() >= ALWAYS
    assert all(np.isfinite(v).all() for v in metrics.values()), "a metric is not finite"
    return metrics


@need("dm_control")
def test_dmc_vision_runs_end_to_end(tmp_path):
    metrics = run(tmp_path, "--configs", "dmc_vision", "--task", "dmc_reacher_easy")
    assert "image_loss" in metrics and "position_loss" not in metrics
    assert "discount_loss" not in metrics, "this config has no discount head"
    assert metrics["step"][-1] == 120, "metrics count frames, two for each agent step"
    assert max(metrics["train_length"]) == LENGTH, "lengths count agent steps"
    rows = episodes(tmp_path / "run")[0]
    assert rows["image"].shape == (LENGTH + 1, 64, 64, 3) and rows["image"].std() > 0
    assert rows["action"].shape == (LENGTH + 1, 2) and 0.1 < np.abs(rows["action"]).max() <= 1
    assert not rows["is_terminal"].any(), "a time limit is not a termination"


@need("dm_control")
@pytest.mark.slow  # the quick tests train on pixels of the same suite
def test_dmc_proprio_runs_end_to_end(tmp_path):
    metrics = run(tmp_path, "--configs", "dmc_proprio", "--task", "dmc_cup_catch")
    assert metrics.keys() >= {"position_loss", "velocity_loss"} and "image_loss" not in metrics
    assert metrics["step"][-1] == 120


@need("crafter")
def test_crafter_runs_end_to_end_and_logs_achievements(tmp_path):
    metrics = run(tmp_path, "--configs", "crafter")
    for mode in ("train", "eval"):
        achievements = [n for n in metrics if n.startswith(f"max_{mode}_log_achievement_")]
        assert len(achievements) == 22, f"{mode} logs {len(achievements)} of 22 achievements"
        assert all(v == int(v) >= 0 for n in achievements for v in metrics[n])
        # Crafter's reward is 1 for each achievement unlocked, and 0.1 for each change of health.
        assert metrics[f"sum_{mode}_log_reward"] == pytest.approx(metrics[f"{mode}_return"])
    assert "discount_loss" in metrics


@need("dm_control")
@pytest.mark.parametrize(
    ("task", "image", "vector"),
    [
        ("dmc_manip_reach_site", "front_close", "jaco_arm/joints_vel"),
        ("dmc_locom_rodent_two_touch", "walker/egocentric_camera", "walker/joints_pos"),
    ],
)
@pytest.mark.slow  # the simulation of such a body takes most of the time
def test_keys_with_a_slash_pass_through_the_whole_run(task, image, vector, tmp_path):
    arguments = ["--configs", "small", "--task", task, "--log_keys_mean", re.escape(vector)]
    arguments += ["--log_keys_video", image, f"--loss_scales.{vector}", "0.5"]
    for steps in (50, 60):  # the second run continues the first
        metrics = run(tmp_path, *arguments, steps=steps)
        names = {f"{image}_loss", f"{vector}_loss", f"mean_train_{vector}", "image_loss"}
        assert metrics.keys() >= names
        assert metrics["step"][-1] == steps
    rows = episodes(tmp_path / "run")[0]
    assert rows[image].ndim == 4 and rows[vector].ndim == 2
    events = b"".join(path.read_bytes() for path in (tmp_path / "run").glob("events*"))
    assert f"train_policy_{image}".encode() in events, "the video did not reach TensorBoard"
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    with np.load(newest / "variables.npz") as file:
        assert any(vector in name for name in file), "the checkpoint lacks this key's decoder"
