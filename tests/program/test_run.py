"""Real runs through the command line: what they leave, how they continue, how they stop."""

import bdb
import contextlib
import inspect
import io
import json
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from commandline import TINY, finish, run_here, start
from PIL import Image
from reliable import read_checkpoint, steps_on_disk

PONG = ["--configs", "atari", "debug", "--task", "atari_pong", "--time_limit", "60", *TINY]
PONG += ["--prefill", "60", "--eval_every", "120", "--log_every", "50", "--train_every", "40"]
PONG += ["--dataset.batch", "6"]
# Vector observations cost less than images; --jit False spares the compilation.
QUICK = ["--configs", "debug", *TINY, "--prefill", "60", "--time_limit", "40"]
QUICK += ["--train_every", "20", "--eval_every", "100", "--log_every", "100", "--steps", "200"]
LOGGED = {
    *("train_return", "train_length", "eval_return", "eval_length", "train_total_steps"),
    *("model_loss", "image_loss", "image_mse", "kl_loss", "reward_loss", "discount_loss"),
    *("actor_loss", "actor_ent", "critic_loss", "critic_target", "model_grad_norm", "fps"),
    *("model_kl", "prior_ent", "post_ent", "actor_grad_norm", "critic_grad_norm"),
    *("eval_openl_image_error_5", "eval_openl_image_error_15", "eval_openl_image_error_all"),
    *("eval_unexplained_image_post", "eval_unexplained_image_openl"),
    *("eval_value", "eval_value_actual", "eval_value_error", "actor_choices", "actor_top_share"),
}


def read_metrics(logdir):
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (logdir / "metrics.jsonl").open()]


def episodes(logdir):
    """Return file name -> content of the stored training episodes."""
    return {path.name: path.read_bytes() for path in (logdir / "train_episodes").glob("*.npz")}


def wait_for(process, text):
    """Read a process's output up to the line that holds the text."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError(f"'{text}' never came:\n{''.join(seen[-30:])}{process.stderr.read()}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run directory `a`, as it was when the run had ended (copied to `b`), then continued."""
    folder = tmp_path_factory.mktemp("runs")
    command = [*PONG, "--steps", "200", "--seed", "3", "--logdir", folder / "a"]
    result = finish(start(*command, cwd=folder))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    shutil.copytree(folder / "a", folder / "b")
    before = {
        "metrics": read_metrics(folder / "a"),
        "state": read_checkpoint(folder / "a"),
        "episodes": episodes(folder / "a"),
        "eval": sorted(path.name for path in (folder / "a/eval_episodes").iterdir()),
    }
    with contextlib.redirect_stdout(io.StringIO()) as continued:
        run_here(*command, "--steps", "250")
    return folder, (result, continued.getvalue()), before


# --- what a run leaves ---


def test_metrics_hold_what_people_plot(runs):
    lines = runs[2]["metrics"]
    missing = LOGGED - set().union(*lines)
    assert not missing, f"metrics.jsonl lacks {missing}"
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["step"] == 800, "200 agent steps are 800 frames"
    assert [line["step"] for line in lines if "train_return" in line] == [240, 480, 720]
    assert [line["step"] for line in lines if "eval_return" in line] == [240, 720]


def test_tensorboard_shows_scalars_videos_and_the_config(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs[0] / "b"), {"images": 0, "tensors": 0, "scalars": 0})
    tags = events.Reload().Tags()
    assert set(tags["scalars"]) >= LOGGED
    shapes = {
        "eval_unexplained_image": (1, 64, 128),
        "train_policy_image": (61, 64, 64),
        "eval_policy_image": (61, 64, 64),
        "eval_openl_image": (10, 192, 384),
    }
    for tag, (length, *size) in shapes.items():
        video = Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string))
        assert [video.height, video.width] == size, f"{tag} is no such video"
        # Equal frames in a row are stored as one.
        assert length / 2 < video.n_frames <= length, f"{tag} is no such video"
    video.seek(7)
    truth, model, error = np.split(np.asarray(video.convert("L"), float), 3)
    assert truth.std() > 5, "no picture of the game"
    np.testing.assert_allclose(error, (model - truth + 255) / 2, atol=6)
    (text,) = events.Tensors("config")[0].tensor_proto.string_val
    assert b"rssm.hidden" in text and b"atari_pong" in text
    assert text.count(b"```") == 2, "the config is not one block of text"


