"""Train DreamerV2: collect experience, learn a world model, learn behavior in imagination.

    python train.py --logdir ~/logdir/atari_pong/dreamerv2/1 --configs atari --task atari_pong

`train` is the whole loop, to be read from top to bottom; `main` is the command line.
"""

import contextlib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from dreamerv2 import rules, saved
from dreamerv2.common import envs, seeding
from dreamerv2.common.config import flags, paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import adapter, rendering, spaces
from dreamerv2.common.errors import NothingToSample, UserError
from dreamerv2.common.logger.logger import (
    EpisodeLog,
    JSONLOutput,
    Logger,
    Output,
    TensorBoardOutput,
    TerminalOutput,
    counts,
)
from dreamerv2.common.logger.progress import Progress
from dreamerv2.common.nn.importing import importing_tensorflow
from dreamerv2.common.replay.replay import Replay
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.common.run.cleanup import Cleanup
from dreamerv2.common.run.counter import Counter
from dreamerv2.common.run.driver import Driver, RandomPolicy
from dreamerv2.common.run.lock import RunLock
from dreamerv2.common.run.signals import StopRequest, terminable
from dreamerv2.common.run.when import Every, parse_every
from dreamerv2.common.stdio import lasting
from dreamerv2.health import Locate
from dreamerv2.learner import Learner, fitting

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CUSTOM = "custom_"  # begins the task's name of a library user's own environment


