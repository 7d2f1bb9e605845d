"""DreamerV2 as a library: train on an environment, then play with the policy.

import dreamerv2.api as dv2

config = dv2.defaults.update({"logdir": "~/logdir/mine", "prefill": 1e5}).parse_flags()
dv2.train(env, config)

policy = dv2.load("~/logdir/mine")
policy.reset()
action = policy(obs)  # as often as you like, in a loop of your own
"""

import inspect
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np

from dreamerv2 import rundir, validation
from dreamerv2 import train as trainer
from dreamerv2.common import envs
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import adapter, gym, rendering
from dreamerv2.common.envs.spaces import describe
from dreamerv2.common.errors import UserError, end_scripts_plainly
from dreamerv2.common.logger.logger import Output

__all__ = ["Policy", "UserError", "configs", "defaults", "load", "train"]

configs: dict[str, dict] = paths.load_configs()  # name -> changes of the defaults
defaults: Config = Config(configs.pop("defaults"))
end_scripts_plainly()
rendering.load_mesa()  # before a script of the user renders, or imports TensorFlow itself


def train(env: Any, config: Config | Mapping, outputs: Sequence[Output] | None = None) -> None:
    """Train on an environment, or evaluate or dream where config.mode says so.

    Everything goes to config.logdir; a run that is there continues. Ctrl-C (KeyboardInterrupt) and
    other signals (SystemExit) end the script after the step in flight, with everything saved.

    Args:
        env: an environment with the API of gymnasium or of any gym; evaluation then interrupts the
            training episode, and the environment stays open. Or a function that makes one: then
            there can be several (config.envs), or another one after a failure
            (config.env_restarts), and evaluation has its own.
        config: `defaults`, changed by `update` and `parse_flags`, or a mapping of such changes.
            config.task only names the run.
        outputs: of metrics, instead of terminal, metrics.jsonl and TensorBoard.

    A UserError is a mistake that the caller can correct, in a sentence.
    """
    config = config if isinstance(config, Config) else defaults.update(config)
    if config.task == defaults.task:
        config = config.update({"task": f"{trainer.CUSTOM}{_name(env)}"})
    config = validation.validate(config)
    make_envs = _from_function(env, config) if _makes_envs(env) else _from_object(env, config)
    stopped = trainer.run(config, make_envs, outputs)
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped:
        raise SystemExit(128 + stopped)


def load(logdir: str | Path, env: Any = None) -> "Policy":
    """Load the policy that a run has learned so far; it may still be training.

    env: an environment, or a function that makes one, whose spaces replace the saved ones.
    """
    rendering.choose_without_display()  # for env.render() in the caller's loop
    where = defaults.update({"logdir": str(logdir), "mode": "eval"})
    config = rundir.base_config(where, {"defaults": defaults})
    weights = rundir.read_weights(config)
    spaces = _spaces(env) if env else adapter.load(rundir.find_run(where))
    replica = adapter.SpaceAdapter(*spaces, config)
    agent = trainer.make_agent(config, *describe(replica.observation_space, replica.action_space))
    rundir.load_weights(agent, weights)
    return Policy(agent, replica, config)


class Policy:
    """Plays one environment the way evaluation does: `policy(obs) -> action`.

    Observations and actions are the environment's own: an int for Discrete, an array in the range
    of a Box. A call is one agent step: repeat the action config.action_repeat times.
    """

    def __init__(self, agent: Any, replica: adapter.SpaceAdapter, config: Config):
        self.config = config
        self._agent, self._replica = agent, replica
        self.reset()

    def reset(self) -> None:
        """Forget the episode: the next observation is the first of another one."""
        self._state: Any = None

    def __call__(self, obs: Any) -> Any:
        """Choose an action for an observation; UserError if it does not fit the spaces."""
        batch = {key: value[None] for key, value in self._replica.observe(obs).items()}
        batch["is_first"] = np.array([self._state is None])
        outputs, self._state = self._agent.policy(batch, self._state, mode="eval")
        return self._replica.act(outputs["action"][0])


def _makes_envs(env: Any) -> bool:
    """Return True for a function or a class, False for an environment."""
    return inspect.isclass(env) or (callable(env) and not hasattr(env, "step"))


def _from_function(make: Callable[[], Any], config: Config) -> Callable:
    if config.envs_parallel == "process":
        try:
            cloudpickle.dumps(make)
        except Exception as error:
            raise UserError(
                f"The function that makes the environment cannot be sent to a worker process "
                f"({error}): make locks, sockets and open files inside the function, or use "
                "--envs_parallel none."
            ) from error

    def construct() -> gymnasium.Env:
        rendering.choose_without_display()
        return gym.wrap(make(), config)

    def make_envs(mode: str, count: int, seeds: list[int]) -> gymnasium.vector.VectorEnv:
        return envs.vectorize([construct] * count, config.envs_parallel, config, seeds)

    return make_envs


def _from_object(env: Any, config: Config) -> Callable:
    if config.envs > 1 or config.envs_parallel != "none" or config.env_restarts:
        raise UserError(
            "With one environment --envs must be 1, --envs_parallel none and --env_restarts 0; "
            "give train() a function that makes an environment instead, to have several or to make "
            "it anew."
        )
    wrapped = gym.wrap(env, config)  # refuses what is no environment, before a directory is made
    vectors: list[gymnasium.vector.VectorEnv] = []

    def stay_open(**options: Any) -> None:
        """Close nothing, because the caller may go on using the environment."""

    def make_envs(mode: str, count: int, seeds: list[int]) -> gymnasium.vector.VectorEnv:
        if not vectors:  # training and evaluation share the only environment there is
            vectors.append(envs.vectorize([lambda: wrapped], seeds=seeds))
            vectors[0].close = stay_open
        return vectors[0]

    return make_envs


def _name(env: Any) -> str:
    """Return a name for the task: the id of its environment, else the class."""
    if _makes_envs(env):
        name = getattr(env, "__name__", type(env).__name__)
    else:
        spec = getattr(env, "spec", None)
        name = getattr(spec, "id", None) or type(getattr(env, "unwrapped", env)).__name__
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def _spaces(env: Any) -> tuple[gymnasium.Space, gymnasium.Space]:
    made = env() if _makes_envs(env) else env
    spaces = gym.convert_space(made.observation_space), gym.convert_space(made.action_space)
    if made is not env and hasattr(made, "close"):
        made.close()
    return spaces
