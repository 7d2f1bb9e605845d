"""--mode dream: visualize open-loop predictions and imagined rollouts.

    python train.py --logdir ~/logdir/atari_pong/dreamerv2/1 --mode dream

Writes two videos for every image that the model predicts, to LOGDIR/videos:

    dream_STEP_KEY_openloop    real frames / the model, which sees CONTEXT of them and then only the
                               actions / the error
    dream_STEP_KEY_imagined    a rollout of the actor in the model from there on, with the
                               predicted reward, value and discount under each frame

It needs no environment, and only reads the run: training may go on in another process.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dreamerv2 import rundir
from dreamerv2.common import seeding
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import adapter
from dreamerv2.common.envs.spaces import describe
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.dists import fold
from dreamerv2.common.video import encode, overlay, writer

SEQUENCES, LENGTH, CONTEXT = 6, 50, 5
FPS = 8  # slow enough to read the numbers
GAP = 4  # pixels between imagined rollouts
ROWS = "truth / model / error"


def dream(config: Config, make_agent: Callable[..., Any]) -> list[Path]:
    """Write the videos and return their paths; make_agent is that of train.train."""
    weights, run = rundir.read_weights(config), rundir.find_run(config)
    replica = adapter.SpaceAdapter(*adapter.load(run), config)
    agent = make_agent(config, *describe(replica.observation_space, replica.action_space))
    rundir.load_weights(agent, weights)
    if not agent.world_model.heads["decoder"].images:
        raise UserError(
            f"The model of {run} predicts no images, so there is nothing to see: --mode dream "
            "needs a run whose decoder.cnn_keys match an image."
        )
    seed = seeding.integer(config.seed, "dream")
    data = rundir.sequences(run, LENGTH, SEQUENCES, seed)
    videos = {}
    report = agent.report(data)
    for key in agent.world_model.heads["decoder"].images:
        videos[f"{key}_openloop"] = openloop_frames(report[f"openl_{key}"])
    rollout = imagine(agent, data, LENGTH, tf.constant([seed, 0], tf.int32))
    for key, frames in rollout["images"].items():
        videos[f"{key}_imagined"] = imagined_frames(frames, rollout, config.clip_rewards)
    stem = Path(config.logdir or run).expanduser() / "videos"
    stem /= f"dream_{rundir.frames(config, weights.step):012d}"
    paths = []
    for name, frames in videos.items():
        paths += writer.save(f"{stem}_{file_name(name)}", frames, FPS)
    print("Videos:", *paths, sep="\n  ", flush=True)
    return paths


def file_name(name: str) -> str:
    """Replace characters that are special in a path; a key may hold any."""
    return re.sub(r"[^.\w-]", "_", name)


def imagine(agent: Any, data: Mapping[str, np.ndarray], length: int, seed: tf.Tensor) -> dict:
    """Imagine `length` steps with the actor from the posterior after CONTEXT rows.

    Args:
        data: batch, key -> [N, T, ...].
        seed: int32 [2].

    Returns: images, key -> [L+1, N, H, W, C] in [0, 1]; reward (clipped),
        value (of the slow critic) and discount, [L+1, N]. Entry 0 is the start state.
    """
    model, behavior = agent.world_model, agent.task_behavior
    count, context = len(data["action"]), min(CONTEXT, data["action"].shape[1] - 1)
    seen = model.preprocess({k: tf.convert_to_tensor(v[:, :context]) for k, v in data.items()})
    post = model.filter_context(seen, context, model.noise(count, context, fold(seed, 0)))
    noise = model.imagination_noise(count, behavior.discrete, fold(seed, 1), length)
    last = {key: value[:, -1] for key, value in post.items()}
    seq = model.imagine(behavior.policy, last, seen["is_terminal"][:, -1], noise)
    images, decoded = model.heads["decoder"].images, model.heads["decoder"](seq["feat"])
    return {
        "images": {k: np.clip(decoded[k].mode().numpy() + 0.5, 0, 1) for k in images},
        "reward": model.heads["reward"](seq["feat"]).mean.numpy(),
        "value": behavior.slow_critic(seq["feat"]).mode().numpy(),
        "discount": seq["discount"].numpy(),
    }


def openloop_frames(frames: np.ndarray) -> np.ndarray:
    """Enlarge an open-loop video [T, 3*H, N*W, C] and put a caption over each frame."""
    frames = _enlarged(frames, frames.shape[1] // 3)
    seen = min(CONTEXT, len(frames) - 1)
    inputs = ["the model sees the truth" if t < seen else "open loop" for t in range(len(frames))]
    return _titled(frames, [f"{ROWS}   step {t}: {text}" for t, text in enumerate(inputs)])


def imagined_frames(images: np.ndarray, rollout: dict, clip: str) -> np.ndarray:
    """Lay out imagined rollouts side by side, each with its curves below.

    Args:
        images: [T, N, H, W, C] in [0, 1].
        rollout: reward, value and discount, [T, N].
        clip: clip_rewards of the config; the model predicts clipped rewards.
    """
    images = _enlarged(images, images.shape[2])  # [T, N, H, W, 3]
    steps, count, _, width, _ = images.shape
    curves = {"reward" if clip == "identity" else f"{clip} reward": rollout["reward"]}
    curves |= {key: rollout[key] for key in ("value", "discount")}

    def column(t: int, n: int) -> np.ndarray:
        strips = [
            overlay.curve(label, values[:, n], t, overlay.span(values), width)
            for label, values in curves.items()
        ]
        return np.pad(np.concatenate([images[t, n], *strips]), ((0, 0), (0, GAP), (0, 0)))

    rows = [np.concatenate([column(t, n) for n in range(count)], 1) for t in range(steps)]
    return _titled(rows, [f"imagined step {t}" for t in range(steps)])


def _titled(frames: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Stack frames [H, W, 3], each below its title."""
    pairs = zip(titles, frames, strict=True)
    return np.stack([np.concatenate([overlay.caption(t, f.shape[1]), f]) for t, f in pairs])


def _enlarged(images: np.ndarray, height: int) -> np.ndarray:
    """Return images [..., C] as uint8 RGB, large enough for a caption."""
    return overlay.enlarge(overlay.rgb(encode.to_uint8(images)), max(1, round(128 / height)))