def test_run_leaves_episodes_and_at_most_two_checkpoints(runs):
    folder, _, before = runs
    assert sorted(int(name[-7:-4].strip("-")) for name in before["episodes"]) == [20, 60, 60, 60]
    assert len(before["eval"]) == 3, "one random episode and two evaluations"
    for name in before["eval"]:
        with np.load(folder / "a/eval_episodes" / name) as file:
            assert "value" not in file, "the critic's value is no part of an episode"
    assert [path.name for path in sorted((folder / "b/checkpoints").iterdir())] == [
        *("000000000061", "000000000200")
    ]
    assert before["state"][0] == 200


def test_run_prints_its_phases_and_its_config(runs):
    result = runs[1][0]
    for text in (
        "Prefill with random actions: 60 agent steps = 240 frames.",
        "Training: 1 update(s) per 40 agent steps = 160 frames",
        "Prefill: 60 agent steps",
        "Done: 200 agent steps.",
        "rssm.hidden",
    ):
        assert text in result.stdout
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) < 15, result.stderr


# --- continuing, seeds ---


def test_same_command_continues(runs):
    folder, (_, printed), before = runs
    logdir = folder / "a"
    assert "Continuing from agent step 200." in printed and "Done: 250 agent steps." in printed
    assert "Prefill:" not in printed, "it filled the replay again"
    assert read_metrics(logdir)[: len(before["metrics"])] == before["metrics"], "history changed"
    steps = [line["step"] for line in read_metrics(logdir)]
    assert steps == sorted(set(steps)) and steps[-1] == 1000
    assert episodes(logdir).items() > before["episodes"].items(), "the replay is another one"
    assert steps_on_disk(logdir) == 250
    (_, then, old), (step, now, new) = before["state"], read_checkpoint(logdir)
    # Pretraining, then one at 61, 101, ... below or at the last step.
    assert (step, old["updates"], new["updates"]) == (250, 1 + 4, 1 + 5)
    counters = [(int(then[k]), int(now[k])) for k in then if k.endswith("_opt/step")]
    assert counters == [(5, 6)] * 3, "an optimizer started anew"


# --- stopping, locking ---


def test_sigterm_saves_all_and_a_second_process_is_refused(tmp_path, capsys):
    command = [*QUICK, *CARTPOLE, "--steps", "100000", "--logdir", tmp_path]
    process = start(*command, cwd=tmp_path)
    try:
        wait_for(process, "eval_return")  # The loop is under way.
        config = (tmp_path / "config.yaml").read_bytes()
        refused = finish(start(*command, "--seed", "7", cwd=tmp_path))
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        stopped = finish(process, timeout=30)
        took = time.monotonic() - begin
    finally:
        process.kill()

    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert f"process {process.pid} on {socket.gethostname()}" in refused.stderr
    assert (tmp_path / "config.yaml").read_bytes() == config, "the refused one wrote the config"

    assert stopped.returncode == 0 and took < 15, f"it took {took:.1f} s to stop"
    step, _, state = read_checkpoint(tmp_path)
    said = f"Stopped at agent step {step:,}, all saved. The same command continues"
    assert said in stopped.stdout
    assert 0 <= step - steps_on_disk(tmp_path) < 9, (
        "steps were lost, other than a too short episode"
    )
    assert not list((tmp_path / "train_episodes").glob("*.journal"))

    run_here(*command, "--steps", step + 30)
    assert f"Continuing from agent step {step:,}." in capsys.readouterr().out
    later, _, state_later = read_checkpoint(tmp_path)
    assert later == step + 30 and state_later["updates"] > state["updates"]


# --- the other ways to run, in this process ---


