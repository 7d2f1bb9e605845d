"""--mode eval: play episodes with a trained policy and report its scores.

    python train.py --logdir ~/logdir/atari_pong/dreamerv2/1 --mode eval --eval_eps 10

Adds a line per episode and one for all to LOGDIR/eval.jsonl, and films the first few episodes to
LOGDIR/videos. It only reads the run: training may go on in another process.
"""

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dreamerv2 import rundir
from dreamerv2.common import seeding
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs.spaces import describe
from dreamerv2.common.errors import UserError, cannot_write
from dreamerv2.common.logger.terminal import EpisodeProgress
from dreamerv2.common.results import scores
from dreamerv2.common.results.crafter import crafter_score
from dreamerv2.common.results.formats import WHOLE_GAME
from dreamerv2.common.run.driver import Driver
from dreamerv2.common.run.signals import StopRequest
from dreamerv2.common.video import overlay
from dreamerv2.common.video.writer import Film

FILMED = 3  # episodes


class Run(NamedTuple):
    """The evaluated run, as named in every line of eval.jsonl."""

    logdir: Path
    task: str
    step: int  # environment frames


def evaluate(
    config: Config,
    make_envs: Callable[[str, int, list[int]], gymnasium.vector.VectorEnv],
    make_agent: Callable[..., Any],
) -> signal.Signals | None:
    """Play `eval_eps` episodes without training; print and write their returns.

    The arguments are those of train.train. Returns the signal that stopped it, if one did.
    """
    if config.eval_eps < 1:
        raise UserError("--eval_eps 0 is not possible with --mode eval: it must be at least 1.")
    weights = rundir.read_weights(config)
    logdir = Path(config.logdir or rundir.find_run(config)).expanduser()
    run = Run(logdir, config.task, rundir.frames(config, weights.step))
    count = min(config.envs, config.eval_eps)
    seeds = [seeding.integer(config.seed, "env", "evaluation", i) for i in range(count)]
    envs = make_envs("eval", count, seeds)
    camera = Camera(envs, run)
    try:
        spaces = describe(envs.single_observation_space, envs.single_action_space)
        agent = make_agent(config, *spaces)
        rundir.load_weights(agent, weights)
        policy = functools.partial(agent.policy, step=weights.step, mode="eval")
        limit = config.time_limit
        results = Results(run, limit if limit * config.action_repeat < WHOLE_GAME else 0)
        with StopRequest(envs) as stop, EpisodeProgress("Evaluation", config.eval_eps) as progress:

            def score(row: dict[str, np.ndarray], index: int) -> None:
                if index not in envs.abandoned:  # whose episode a stop has cut
                    results(row, index)

            driver = Driver(envs, on_step=[score, progress, camera])
            driver(policy, episodes=config.eval_eps, stop=stop)
    finally:
        camera.close()
        envs.close()
    results.conclude()
    return stop.received


class Results:
    """A driver's callback that writes a line for each episode to eval.jsonl.

    limit: agent steps that end an episode sooner than those of published scores; 0: none.
    """

    def __init__(self, run: Run, limit: int):
        self._run, self._limit = run, limit
        self._rewards: dict[int, list[float]] = {}  # of the current episode of an environment
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._unlocked: list[list[bool]] = []  # achievements of Crafter, an entry per episode

    def __call__(self, row: dict[str, np.ndarray], index: int) -> None:
        if row["is_first"]:
            self._rewards[index] = []
        else:
            self._rewards[index].append(float(row["reward"]))
        if not row["is_last"]:
            return
        score, length = sum(self._rewards[index]), len(self._rewards[index])
        self._returns.append(score)
        self._lengths.append(length)
        keys = [key for key in row if key.startswith("log_achievement_")]
        self._unlocked.append([bool(row[key] > 0) for key in keys])
        number = len(self._returns)
        print(f"Episode {number}: return {score:g}, length {length:,}", flush=True)
        self._write({"episode": number, "eval_return": score, "eval_length": length})

    def conclude(self) -> None:
        """Print and write the statistics of all episodes; nothing if there was none."""
        if not self._returns:
            print("Stopped before the first episode ended.", flush=True)
            return
        summary = summarize(self._returns, self._lengths)
        if self._unlocked[0]:
            summary["crafter_score"] = float(crafter_score(100 * np.mean(self._unlocked, 0)))
        if 0 < self._limit <= max(self._lengths):
            print(
                f"Episodes end after {self._limit:,} agent steps here (--time_limit): there is no "
                "comparison with the scores of whole ones.",
                flush=True,
            )
        elif known := scores.references(self._run.task):
            random, human = known["random"], known["human"]
            summary |= {**known, "normalized": (summary["mean"] - random) / (human - random)}
        self._write(summary)
        print(report(self._run, summary), flush=True)

    def _write(self, entries: dict[str, Any]) -> None:
        line = {"step": self._run.step, "task": self._run.task, **entries}
        path = self._run.logdir / "eval.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise cannot_write(path, error) from error