def train(
    config: Config,
    make_envs: Callable[[str, int, list[int]], gymnasium.vector.VectorEnv],
    make_agent: Callable[..., Any],
    outputs: Sequence[Output] | None = None,
) -> signal.Signals | None:
    """Run the loop until `steps`, continuing what the logdir holds.

    Args:
        config: of the run.
        make_envs: (mode, count, seeds) -> vector of environments; mode is train or eval.
        make_agent: (config, shapes, actions, discrete) -> agent.Agent or alike.
        outputs: where metrics go; those of make_outputs if None.

    Returns: the signal that ended it early, with everything saved; None if it ran to its end.

    Raises:
        UserError: something that the user can put right; all that was collected is saved.
    """
    logdir = Path(config.logdir).expanduser()
    replay = make_replay(config, logdir / "train_episodes", config.replay.capacity)
    eval_replay = make_replay(
        config,
        logdir / "eval_episodes",
        config.replay.capacity // 10,
        # For videos: sequences as long as a batch is, where the episodes are.
        minlen=1,
        maxlen=config.dataset.length,
    )
    checkpoint = Checkpoint(logdir / "checkpoints")
    saved_step, arrays, state = checkpoint.load() or (0, None, None)
    step = Counter(max(saved_step, replay.steps_taken))  # agent steps
    if step.value:
        print(f"Continuing from agent step {step.value:,}.", flush=True)
        if arrays is None:
            print("There is no checkpoint: the weights begin anew.", flush=True)
        elif not replay.stats["loaded_steps"]:
            print("The replay is empty: random actions refill it with an episode.", flush=True)
    frames = step.value * config.action_repeat
    outputs = make_outputs(logdir, frames) if outputs is None else outputs
    logger = Logger(step, outputs, config.action_repeat)

    seed = functools.partial(seeding.integer, config.seed)
    seeds = lambda mode, n: [seed("env", mode, i, step.value) for i in range(n)]  # noqa: E731
    eval_count = max(1, min(config.envs, config.eval_eps))
    with Cleanup(replay, eval_replay, logger) as unfinished:
        train_envs = make_envs("train", config.envs, seeds("train", config.envs))
        unfinished.add(train_envs)
        eval_envs = make_envs("eval", eval_count, seeds("eval", eval_count))
        unfinished.forget()
    # The replay comes first: the counter must never run ahead of the experience.
    count = lambda row, index: step.increment(not row["is_first"])  # noqa: E731
    driver = Driver(train_envs, on_step=[replay.add_step, count])
    eval_driver = Driver(eval_envs, on_step=[eval_replay.add_step])
    train_log, eval_log = (EpisodeLog(mode, config, logger, step) for mode in ("train", "eval"))
    driver.on_episode(lambda episode, index: train_log(episode, counts(replay.stats)))
    actions = train_envs.single_action_space

    closing = Cleanup(replay, eval_replay, train_envs, eval_envs, logger)
    with StopRequest(train_envs, eval_envs) as stop, closing, Locate(logdir, step):
        # Before anything is collected: what the model refuses must cost no experience.
        agent = make_agent(config, *spaces.describe(train_envs.single_observation_space, actions))
        if arrays is not None:
            fitting(agent, arrays)
        logger.text("config", str(config))  # a command that is refused leaves none
        replay.account(step.value)
        replay.prune()
        eval_replay.prune()

        # Prefill: random actions until there is enough to learn from.
        if step < config.prefill or not replay.ready:
            random = RandomPolicy(actions, seed("prefill", step.value))
            with Progress("Prefill", config.prefill, "agent steps", step.value) as bar:
                while not stop and (step < config.prefill or not replay.ready):
                    driver(random, steps=1)
                    bar.update(config.envs)
                    if step >= config.prefill:
                        replay.check_hope()
            if not stop:
                eval_driver(random, episodes=1, stop=lambda: bool(stop))
            if stop:
                print(ending(step.value, stopped=True), flush=True)
                return stop.received
            driver.reset()  # the policy's first episode is all its own
            replay.end_episodes()
        # From here on: the score of random actions is none of the agent's, and neither is that of
        # an episode which a stop may have cut off.
        eval_driver.on_episode(lambda episode, index: stop or eval_log(episode))

        data = replay.dataset(**config.dataset, place=agent.place)
        learner = Learner(agent, data, logdir)
        report_data = eval_replay.dataset(**config.dataset)
        should_train, should_log = Every(config.train_every), Every(config.log_every)
        should_evaluate, should_save = (
            Every(config.eval_every),
            parse_every(config.checkpoint_every),
        )
        schedules = {
            "train": should_train,
            "log": should_log,
            "evaluate": should_evaluate,
            "save": should_save,
            "train_video": train_log.should_video,
            "eval_video": eval_log.should_video,
        }

        def save() -> None:
            replay.account(step.value)
            replay.flush()  # a step counter must never run ahead of the experience on disk
            logger.flush()
            arrays, state = learner.save()
            state["schedules"] = {name: when.state() for name, when in schedules.items()}
            checkpoint.save(step.value, arrays, state)

        def log() -> None:
            logger.add(learner.metrics())
            logger.write(fps=True)

        def evaluate() -> None:
            if eval_replay.ready:
                with contextlib.suppress(NothingToSample):  # damaged, as was said
                    logger.add(agent.report(next(report_data)), prefix="eval")
            eval_driver.reset()
            policy = functools.partial(agent.policy, step=step.value, mode="eval")
            with Progress("Evaluation", config.eval_eps, "episodes") as bar:
                for begun in range(0, config.eval_eps, eval_count):
                    episodes = min(eval_count, config.eval_eps - begun)
                    eval_driver(policy, episodes=episodes, stop=lambda: bool(stop))
                    if stop:
                        break
                    bar.update(episodes)
            if stop:  # the next start plays all of it
                should_evaluate.again()
            else:
                logger.add(counts(eval_replay.stats), prefix="eval")
            logger.write()
            # A user's only environment: its training episode is lost.
            if eval_envs is train_envs and config.eval_eps:
                driver.reset()
                replay.end_episodes()

        if arrays is not None:
            learner.load(arrays, state)
            for name, when in schedules.items():
                when.restore(state["schedules"][name])
            del arrays  # as large as the agent itself
        saved.save_config(config)  # not before the checkpoint has turned out to fit
        adapter.save(logdir, train_envs)
        while learner.updates < config.pretrain and not stop:
            learner.update(step.value)

        # The loop: act, learn, look.
        total = config.steps * config.action_repeat
        with Progress("Training", total, done=step.value * config.action_repeat) as bar:
            while step < config.steps and not stop:
                if should_evaluate(step):
                    evaluate()
                    continue  # a stop may have been asked for meanwhile
                policy = functools.partial(agent.policy, step=step.value)
                before = step.value
                driver(policy, steps=1)  # one agent step in every environment
                for now in range(before + 1, step.value + 1):
                    if should_train(now):
                        for _ in range(config.train_steps):
                            learner.update(now)
                if should_log(step):
                    log()
                if should_save(step):
                    save()
                bar.update(config.envs * config.action_repeat)
                bar.show(**train_log.latest)
        replay.end_episodes()
        if learner.pending:  # what the updates since the last line were like
            log()
        save()
    stopped = bool(stop) and step < config.steps
    print(ending(step.value, stopped), flush=True)
    return stop.received if stopped else None


def make_replay(config: Config, directory: Path, capacity: float, **changes: int) -> Replay:
    """Open the replay in the directory; its sampling has a random stream of its own.

    changes: options of Replay other than those of the config.
    """
    seed = seeding.stream(config.seed, "replay", directory.name)
    if config.replay.capacity:  # 0: no limit
        capacity = max(capacity, config.replay.minlen)
    options = {**config.replay, "capacity": int(capacity), **changes}
    return Replay(directory, **options, seed=seed)