CARTPOLE, PENDULUM = ["--task", "gym_CartPole-v1"], ["--task", "gym_Pendulum-v1"]
SHORT = ["--replay.minlen", "5", "--dataset.length", "5", "--dataset.batch", "4", "--prefill", "30"]
SHORT += ["--time_limit", "20", "--train_every", "20", "--eval_every", "40", "--log_every", "20"]
# Every option is in one of the variants at least; the oracles of tests/method prove the results.
VARIANTS = {
    "model_loss, three environments": [
        *(*CARTPOLE, "--precision", "16", "--expl_behavior", "model_loss"),
        *("--envs", "3", "--eval_eps", "4"),
    ],
    # The disagreement of few models in 16 bit is often exactly 0, where a root has no slope.
    "continuous plan2explore, action noise, mixed gradients, whole episodes": [
        *(*PENDULUM, "--precision", "bfloat16", "--expl_behavior", "plan2explore"),
        *("--expl_noise", "0.3", "--eval_noise", "0.1", "--actor_grad", "both"),
        *("--replay.maxlen", "0", "--replay.ongoing", "True"),
    ],
    "normal latents, worker processes": [
        *(*CARTPOLE, "--precision", "32", "--rssm.discrete", "0", "--actor_grad", "dynamics"),
        *("--eval_state_mean", "True", "--envs", "2", "--envs_parallel", "process"),
    ],
    "random until, ensemble, schedule": [
        *(*CARTPOLE, "--expl_behavior", "random", "--expl_until", "50", "--rssm.ensemble", "3"),
        *("--pred_discount", "False", "--actor_ent", "linear(1,0,50)"),
        *("--grad_heads", "decoder", "reward"),
    ],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_runs_to_its_end(variant, tmp_path, capsys):
    run_here(*QUICK, *SHORT, *VARIANTS[variant], "--steps", "70", "--logdir", tmp_path)
    assert "Done: 7" in capsys.readouterr().out, "the run ended early"
    lines = read_metrics(tmp_path)
    for name in ("train_return", "eval_return", "model_loss", "actor_loss", "critic_loss"):
        values = [line[name] for line in lines if name in line]
        assert values and values[-1] is not None and np.isfinite(values[-1]), f"{name}: {values}"
    assert len(list((tmp_path / "checkpoints").iterdir())) <= 2


class Debugger(bdb.Bdb):
    """Stops at a line of world_model.loss as pdb does, and looks around there."""

    def __init__(self):
        super().__init__()
        self.stops = []

    def user_line(self, frame):
        if frame.f_code.co_name == "loss":
            import tensorflow as tf

            total = float(frame.f_locals["total"]) if "total" in frame.f_locals else None
            self.stops.append((tf.executing_eagerly(), total))
        self.set_continue()


def test_a_breakpoint_in_the_world_model_stops_without_jit(tmp_path):
    from dreamerv2 import world_model

    lines, first = inspect.getsourcelines(world_model.WorldModel.loss)
    last = first + len(lines) - 1  # `return total, ...`: all values are there to be looked at
    debugger = Debugger()
    assert debugger.set_break(world_model.__file__, last) is None, "no code in that line"
    command = [*QUICK, *SHORT, *CARTPOLE, "--steps", "40", "--jit", "False", "--logdir", tmp_path]
    debugger.runcall(run_here, *command)
    assert len(debugger.stops) == read_checkpoint(tmp_path)[2]["updates"] == 2
    assert all(eager and np.isfinite(total) for eager, total in debugger.stops)


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path):
    command = [*QUICK, *SHORT, *CARTPOLE, "--steps", "40"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_here(*command, "--seed", seed, "--logdir", tmp_path / name)
    a, b, c = (read_metrics(tmp_path / name) for name in "abc")
    for line in a + b:
        line.pop("fps", None)  # depends on the wall clock
    assert a == b, "two runs of one seed differ"
    weights = [read_checkpoint(tmp_path / name)[1] for name in "ab"]
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    losses = [[line["model_loss"] for line in x if "model_loss" in line] for x in (a, c)]
    assert not set(losses[0]) & set(losses[1]), "the seed changes nothing"
