"""--mode eval and --mode dream on a tiny run of a real game."""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from commandline import FLAGS
from logs import video_frames

from dreamerv2 import evaluate, rundir
from dreamerv2 import train as trainer
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import vectorize
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.common.run.lock import RunLock
from dreamerv2.common.video import overlay
from dreamerv2.train import main

STEP = 60 * 4  # of the last checkpoint, in frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training, 30 agent steps an episode, with checkpoints at steps 41 and 60."""
    logdir = tmp_path_factory.mktemp("modes") / "run"
    main(["--logdir", str(logdir), "--configs", "atari", "--precision=32", *FLAGS])
    assert [p.name for p in sorted((logdir / "checkpoints").iterdir())][-1] == f"{60:012d}"
    return logdir


def mistake(capsys, *argv: str) -> str:
    """Run the command line, which must end with status 2 and one sentence; return that."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith("Error: ") and "Traceback" not in error, error
    return error


def lines(logdir: Path) -> list[dict]:
    return [json.loads(line) for line in (logdir / "eval.jsonl").read_text().splitlines()]


def fingerprints(logdir: Path) -> dict[str, str]:
    """Hash every file of a run."""
    files = [path for path in sorted(logdir.rglob("*")) if path.is_file()]
    return {str(p.relative_to(logdir)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


# --- eval ---


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """An evaluation by the command of the README, while the run is locked by its training."""
    logdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, logdir)
    with RunLock(logdir), contextlib.redirect_stdout(io.StringIO()) as printed:
        before = fingerprints(logdir)
        main(["--logdir", str(logdir), "--mode", "eval", "--eval_eps", "5", "--envs", "2"])
        after = fingerprints(logdir)
    return logdir, printed.getvalue(), before, after


def test_eval_plays_exactly_the_episodes_asked_for_and_sums_up(evaluated):
    logdir, printed, before, after = evaluated
    *episodes, summary = lines(logdir)
    assert [line["episode"] for line in episodes] == [1, 2, 3, 4, 5]
    assert all(line["eval_length"] == 30 for line in episodes), "the run's time_limit counts"
    assert all(line["step"] == STEP and line["task"] == "atari_pong" for line in episodes)
    returns = sorted(line["eval_return"] for line in episodes)
    assert summary["mean"] == pytest.approx(sum(returns) / 5)
    assert [summary[key] for key in ("min", "median", "max")] == returns[::2]
    for words in ("mean", "standard error", "median", "min", "max"):
        assert words in printed, f"the output lacks: {words}"
    assert "normalized" not in summary, "no point in 30 steps looks half human"
    assert "Episodes end after 30 agent steps here" in printed
    added = {name for name in after if name not in before}
    assert {name: after.get(name) for name in before} == before, "a file of the run was changed"
    assert all(name == "eval.jsonl" or name.startswith("videos") for name in added), added


class Unreliable(gymnasium.Env):
    """In its second step it fails or hangs, but only once in all."""

    observation_space = gymnasium.spaces.Dict(
        {"image": gymnasium.spaces.Box(0, 255, (64, 64, 1), np.uint8)}
    )
    action_space = OneHotSpace(6)
    render_mode = "rgb_array"

    def __init__(self, failed, how):
        self.failed, self.how, self.count = failed, how, None

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        if self.count == 2 and not self.failed.exists():
            self.failed.touch()
            if self.how == "hang":
                time.sleep(1000)
            raise RuntimeError("a bug of the environment")
        return self.observe(), 1.0, self.count == 4, False, {}

    def render(self):
        if self.count is None:
            raise RuntimeError("there is nothing to show before a reset")
        return np.full((40, 60, 3), 50 * self.count, np.uint8)

    def observe(self):
        return {"image": np.full((64, 64, 1), self.count, np.uint8)}


def evaluate_unreliable(run, tmp_path, monkeypatch, how, parallel, restarts):
    """Play two episodes of it with what was learned of Pong; returns the folder of results."""
    make = functools.partial(Unreliable, tmp_path / "failed", how)

    def task_envs(config):
        changed = config.update({"env_restarts": restarts})
        return lambda mode, count, seeds: vectorize([make] * count, parallel, changed, seeds)

    monkeypatch.setattr(trainer, "task_envs", task_envs)
    out = ["--logdir", str(tmp_path / "out"), "--checkpoint", str(run)]
    main([*out, "--mode", "eval", "--eval_eps", "2", "--envs", "1"])
    return tmp_path / "out"


def test_a_failure_in_a_filmed_episode_ends_neither_evaluation_nor_film(run, tmp_path, monkeypatch):
    out = evaluate_unreliable(run, tmp_path, monkeypatch, "raise", "none", restarts=1)
    *episodes, summary = lines(out)
    assert [line["eval_length"] for line in episodes] == [2, 4] and summary["episodes"] == 2
    gifs = sorted((out / "videos").glob("*.gif"))
    assert [len(video_frames(gif)) for gif in gifs] == [2, 5], "one frame of each row that was seen"


@pytest.mark.slow
def test_a_stopped_evaluation_does_not_wait_for_a_hung_worker(run, tmp_path, monkeypatch):
    hangs, over, began = tmp_path / "failed", threading.Event(), []

    def stop_when_it_hangs():
        while not (hangs.exists() or over.wait(0.05)):
            pass
        if not over.is_set():
            began.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_it_hangs)
    thread.start()
    try:
        out = evaluate_unreliable(run, tmp_path, monkeypatch, "hang", "process", restarts=0)
    finally:
        over.set()
        thread.join()
    assert time.monotonic() - began[0] < 15
    assert not (out / "eval.jsonl").exists(), "an episode that was cut off is no result"


def summary_of(tmp_path, task, limit, *scores):
    """Return the last line of eval.jsonl after episodes of 30 steps with these scores."""
    results = evaluate.Results(evaluate.Run(tmp_path, task, 400), limit)
    for score in scores:
        for t in range(31):
            reward = np.float32(score * (t == 30))
            results({"reward": reward, "is_first": t == 0, "is_last": t == 30}, 0)
    results.conclude()
    return lines(tmp_path)[-1]


@pytest.mark.parametrize(("limit", "compared"), [(0, True), (31, True), (30, False)])
def test_whole_episodes_are_compared_with_a_human(limit, compared, tmp_path, capsys):
    summary, printed = summary_of(tmp_path, "atari_pong", limit, -7), capsys.readouterr().out
    assert ("a human 14.6" in printed) == ("normalized" in summary) == compared
    if compared:
        assert (summary["random"], summary["human"]) == (-20.7, 14.6)
        assert summary["normalized"] == pytest.approx((-7 + 20.7) / (14.6 + 20.7))
    else:
        assert "no comparison" in printed and "are not known" not in printed


def test_the_standard_error_by_hand(tmp_path, capsys):
    summary = summary_of(tmp_path, "gym_X", 0, 1, 2, 3, 6)  # deviations -2 -1 0 3
    assert summary["stderr"] == pytest.approx((14 / 3) ** 0.5 / 2)
    assert (summary["mean"], summary["median"], summary["length_mean"]) == (3, 2.5, 30)
    assert summary_of(tmp_path, "gym_X", 0, 1)["stderr"] is None, "one episode has no spread"
    printed = capsys.readouterr().out
    assert "not known for this task" in printed and "unknown (one episode)" in printed


def test_frames_are_those_of_the_training(tmp_path):
    """Whatever --action_repeat an evaluation plays with."""
    defaults = Config(paths.load_configs()["defaults"])
    trained = defaults.update({"logdir": str(tmp_path), "action_repeat": 4})
    trained.save(tmp_path / "config.yaml")
    assert rundir.frames(trained.update({"action_repeat": 2}), 500) == 2000
    alone = trained.update({"logdir": str(tmp_path / "else"), "action_repeat": 3})
    assert rundir.frames(alone, 500) == 1500, "there is no run to ask"


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_eval_films_at_the_native_resolution(evaluated, suffix):
    video = evaluated[0] / "videos" / f"eval_{STEP:012d}_1.{suffix}"
    shown = video_frames(video)
    assert len(shown) == 31, "the first frame and one for every step"
    height, width = shown[0].shape[:2]
    assert width == 160 and 210 < height < 240, "the picture, and a strip for the score below it"
    strip = shown[0][210:].astype(int)
    assert strip.max() > 150 and np.median(strip) < 60, "the strip holds light writing on dark"
    assert (shown[0][:210, :, 0].astype(int) - shown[0][:210, :, 2] > 50).mean() > 0.5, (
        "Pong has an orange field: this is not what the agent sees"
    )


def test_eval_takes_another_checkpoint(run, capsys):
    version = sorted((run / "checkpoints").iterdir())[0]
    assert int(version.name) < 60
    main(["--checkpoint", str(version), "--mode", "eval", "--time_limit", "3"])
    assert f"after {int(version.name) * 4} frames" in capsys.readouterr().out
    assert lines(run)[-1]["length_mean"] == 3, "a flag wins over the run's own config"


def test_the_precision_of_the_training_does_not_matter(run, tmp_path, capsys):
    step, arrays, state = Checkpoint(run / "checkpoints").load()
    arrays["task/actor_opt/loss_scale"] = np.float32(2**15)  # as of a training in float16
    Checkpoint(tmp_path / "checkpoints").save(step, arrays, state)
    shutil.copy(run / "config.yaml", tmp_path)
    main(["--logdir", str(tmp_path), "--mode", "eval", "--time_limit", "3"])
    assert f"atari_pong after {STEP} frames" in capsys.readouterr().out


def test_optimizer_state_is_told_from_an_observation_with_such_a_name():
    loaded = {}
    arrays = {"world_model/encoder/foo_opt/kernel": np.ones(()), "task/actor_opt/step": np.ones(())}

    class Agent:
        def expected(self):
            return dict.fromkeys(arrays, ((), float))

        def save(self):
            return {name: np.zeros(()) for name in arrays}, {}

        def load(self, arrays, draws):
            loaded.update(arrays)

    rundir.load_weights(Agent(), rundir.Weights(0, arrays, {}))
    assert [*loaded.values()] == [1, 0]


# --- dream ---


@pytest.fixture(scope="module")
def dreamed(run, tmp_path_factory):
    """Dreams of a run whose environment cannot be made here."""
    logdir = tmp_path_factory.mktemp("dreamed") / "run"
    shutil.copytree(run, logdir, ignore=shutil.ignore_patterns("videos"))
    text = (logdir / "config.yaml").read_text()
    (logdir / "config.yaml").write_text(text.replace("task: atari_pong", "task: custom_Mine"))
    before = fingerprints(logdir)
    # Its steps are those of the training, in frames, also with another action repeat.
    main(["--logdir", str(logdir), "--mode", "dream", "--action_repeat", "2"])
    after = fingerprints(logdir)
    assert {name: after.get(name) for name in before} == before, "a file of the run was changed"
    return {path.name: path for path in (logdir / "videos").iterdir()}


def test_dream_shows_real_frames_beside_open_loop_predictions(dreamed, run):
    pytest.importorskip("av", reason="the extra video is not installed")
    shown = video_frames(dreamed[f"dream_{STEP:012d}_image_openloop.mp4"])
    assert len(shown) == 31, "all rows of an episode, as it is shorter than 50"
    strip = overlay.caption("", 10).shape[0]
    first = shown[0][strip : strip + 128, :128].astype(float)
    newest = sorted((run / "eval_episodes").glob("*.npz"))[-1]
    real = overlay.enlarge(np.load(newest)["image"][0], 2).astype(float)
    assert np.abs(first - real).mean() < 5, "the upper left picture is the newest episode's first"


def test_dream_shows_an_imagined_rollout_with_its_curves(dreamed):
    pytest.importorskip("av", reason="the extra video is not installed")
    shown = video_frames(dreamed[f"dream_{STEP:012d}_image_imagined.mp4"])
    assert len(shown) == 51, "the start and fifty imagined steps"
    below = [frame[17 + 128 :] for frame in shown]
    blue = [((f[..., 2].astype(int) - f[..., 0]) > 60).sum() for f in below]
    assert blue[50] > 3 * blue[5] > 0, "the curves grow while the rollout goes on"
    assert {path.suffix for path in dreamed.values()} == {".gif", ".mp4"}


# --- mistakes ---


@pytest.mark.parametrize("mode", ["eval", "dream"])
def test_without_a_run_or_checkpoint_it_is_a_sentence(mode, run, tmp_path, capsys):
    assert "There is no run in" in mistake(capsys, "--logdir", str(tmp_path), "--mode", mode)
    assert "Which run" in mistake(capsys, "--mode", mode)
    shutil.copy(run / "config.yaml", tmp_path)
    error = mistake(capsys, "--logdir", str(tmp_path), "--mode", mode)
    assert "There is no checkpoint in" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_another_architecture_is_a_sentence(run, capsys):
    error = mistake(capsys, "--logdir", str(run), "--mode=eval", "--rssm.deter", "24")
    assert "another architecture" in error
    assert "[32, 16] in the checkpoint, [40, 16] in this model" in error, error


def test_other_mistakes_are_sentences_too(run, tmp_path, capsys):
    assert "eval_eps" in mistake(capsys, "--logdir", str(run), "--mode=eval", "--eval_eps=0")
    assert "--mode evil" in mistake(capsys, "--logdir", str(run), "--mode=evil")
    broken = tmp_path / "checkpoints" / "000000000060"
    shutil.copytree(run / "checkpoints" / broken.name, broken)
    (broken / "state.json").write_text("{}")
    error = mistake(capsys, "--logdir", str(run), "--mode=eval", "--checkpoint", str(broken))
    assert "is damaged" in error
    (tmp_path / "videos").touch()
    flags = ["--checkpoint", str(run), "--mode=eval", "--eval_eps=1"]
    error = mistake(capsys, "--logdir", str(tmp_path), *flags)
    assert "videos: File exists" in error and "a folder of yours as --logdir" in error


@pytest.mark.parametrize("mode, then", [("train", "continues the run"), ("eval", "begins anew")])
def test_an_interrupt_says_what_the_same_command_does(mode, then, run, monkeypatch, capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamerv2.train.run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["--logdir", str(run), "--mode", mode])
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"Stopped at once. The same command {then}.\n"


def test_a_run_named_by_a_date_is_no_checkpoint(run, tmp_path):
    dated = tmp_path / "20240601120000"
    shutil.copytree(run, dated)
    config = Config.load(dated / "config.yaml")
    for changes in ({"logdir": str(dated)}, {"checkpoint": str(dated)}):
        assert rundir.read_weights(config.update({"mode": "eval", **changes})).step == 60
