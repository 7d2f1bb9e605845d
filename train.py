"""Train DreamerV2: collect experience, learn a world model, imagine to learn behavior.

    python train.py --logdir ~/logdir/atari_pong/dreamerv2/1 --configs atari --task atari_pong

`train` is the whole loop, to be read from top to bottom; `main` is the command line.
"""

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from dreamerv2 import rundir, validation
from dreamerv2.common import envs
from dreamerv2.common.config import flags, paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import rendering
from dreamerv2.common.errors import UserError
from dreamerv2.common.logger.logger import Output
from dreamerv2.common.run.lock import RunLock
from dreamerv2.common.run.signals import interrupt_on_any_signal
from dreamerv2.common.run.when import Every, parse_every
from dreamerv2.common.stdio import escape_unprintable, survive_closed_terminal
from dreamerv2.runner import Runner

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CUSTOM = "custom_"  # prefix of the task's name of a library user's own environment


def train(
    config: Config,
    make_envs: Callable[[str, int, list[int]], gymnasium.vector.VectorEnv],
    make_agent: Callable[..., Any],
    outputs: Sequence[Output] | None = None,
) -> signal.Signals | None:
    """Collect experience, learn and evaluate until `steps`; continue an earlier run.

    Args:
        config: its logdir may hold an earlier run.
        make_envs: (mode, count, seeds) -> vector of environments; mode is train or eval.
        make_agent: (config, shapes, actions, discrete) -> agent.Agent or alike.
        outputs: of metrics; None: terminal, metrics.jsonl and TensorBoard.

    Returns: the signal that ended it early, with everything saved; None if it ran to its end.

    Raises:
        UserError: something that the user can put right; all that was collected is saved.
    """
    with Runner(config, make_envs, make_agent, outputs) as run:
        # The agent and its checkpoint fit: there is no mistake left to refuse.
        print(*changes(config), config, describe(config), sep="\n", flush=True)
        step, agent, learner, stop = run.step, run.agent, run.learner, run.stop
        should_train = run.register("train", Every(config.train_every))
        should_log = run.register("log", Every(config.log_every))
        should_evaluate = run.register("evaluate", Every(config.eval_every))
        should_save = run.register("save", parse_every(config.checkpoint_every))

        run.prefill()  # random actions until there is an episode to learn from
        run.resume()  # weights, optimizers, random streams, places in the replay, schedulers
        while learner.updates < config.pretrain and not stop:
            learner.update(step.value)

        with run.progress():
            while step < config.steps and not stop:
                if should_evaluate(step):
                    if not run.evaluate():
                        should_evaluate.undo()  # the next start repeats all of it
                    continue  # to check `stop`

                # Act: one agent step in every environment; the replay gets each row.
                policy = functools.partial(agent.policy, step=step.value)
                run.driver(policy, steps=1)

                # Learn: `train_steps` updates every `train_every` agent steps.
                for due in should_train.due(step):
                    for _ in range(config.train_steps):
                        learner.update(due)

                if should_log(step):
                    run.log()
                if should_save(step):
                    run.save()
        run.finish()  # the last metrics and checkpoint
    print(run.ending, flush=True)
    return run.interrupted


def task_envs(config: Config) -> Callable[..., gymnasium.vector.VectorEnv]:
    """Return make_envs for the task of the config."""
    if config.task.startswith(CUSTOM):
        raise UserError(
            f"'{config.task}' is an environment that only a script of yours can make: give that "
            f"script the flag --mode {config.mode}, or play with dreamerv2.api.load."
        )

    def make_envs(mode: str, count: int, seeds: list[int]) -> gymnasium.vector.VectorEnv:
        return envs.make_vector_env(config.task, config, count, config.envs_parallel, mode, seeds)

    return make_envs


def make_agent(*args: Any) -> Any:
    """Make an agent.Agent and print its device and precision."""
    rendering.keep_apart()
    from dreamerv2.agent import Agent  # takes seconds: --help need not wait for TensorFlow
    from dreamerv2.common.nn.device import set_up_devices

    devices = set_up_devices()
    agent = Agent(*args)
    print(f"{devices} Precision: {agent.dtype.name}.", flush=True)
    return agent


