"""The agent: acts, learns, reports, and hands out everything it has learned."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from dreamerv2 import exploration
from dreamerv2.behavior import ActorCritic
from dreamerv2.common import seeding
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.dispatch import Layout, Scalars, pack, unpack
from dreamerv2.common.nn.optim import Optimizer
from dreamerv2.common.nn.tfutils import (
    Init,
    LowPrecisionCopies,
    cast_once,
    compute_dtype,
    fold,
    gpus,
    named_variables,
    recording,
)
from dreamerv2.common.run.when import Until
from dreamerv2.world_model import NOT_OBSERVED, WorldModel

STREAMS = ("policy", "eval", "update", "report")  # one stream of random numbers per consumer


class Agent(tf.Module):
    """DreamerV2 (paper, section 2).

    Args:
        config: the whole config.
        shapes: observation key -> shape of one observation, scalars as ().
        actions: size of an action.
        discrete: whether actions are one-hot.
    """

    def __init__(self, config, shapes: Mapping[str, tuple[int, ...]], actions: int, discrete: bool):
        super().__init__()
        self.config, self.discrete, self.actions = config, discrete, actions
        self.dtype = compute_dtype(config.precision)
        scaled = self.dtype == tf.float16
        self._exploring = Until(config.expl_until)
        self._streams = seeding.Streams(config.seed, "agent", STREAMS)
        init = Init(np.random.default_rng(seeding.stream(config.seed, "init")), self.dtype)
        self.world_model = WorldModel(init / "world_model", shapes, actions, config)
        self.model_opt = Optimizer(
            "world_model_opt",
            "model",
            self.world_model.trainable_variables,
            config.model_opt,
            scaled,
        )
        self.task_behavior = ActorCritic(init / "task", config, self.world_model, discrete, scaled)
        self.expl_behavior = exploration.make(
            init / "expl", config, self.world_model, self.task_behavior, scaled
        )
        behaviors = (self.task_behavior, self.expl_behavior)
        actors = [behavior.actor for behavior in behaviors if behavior.actor]
        readers = (self.world_model.encoder, self.world_model.rssm, *actors)
        self._policy_weights = LowPrecisionCopies(*readers, dtype=self.dtype)
        # A policy step is many small operations, which XLA joins; 16 bit is slow that way on a CPU.
        self._policy_xla, self._policy_graphs = self.dtype.size >= 4, {}
        self._update_fn, self._metric_names = self._compiled(self._update), ()
        self._report_fn = self._compiled(self._report)
        named_variables(self)  # now, not at the first checkpoint: it refuses two of one name

    def _compiled(self, function: Callable, xla: bool = False) -> Callable:
        """The function as a graph, or as it is with jit False, for a debugger."""
        if not self.config.jit:
            return function
        # On a CPU XLA is slow at large convolutions. AutoGraph would read the source files again.
        return tf.function(function, autograph=False, jit_compile=xla or bool(gpus()))

    # --- acting ---

    def policy(self, obs: Mapping[str, np.ndarray], state=None, step: int = 0, mode: str = "train"):
        """Choose an action for every environment.

        Args:
            obs: key -> [E, ...], raw; needs the model's observations and is_first.
            state: what the previous call returned, None at the very start.
            step: agent steps so far, for expl_until.
            mode: train or eval.

        Returns: {"action": float32 [E, A]} and the state for the next call.

        Raises:
            UserError: the action is not finite.
        """
        batch = len(obs["is_first"])
        if state is None:
            state = self.initial_policy_state(batch)
        obs = {key: np.asarray(obs[key]) for key in (*self.world_model.shapes, "is_first")}
        frames = step * self.config.action_repeat
        evaluate, explore = mode == "eval", mode == "train" and self._exploring(frames)
        noise = self._policy_noise(evaluate, batch, explore)
        if self.config.jit:
            buffer, layout = pack(obs, noise)
            arguments = tf.constant(buffer), state
            graph = self._policy_graph(layout, evaluate, explore, arguments)
            action, state = graph(*arguments)
        else:
            obs, noise = tf.nest.map_structure(tf.convert_to_tensor, (obs, noise))
            action, state = self._policy(obs, state, noise, evaluate, explore)
        action = action.numpy()
        if not np.isfinite(action).all():
            advice = ", or try --precision 32" * (self.dtype.size < 4)
            raise UserError(
                f"The policy's action is not finite in {self.dtype.name}: look for very large "
                f"observations{advice}."
            )
        return {"action": action}, state

    def _policy_graph(self, layout: Layout, evaluate: bool, explore: bool, arguments) -> Callable:
        """The traced graph of `_policy`: (packed observation and noise, state) -> action, state.

        Found here, and of few arguments: tf.function takes 0.3 ms a step to find it, and 0.1 ms
        for each of them.
        """
        key = layout, evaluate, explore
        if key not in self._policy_graphs:

            def act(buffer, state):
                obs, noise = unpack(buffer, layout)
                return self._policy(obs, state, noise, evaluate, explore)

            graph = self._compiled(act, xla=self._policy_xla).get_concrete_function(*arguments)
            self._policy_graphs[key] = graph
        return self._policy_graphs[key]

    def initial_policy_state(self, batch: int):
        latent = self.world_model.rssm.initial(batch)
        latent = {key: latent[key] for key in ("deter", "stoch")}
        return latent, tf.zeros((batch, self.actions), tf.float32)

    def _policy_noise(self, evaluate: bool, batch: int, explore: bool) -> dict[str, np.ndarray]:
        """Uniform noise of one policy step: for the latent state, the action, and its blurring."""
        key, count = self._streams.next("eval" if evaluate else "policy")
        # Drawn here, not in the graph, where its many small operations would take longer.
        # In the counter's upper half: the lower one counts on within a step, four words at a time.
        draw = np.random.Generator(np.random.Philox(key=key, counter=count << 128)).random
        behavior = self.expl_behavior if explore else self.task_behavior
        shapes = {"post": self.world_model.rssm.noise_shape, "action": behavior.noise_shape}
        if self._blur(evaluate):
            shapes["blur"] = () if self.discrete else (self.actions,)
        return {k: draw((batch, *s), np.float32) for k, s in shapes.items()}

    def _blur(self, evaluate: bool) -> float:
        """How much noise is added to actions."""
        return self.config.eval_noise if evaluate else self.config.expl_noise

    def _policy(self, obs, state, noise, evaluate: bool, explore: bool):
        with self._policy_weights.in_use():
            return self._act(obs, state, noise, evaluate, explore)

    def _act(self, obs, state, noise, evaluate: bool, explore: bool):
        model, config = self.world_model, self.config
        latent, action = state
        obs = model.preprocess(obs)
        mean = evaluate and config.eval_state_mean
        latent = model.rssm.obs_step(
            latent, action, model.encoder(obs), obs["is_first"], None if mean else noise["post"]
        )
        behavior = self.expl_behavior if explore else self.task_behavior
        # Of the whole state, not rows where its ones are: what is not finite shows in the action.
        dist = behavior.policy(model.rssm.feat(latent))
        action = dist.mode() if evaluate else dist.sample(noise["action"])
        if amount := self._blur(evaluate):
            action = exploration.action_noise(action, amount, self.discrete, noise["blur"])
        action = tf.cast(action, tf.float32)
        return action, ({key: latent[key] for key in ("deter", "stoch")}, action)

    # --- learning ---

    def initial_train_state(self):
        """The latent state carried into the first batch: zeros, [B, ...]."""
        return self.world_model.rssm.initial(self.config.dataset.batch)

    def place(self, data: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Copy what `train` reads of a batch to the device that computes; on any thread."""
        with tf.device("GPU:0" if gpus() else "CPU:0"):
            return self._tensors(data)

    def train(self, data: Mapping[str, np.ndarray | tf.Tensor], state=None, step: int = 0):
        """One update of world model, actor and critic.

        Args:
            data: replay batch, key -> [B, T, ...], as it is or from `place`.
            state: the latent state that each row ended in last time; None at the start.
            step: agent steps so far, for schedules.

        Returns: the latent state each row ends in, and metrics, name -> number.
        """
        if state is None:
            state = self.initial_train_state()
        step = tf.constant(step, tf.int64)
        seed = self._seed("update")
        state, values = self._update_fn(self._tensors(data), state, seed, step)
        return state, Scalars(self._metric_names, values)

    def _update(self, data, state, seed, step):
        model = self.world_model
        data = model.preprocess(data)
        noise = model.noise(*data["action"].shape[:2], fold(seed, 0))
        with recording(model) as tape, cast_once(model, dtype=self.dtype):
            loss, post, outputs, metrics = model.loss(data, state, noise)
            loss = self.model_opt.scale(loss)
        metrics |= self.model_opt.minimize(tape, loss)
        post = tf.nest.map_structure(tf.stop_gradient, post)
        terminal, reward = data["is_terminal"], model.imagined_reward
        metrics |= self.task_behavior.update(post, terminal, reward, fold(seed, 1), step)
        if self.expl_behavior is not self.task_behavior:
            expl = self.expl_behavior.update(post, outputs, data, fold(seed, 2), step)
            metrics |= {f"expl_{key}": value for key, value in expl.items()}
        for name, value in metrics.items():
            shape = tf.TensorShape(getattr(value, "shape", ()))  # a Python number has none
            if shape.rank != 0:
                raise ValueError(f"The metric '{name}' must be a scalar, not {shape}.")
        self._policy_weights.refresh()
        # An overflow of float16 must not reach the next update through the state.
        sound = lambda x: tf.where(tf.math.is_finite(x), x, tf.zeros([], x.dtype))  # noqa: E731
        self._metric_names = tuple(metrics)  # of every update, and the same for all
        values = tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])
        return {key: sound(value[:, -1]) for key, value in post.items()}, values

    # --- reporting ---

    def report(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Open-loop videos of up to six sequences: openl_{key} -> [T, 3*H, N*W, C] in [0, 1]."""
        data = {key: value[:6] for key, value in data.items()}
        videos = self._report_fn(self._tensors(data), self._seed("report"))
        return {f"openl_{key}": video.numpy() for key, video in videos.items()}

    def _report(self, data, seed):
        model = self.world_model
        data = model.preprocess(data)
        noise = model.video_noise(*data["action"].shape[:2], seed)
        keys = model.heads["decoder"].images
        return {key: model.video_pred(data, key, noise) for key in keys}

    # --- what a checkpoint holds ---

    def expected(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every variable by name, for comparison with a checkpoint."""
        return {
            name: (tuple(variable.shape), variable.dtype.as_numpy_dtype)
            for name, variable in named_variables(self).items()
        }

    def restore_state(self, arrays: Mapping[str, np.ndarray]):
        """Return a saved latent state in the compute type, for `train`."""
        start = self.initial_train_state()
        return {key: tf.cast(arrays[key], value.dtype) for key, value in start.items()}

    def save(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return every variable by name, and the counters of the random streams."""
        return {k: v.numpy() for k, v in named_variables(self).items()}, dict(self._streams.draws)

    def load(self, arrays: Mapping[str, np.ndarray], draws: Mapping[str, int]) -> None:
        """Take over what `save` returned."""
        for name, variable in named_variables(self).items():
            variable.assign(arrays[name])
        self._policy_weights.refresh()
        self._streams.draws.update(draws)

    def _tensors(self, data):
        keys = (*self.world_model.shapes, *(k for k in NOT_OBSERVED if k != "is_last"))
        return {key: tf.convert_to_tensor(data[key]) for key in keys}

    def _seed(self, stream: str) -> tf.Tensor:
        return tf.constant(self._streams.next(stream), tf.int32)