def make_outputs(logdir: Path, start_frames: int) -> list:
    """The places where metrics go: terminal, metrics.jsonl and TensorBoard."""
    files = JSONLOutput(logdir, start_frames), TensorBoardOutput(logdir, start_frames)
    return [TerminalOutput(), *files]


def describe(config: Config) -> str:
    """The phases of the run and their units, one line each."""
    repeat = config.action_repeat
    times = lambda steps: f"{int(steps):,} agent steps = {int(steps) * repeat:,} frames"  # noqa: E731
    return "\n".join(
        [
            f"Prefill with random actions: {times(config.prefill)}.",
            f"Pretraining: {config.pretrain} update(s).",
            f"Training: {config.train_steps} update(s) per {times(config.train_every)}, "
            f"on {config.dataset.batch} x {config.dataset.length} steps from the replay.",
            f"Evaluation: {config.eval_eps} episode(s) every {times(config.eval_every)}.",
            f"Metrics every {times(config.log_every)}.",
            f"A checkpoint every {config.checkpoint_every}.",
            f"The run ends after {times(config.steps)}."
            + (" The prefill takes all of them." * (config.steps <= config.prefill)),
        ]
    )


def ending(step: int, stopped: bool) -> str:
    """What to say when the loop has ended."""
    if stopped:
        return f"Stopped at agent step {step:,}, all saved. The same command continues the run."
    return f"Done: {step:,} agent steps. More --steps continue the run from here."


def task_envs(config: Config) -> Callable[..., gymnasium.vector.VectorEnv]:
    """Return make_envs for the task of the config.

    Raises:
        UserError: the task is unknown, or an environment of a library user.
    """
    if config.task.startswith(CUSTOM):
        raise UserError(
            f"'{config.task}' is an environment that only a script of yours can make: give that "
            f"script the flag --mode {config.mode}, or play with dreamerv2.api.load."
        )

    def make_envs(mode: str, count: int, seeds: list[int]) -> gymnasium.vector.VectorEnv:
        return envs.make_vector_env(config.task, config, count, config.envs_parallel, mode, seeds)

    return make_envs


def make_agent(*args: Any) -> Any:
    """Make the real agent, see agent.Agent, and say what it computes on."""
    rendering.keep_apart()
    with importing_tensorflow():  # it takes seconds; --help need not wait for it
        from dreamerv2.agent import Agent
        from dreamerv2.common.nn.tfutils import set_up_devices

        devices = set_up_devices()
    agent = Agent(*args)
    print(f"{devices} Precision: {agent.dtype.name}.", flush=True)
    return agent


def run(
    config: Config,
    make_envs: Callable[..., gymnasium.vector.VectorEnv] | None = None,
    outputs: Sequence[Output] | None = None,
) -> signal.Signals | None:
    """Do what the config's mode says, with the real agent.

    Args:
        make_envs: as for `train`; None makes the environments of the config's task.
        outputs: as for `train`.

    Returns: as `train`.
    """
    if config.mode == "dream":
        with importing_tensorflow():
            from dreamerv2.dream import dream
        dream(config, make_agent)
        return None
    own = make_envs is not None
    make_envs = make_envs or task_envs(config)
    if config.mode == "eval":
        from dreamerv2.evaluate import evaluate  # only here: it brings pandas in

        return evaluate(config, make_envs, make_agent)
    if not config.logdir:
        raise UserError(
            "Where should the run go? Give a directory, such as --logdir ~/logdir/run1."
        )
    logdir = Path(config.logdir).expanduser()
    if not own and not os.path.isfile(logdir / "config.yaml"):
        envs.make_env(config.task, config).close()  # a misspelt task leaves nothing behind
    with RunLock(logdir):
        # The steps in metrics.jsonl are frames. A library user's task is but a name.
        saved.prepare(config, logdir, ["action_repeat"] if own else ["action_repeat", "task"])
        print(config, describe(config), sep="\n", flush=True)
        return train(config, make_envs, make_agent, outputs)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. A mistake of the user ends with one sentence and exit status 2."""
    with lasting():
        _main(argv)


def _main(argv: Sequence[str] | None) -> None:
    mode = "train"
    try:
        argv, configs = sys.argv[1:] if argv is None else argv, paths.load_configs()
        config = flags.parse(argv, configs)
        mode = config.mode
        if config.mode in ("eval", "dream"):  # what no flag says, the run to look at says
            config = flags.parse(argv, {**configs, "defaults": saved.base_config(config, configs)})
        rules.validate(config)
        with terminable():
            run(config)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        print(f"Error: {error.strerror}; make room, then run the same command.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before there was anything to save, or the second one
        then = "continues the run" if mode == "train" else "begins anew"
        print(f"Stopped at once. The same command {then}.", file=sys.stderr, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