def run(
    config: Config,
    make_envs: Callable[..., gymnasium.vector.VectorEnv] | None = None,
    outputs: Sequence[Output] | None = None,
) -> signal.Signals | None:
    """Train, evaluate or dream, as config.mode says, with the real agent.

    Arguments and result are those of `train`; without make_envs the config's task is played.
    """
    escape_unprintable()  # the names of folders may have any characters
    own = make_envs is not None
    if config.mode == "dream":
        from dreamerv2.dream import dream  # imports TensorFlow

        dream(config, make_agent)
        return None
    make_envs = make_envs or task_envs(config)
    if config.mode == "eval":
        from dreamerv2.evaluate import evaluate  # imports pandas

        return evaluate(config, make_envs, make_agent)
    if not config.logdir:
        raise UserError("Where should the run go? Give a directory: --logdir ~/logdir/run1.")
    logdir = Path(config.logdir).expanduser()
    if not own and not os.path.isfile(logdir / "config.yaml"):
        envs.make_env(config.task, config).close()  # a misspelt task leaves nothing behind
    with RunLock(logdir):
        # The steps in metrics.jsonl are frames. For a user's own environments `task` is a label.
        prepare(config, ["action_repeat"] if own else ["action_repeat", "task"])
        return train(config, make_envs, make_agent, outputs)


def prepare(config: Config, fixed: Sequence[str]) -> None:
    """Save the config of a new run, or check it against that of the last start.

    A run that continues saves its new config (Runner.resume) once its checkpoint was found to fit:
    a mistake must not overwrite the config that the checkpoint was made with. The values of the
    keys in `fixed` must not change.
    """
    logdir = Path(config.logdir).expanduser()
    rundir.refuse_release(logdir)
    path = logdir / "config.yaml"
    if not path.exists():
        config.save(path)
    before = Config.load(path).flat
    for key in fixed:
        if before.get(key, config[key]) != config[key]:
            raise UserError(
                f"The run in {logdir} has {key} {before[key]}, not {config[key]}: give the flags "
                "and --configs it was started with, or another --logdir."
            )


def changes(config: Config) -> list[str]:
    """Return a sentence for each option that has changed since the last start."""
    path = Path(config.logdir).expanduser() / "config.yaml"
    before, now = Config.load(path).flat if path.exists() else {}, config.flat
    # An option that the run lacks is new in the program, unless it is a user's own.
    keys = sorted(before.keys() | {key for key in now if before and config.is_open(key)})
    texts = []
    for key in keys:
        was, new = before.get(key, "not set"), now.get(key, "not set")
        if was != new:
            texts.append(f"Changed since the last start: {key} was {was}, now {new}.")
    return texts


def describe(config: Config) -> str:
    """Return the phases of the run and their units, one line each."""

    def times(steps: float) -> str:
        return f"{int(steps):,} agent steps = {int(steps) * config.action_repeat:,} frames"

    lines = [
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
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake ends with one sentence and exit status 2."""
    mode = "train"
    with survive_closed_terminal():
        try:
            argv, configs = sys.argv[1:] if argv is None else argv, paths.load_configs()
            config = flags.parse(argv, configs)
            mode = config.mode
            if mode in ("eval", "dream"):  # the run's own config holds for all that no flag sets
                base = rundir.base_config(config, configs)
                config = flags.parse(argv, {**configs, "defaults": base})
            config = validation.validate(config)
            with interrupt_on_any_signal():
                run(config)
        except UserError as error:
            _exit(2, f"Error: {error}")
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            _exit(2, f"Error: {error.strerror}; make room, then run the same command.")
        except KeyboardInterrupt:  # before there was anything to save, or the second one
            then = "continues the run" if mode == "train" else "begins anew"
            _exit(130, f"Stopped at once. The same command {then}.")


def _exit(status: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
