"""The resources of a training run, and its phases beside the loop of train.py."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common import seeding
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import adapter, spaces
from dreamerv2.common.errors import NotFinite, NothingToSample, UserError
from dreamerv2.common.logger.episodes import EpisodeLog, counts
from dreamerv2.common.logger.jsonl import JSONLOutput
from dreamerv2.common.logger.logger import Logger, Output
from dreamerv2.common.logger.tensorboard import TensorBoardOutput
from dreamerv2.common.logger.terminal import EpisodeProgress, Progress, TerminalOutput
from dreamerv2.common.replay.replay import Replay
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.common.run.driver import Driver, RandomPolicy
from dreamerv2.common.run.signals import StopRequest
from dreamerv2.common.run.when import Counter, Every, EverySeconds
from dreamerv2.diagnostics import Calibration
from dreamerv2.learner import Learner, match_variables, save_arrays

REPORTED = 16  # sequences that are predicted in an evaluation


class Runner:
    """Opens and closes a run: replay, logger, environments, agent and checkpoints.

    A context manager. Its arguments are those of train.train.

    Attributes:
        step: Counter of agent steps.
        driver: takes agent steps, one in every training environment at once.
        stop: true after a signal.
    """

    def __init__(
        self,
        config: Config,
        make_envs: Callable[[str, int, list[int]], gymnasium.vector.VectorEnv],
        make_agent: Callable[..., Any],
        outputs: Sequence[Output] | None = None,
    ):
        self._config, self._logdir = config, Path(config.logdir).expanduser()
        self._make_envs, self._make_agent, self._outputs = make_envs, make_agent, outputs
        self._schedulers: dict[str, Every | EverySeconds] = {}
        self._bar: Progress | None = None
        self._resumed = False

    def __enter__(self) -> "Runner":
        # Both close in reverse order, also where the next resource cannot be opened.
        with contextlib.ExitStack() as opened:
            self._open_replays(opened)
            self._open_logger(opened)
            self._open_envs(opened)
            with contextlib.ExitStack() as stack:
                self.stop = stack.enter_context(StopRequest(self._train_envs, self._eval_envs))
                stack.push(opened.pop_all())
                self._make_learner()
                self._opened = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *trace: object) -> None:
        with self._opened:
            if isinstance(error, NotFinite):
                step = self.step.value
                file = save_arrays(self._logdir / f"failed_observation_{step}.npz", error.values)
                raise UserError(
                    f"At agent step {step}: {error} The values are in {file}."
                ) from error

    def _open_replays(self, opened: contextlib.ExitStack) -> None:
        config, logdir = self._config, self._logdir
        self._replay = make_replay(config, logdir / "train_episodes")
        opened.callback(self._replay.close)
        # Videos show sequences as long as a batch, or whole episodes where these are shorter.
        lengths = {"minlen": 1, "maxlen": config.dataset.length}
        self._eval_replay = make_replay(config, logdir / "eval_episodes", 0.1, **lengths)
        opened.callback(self._eval_replay.close)
        self._checkpoint = Checkpoint(logdir / "checkpoints")
        self._loaded = self._checkpoint.load()
        saved_step = self._loaded[0] if self._loaded else 0
        self.step = Counter(max(saved_step, self._replay.steps_taken))

    def _open_logger(self, opened: contextlib.ExitStack) -> None:
        config, step, outputs = self._config, self.step, self._outputs
        if outputs is None:
            args = self._logdir, step.value * config.action_repeat
            outputs = [TerminalOutput(), JSONLOutput(*args), TensorBoardOutput(*args)]
        self._logger = Logger(step, outputs, config.action_repeat)
        opened.callback(self._logger.close)
        keys = {name: config[f"log_keys_{name}"] for name in ("sum", "mean", "max", "video")}
        args = self._logger, step, config.eval_every, keys
        self._train_log = EpisodeLog("train", *args, more=lambda: counts(self._replay.stats))
        self._eval_log = EpisodeLog("eval", *args)
        self.register("train_video", self._train_log.should_video)
        self.register("eval_video", self._eval_log.should_video)

    def _open_envs(self, opened: contextlib.ExitStack) -> None:
        def open_envs(mode: str, count: int) -> gymnasium.vector.VectorEnv:
            seed, step = self._config.seed, self.step.value
            seeds = [seeding.integer(seed, "env", mode, i, step) for i in range(count)]
            envs = self._make_envs(mode, count, seeds)
            opened.callback(envs.close)
            return envs

        count = self._config.envs
        self._train_envs = open_envs("train", count)
        self._eval_envs = open_envs("eval", max(1, min(count, self._config.eval_eps)))
        self.driver = Driver(self._train_envs, [self._collect])

    def _make_learner(self) -> None:
        """Make the agent, which may refuse spaces and weights, before anything is printed."""
        config, envs = self._config, self._train_envs
        described = spaces.describe(envs.single_observation_space, envs.single_action_space)
        self.agent = self._make_agent(config, *described)
        if self._loaded:
            match_variables(self.agent, self._loaded[1])
        if self.step.value:
            print(f"Continuing from agent step {self.step.value:,}.", flush=True)
            if not self._loaded:
                print("There is no checkpoint: the weights begin anew.", flush=True)
            elif not self._replay.stats["loaded_steps"]:
                print("The replay is empty: random actions refill it with an episode.", flush=True)
        self._logger.text("config", str(config))
        self._replay.record_missing_steps(self.step.value)
        self._replay.prune()
        self._eval_replay.prune()
        data = self._replay.dataset(**config.dataset, place=self.agent.place)
        self._report_data = self._eval_replay.dataset(REPORTED, config.dataset.length)
        self.learner = Learner(self.agent, data, self._logdir)

    def register(self, name: str, scheduler: Every | EverySeconds) -> Every | EverySeconds:
        """Return the scheduler, which checkpoints now save and restore."""
        self._schedulers[name] = scheduler
        return scheduler

    # --- callbacks of the driver ---

    def _collect(self, row: dict[str, np.ndarray], index: int) -> None:
        self._replay.add_step(row, index)  # first: the counter must not exceed the experience
        self.step.increment(not row["is_first"])
        self._train_log(row, index)
        if self._bar:
            self._bar.update(self._config.action_repeat * (not row["is_first"]))
            if row["is_last"]:
                self._bar.show(**self._train_log.latest)

    def _log_evaluation(self, row: dict[str, np.ndarray], index: int) -> None:
        if not self.stop:  # which may have cut the episode
            self._eval_log(row, index)

    # --- phases ---

    def prefill(self) -> None:
        """Collect random actions until `prefill` steps AND an episode to learn from."""
        config, replay, step = self._config, self._replay, self.step
        if step >= config.prefill and replay.ready:
            return
        seed = seeding.integer(config.seed, "prefill", step.value)
        random = RandomPolicy(self._train_envs.single_action_space, seed)
        with Progress("Prefill", config.prefill, "agent steps", step.value) as bar:
            while not self.stop and (step < config.prefill or not replay.ready):
                self.driver(random, steps=1)
                bar.update(config.envs)
                if step >= config.prefill:
                    replay.check_prefill_progress()
        # This driver logs nothing, because the return of random actions is not the agent's score.
        with EpisodeProgress("Random evaluation", 1) as progress:
            driver = Driver(self._eval_envs, [self._eval_replay.add_step, progress])
            driver(random, episodes=1, stop=self.stop)
        self._restart_episodes()

    def resume(self) -> None:
        """Continue from a checkpoint, if any; do nothing if the prefill was stopped."""
        if self.stop:
            return
        if self._loaded:
            _, arrays, state = self._loaded
            self.learner.load(arrays, state)
            for name, scheduler in self._schedulers.items():
                scheduler.restore(state["schedules"].get(name, {}))
        self._loaded = None  # frees arrays as large as the agent
        self._resumed = True
        self._config.save(self._logdir / "config.yaml")  # which the checkpoint fits
        adapter.save(self._logdir, self._train_envs)

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Show the progress of the training, in frames, and the last return."""
        total, done = (int(n) * self._config.action_repeat for n in (self._config.steps, self.step))
        with Progress("Training", total, done=done) as self._bar:
            yield
        self._bar = None

    def evaluate(self) -> bool:
        """Log predictions and `eval_eps` episodes; return False if a stop cut them short."""
        if self._eval_replay.ready:
            with contextlib.suppress(NothingToSample):  # the replay has reported the damage
                self._logger.add(self.agent.report(next(self._report_data)), prefix="eval")
        policy = functools.partial(self.agent.policy, step=self.step.value, mode="eval")
        config, episodes = self._config, self._config.eval_eps
        calibration = Calibration(policy, config.discount, config.clip_rewards)
        with EpisodeProgress("Evaluation", episodes) as progress:
            callbacks = [self._eval_replay.add_step, progress, self._log_evaluation, calibration]
            driver = Driver(self._eval_envs, callbacks)
            driver(calibration.policy, episodes=episodes, stop=self.stop)
        complete = not self.stop
        if complete:
            numbers = counts(self._eval_replay.stats) | calibration.metrics()
            self._logger.add(numbers, prefix="eval")
        self._logger.write()
        if self._eval_envs is self._train_envs and episodes:
            self._restart_episodes()
        return complete

    def _restart_episodes(self) -> None:
        """End the training episodes: other actions, or an evaluation, came in between."""
        self.driver.reset()
        self._replay.end_episodes()

    def log(self) -> None:
        """Write the metrics of the updates since the last call."""
        self._logger.add(self.learner.metrics())
        self._logger.write(fps=True)

    def save(self) -> None:
        """Save a checkpoint, after the experience that its step counts."""
        self._replay.record_missing_steps(self.step.value)
        self._replay.flush()
        self._logger.flush()
        arrays, state = self.learner.save()
        state["schedules"] = {name: each.state() for name, each in self._schedulers.items()}
        self._checkpoint.save(self.step.value, arrays, state)

    def finish(self) -> None:
        """Save everything; without a checkpoint if the prefill was stopped."""
        self._replay.end_episodes()
        if self._resumed:
            if self.learner.pending:
                self.log()
            self.save()

    @property
    def interrupted(self) -> signal.Signals | None:
        """The signal that ended the run early, if any."""
        done = self._resumed and self.step >= self._config.steps
        return None if done else self.stop.received

    @property
    def ending(self) -> str:
        """The last line of the run's output."""
        step = f"{self.step.value:,}"
        if self.interrupted:
            return f"Stopped at agent step {step}, all saved. The same command continues the run."
        return f"Done: {step} agent steps. More --steps continue the run from here."


def make_replay(config: Config, directory: Path, share: float = 1, **changes: int) -> Replay:
    """Open the replay in the directory, with a share of the config's capacity and changes."""
    seed = seeding.stream(config.seed, "replay", directory.name)
    options = {**config.replay, **changes}
    if config.replay.capacity:  # 0: no limit
        options["capacity"] = int(max(share * config.replay.capacity, config.replay.minlen))
    return Replay(directory, **options, seed=seed)