def summarize(returns: list[float], lengths: list[int]) -> dict[str, Any]:
    """Return statistics; standard error = standard deviation (N - 1) / sqrt(N)."""
    count = len(returns)
    return {
        "episodes": count,
        "mean": float(np.mean(returns)),
        "stderr": float(np.std(returns, ddof=1) / np.sqrt(count)) if count > 1 else None,
        "median": float(np.median(returns)),
        "min": min(returns),
        "max": max(returns),
        "length_mean": float(np.mean(lengths)),
    }


def report(run: Run, summary: dict[str, Any]) -> str:
    """Return the result of an evaluation as text."""
    error = summary["stderr"]
    error = "unknown (one episode)" if error is None else f"{error:.2f}"
    lines = [
        f"{run.task} after {run.step:,} frames, {summary['episodes']} episode(s):",
        f"  return  mean {summary['mean']:.2f}, standard error {error}, "
        f"median {summary['median']:g}, min {summary['min']:g}, max {summary['max']:g}",
        f"  length  mean {summary['length_mean']:,.0f} agent steps",
    ]
    if "crafter_score" in summary:
        lines.append(f"  Crafter score {summary['crafter_score']:.2f}%, from the success rates")
    elif "human" in summary:
        lines.append(
            f"  random play scores {summary['random']:g}, a human {summary['human']:g}: the mean "
            f"is {summary['normalized']:.3f}, where random is 0 and human is 1"
        )
    elif not scores.references(run.task):
        lines.append("  the scores of random play and of a human are not known for this task")
    return "\n".join(lines)


class Camera:
    """Films the first episodes of environment 0 at its own resolution, scores below.

    Environments that render no images (render_mode is not rgb_array) show an image that the agent
    sees instead; without any there is no video.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, run: Run):
        self._envs, self._run = envs, run
        self._renders = envs.inner.render_mode == "rgb_array"
        spaces = envs.single_observation_space.items()
        self._images = [key for key, space in spaces if len(space.shape) == 3]
        self._works = self._renders or bool(self._images)
        self._film: Film | None = None
        self._filmed = self._length = 0
        self._score = 0.0
        if not self._renders:
            shown = f"shows the observation '{self._images[0]}'" if self._works else "is missing"
            print(f"This environment renders no images, so the video {shown}.", flush=True)

    def __call__(self, row: dict[str, np.ndarray], index: int) -> None:
        if index == 0 and self._works:
            self._try(self._take, row)

    def close(self) -> None:
        """Finish the video, also of an unfinished episode."""
        self._try(self._finish)

    def _try(self, function: Callable[..., None], *args: Any) -> None:
        """Film; after an error go on without videos, as the scores do not need them."""
        try:
            function(*args)
        except Exception as error:
            if isinstance(error, UserError) and self._film is None:  # a folder of somebody else
                raise
            if self._film:
                self._film.discard()
            self._film, self._works = None, False
            reason = str(error) or type(error).__name__
            print(f"There are no more videos: {reason.splitlines()[0]}", flush=True)

    def _take(self, row: dict[str, np.ndarray]) -> None:
        if row["is_first"] and self._filmed < FILMED:
            self._finish()
            self._filmed += 1
            self._length, self._score = -1, 0.0
            name = f"eval_{self._run.step:012d}_{self._filmed}"
            self._film = Film(self._run.logdir / "videos" / name)
        if self._film is None:
            return
        self._length += 1
        self._score += float(row["reward"])
        picture = self._envs.render([0])[0] if self._renders else row[self._images[0]]
        if isinstance(picture, str):
            raise ValueError(picture)
        if picture is not None:  # None after a failure of the environment
            picture = overlay.picture(picture)
            text = f"score {self._score:g}   step {self._length}"
            caption = overlay.caption(text, picture.shape[1])
            self._film.add(np.concatenate([picture, caption]))
        if row["is_last"]:
            self._finish()

    def _finish(self) -> None:
        paths = self._film.close() if self._film else []
        self._film = None
        if paths:
            print(f"Video: {' and '.join(map(str, paths))}", flush=True)
