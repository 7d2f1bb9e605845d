"""The agent: acts, learns, reports, saves and loads."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dreamerv2 import diagnostics, exploration
from dreamerv2.behavior import ActorCritic
from dreamerv2.common import seeding
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.device import gpus
from dreamerv2.common.nn.dispatch import Compiled, Scalars, stack
from dreamerv2.common.nn.dists import fold
from dreamerv2.common.nn.optim import Optimizer, recording
from dreamerv2.common.nn.precision import WeightCache, cast_once, compute_dtype
from dreamerv2.common.nn.variables import Init, named_variables
from dreamerv2.rssm import State
from dreamerv2.world_model import NOT_OBSERVED, WorldModel

CONTEXT = 5  # rows that a report shows the model before the open loop
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
        self._expl_until = config.expl_until or np.inf  # frames
        self._streams = seeding.Streams(config.seed, "agent", STREAMS)
        init = Init(np.random.default_rng(seeding.stream(config.seed, "init")), self.dtype)
        self.world_model = WorldModel(init / "world_model", shapes, actions, config)
        weights = self.world_model.trainable_variables
        self.model_opt = Optimizer(init / "world_model_opt", "model", weights, config.model_opt)
        task = self.task_behavior = ActorCritic(init / "task", config, self.world_model, discrete)
        self.expl_behavior = exploration.make(init / "expl", config, self.world_model, task)
        actors = [b.actor for b in (self.task_behavior, self.expl_behavior) if b.actor]
        readers = (self.world_model.encoder, self.world_model.rssm, *actors)
        self._policy_weights = WeightCache(*readers, dtype=self.dtype)
        self._act = Compiled(self._act_step, config.jit, xla=self.dtype.size >= 4)
        self._update = Compiled(self._update_step, config.jit)
        self._predictions = Compiled(self._report_step, config.jit)
        named_variables(self)  # raises now, and not at the first checkpoint, if two share a name

    # --- acting ---

    def policy(self, obs: Mapping[str, np.ndarray], state=None, step: int = 0, mode: str = "train"):
        """Choose an action for every environment.

        Args:
            obs: key -> [E, ...], raw; needs the model's observations and is_first.
            state: returned by the previous call, None at the very start.
            step: agent steps so far, for expl_until.

        Returns: {"action": float32 [E, A]}, in mode eval also {"value": float32 [E]}, the critic's
            discounted return in rewards as the model sees them; and the state for the next call.
        """
        batch, evaluate = len(obs["is_first"]), mode == "eval"
        explore = mode == "train" and step * self.config.action_repeat < self._expl_until
        if state is None:
            latent = self.world_model.rssm.initial(batch)
            state = _carried(latent), tf.zeros((batch, self.actions), tf.float32)
        obs = {key: np.asarray(obs[key]) for key in (*self.world_model.shapes, "is_first")}
        noise = self._policy_noise(evaluate, batch)
        outputs, state = self._act(obs, state, noise, evaluate=evaluate, explore=explore)
        outputs = {key: value.numpy() for key, value in outputs.items()}
        if not np.isfinite(outputs["action"]).all():
            advice = ", or try --precision 32" * (self.dtype.size < 4)
            raise UserError(
                f"The policy's action is not finite in {self.dtype.name}: look for very large "
                f"observations{advice}."
            )
        return outputs, state

    def _policy_noise(self, evaluate: bool, batch: int) -> dict[str, np.ndarray]:
        """Uniform noise of one policy step: for the latent state, the action, action noise."""
        key, count = self._streams.next("eval" if evaluate else "policy")
        # Drawn here, since many small operations would take longer in the graph. `count` is in the
        # counter's upper half, since the lower half counts on within a step, four words at a time.
        draw = np.random.Generator(np.random.Philox(key=key, counter=count << 128)).random
        action = () if self.discrete else (self.actions,)
        shapes = {"post": (self.config.rssm.stoch,), "action": action}
        if self._noise_amount(evaluate):
            shapes["action_noise"] = action
        return {k: draw((batch, *s), np.float32) for k, s in shapes.items()}

    def _noise_amount(self, evaluate: bool) -> float:
        return self.config.eval_noise if evaluate else self.config.expl_noise

    def _act_step(self, obs, state, noise, evaluate: bool, explore: bool):
        model, (latent, action) = self.world_model, state
        behavior = self.expl_behavior if explore else self.task_behavior
        mean = evaluate and self.config.eval_state_mean
        with self._policy_weights.in_use():
            obs = model.preprocess(obs)
            embed, post = model.encoder(obs), None if mean else noise["post"]
            latent = model.rssm.obs_step(latent, action, embed, obs["is_first"], post)
            feat = model.rssm.feat(latent)
            dist = behavior.policy(feat)
            action = dist.mode() if evaluate else dist.sample(noise["action"])
            value = {"value": tf.cast(behavior.value(feat), tf.float32)} if evaluate else {}
        if amount := self._noise_amount(evaluate):
            action = exploration.action_noise(action, amount, self.discrete, noise["action_noise"])
        action = tf.cast(action, tf.float32)
        return {"action": action, **value}, (_carried(latent), action)

    # --- learning ---

    def initial_train_state(self):
        """The latent state carried into the first batch: zeros, [B, ...]."""
        return self.world_model.rssm.initial(self.config.dataset.batch)

    def place(self, data: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Copy the part of a batch that `train` reads to the device; on any thread."""
        keys = (*self.world_model.shapes, *(k for k in NOT_OBSERVED if k != "is_last"))
        with tf.device("GPU:0" if gpus() else "CPU:0"):
            return {key: tf.convert_to_tensor(data[key]) for key in keys}

    def train(self, data: Mapping[str, np.ndarray | tf.Tensor], state=None, step: int = 0):
        """One update of world model, actor and critic.

        Args:
            data: replay batch, key -> [B, T, ...], raw or from `place`.
            state: the latent state that each row ended in last time; None at the start.
            step: agent steps so far, for schedules.

        Returns: the latent state each row ends in, and metrics, name -> number.
        """
        if state is None:
            state = self.initial_train_state()
        seed, step = self._seed("update"), np.array(step, np.int64)
        state, metrics = self._update(self.place(data), state, seed, step)
        return state, Scalars(*metrics)

    def _update_step(self, data, state, seed, step):
        model = self.world_model
        data = model.preprocess(data)
        noise = model.noise(*data["action"].shape[:2], fold(seed, 0))
        with recording(model) as tape, cast_once(model, dtype=self.dtype):
            loss, post, outputs, metrics = model.loss(data, state, noise)
            loss = self.model_opt.scale(loss)
        metrics |= self.model_opt.minimize(tape, loss, step)
        post = tf.nest.map_structure(tf.stop_gradient, post)
        terminal, reward = data["is_terminal"], model.imagined_reward
        metrics |= self.task_behavior.update(model, post, terminal, reward, fold(seed, 1), step)
        if self.expl_behavior is not self.task_behavior:
            expl = self.expl_behavior.update(model, post, outputs, data, fold(seed, 2), step)
            metrics |= {f"expl_{key}": value for key, value in expl.items()}
        self._policy_weights.refresh()
        last = {key: _finite_or_zero(value[:, -1]) for key, value in post.items()}
        return last, stack(metrics)

    # --- reporting ---

    def report(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | float]:
        """Videos and numbers of every predicted image, see diagnostics.prediction_report."""
        context = min(CONTEXT, data["action"].shape[1] - 1)
        images = self._predictions(self.place(data), self._seed("report"), context=context)
        result = {}
        for key, frames in images.items():
            frames = [np.asarray(x, np.float32) for x in frames]
            result |= diagnostics.prediction_report(key, *frames, data["is_first"], context)
        return result

    def _report_step(self, data, seed, context: int):
        model = self.world_model
        data = model.preprocess(data)
        noise = model.noise(*data["action"].shape[:2], seed)
        return model.predict(data, context, noise)

    # --- checkpoints ---

    def expected(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every variable by name, for comparison with a checkpoint."""
        named = named_variables(self).items()
        return {name: (tuple(v.shape), v.dtype.as_numpy_dtype) for name, v in named}

    def restore_state(self, arrays: Mapping[str, np.ndarray]):
        """Return a saved latent state in the compute type, for `train`."""
        start = self.initial_train_state()
        return {key: tf.cast(arrays[key], value.dtype) for key, value in start.items()}

    def save(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return every variable by name, and the counters of the random streams."""
        return {k: v.numpy() for k, v in named_variables(self).items()}, dict(self._streams.draws)

    def load(self, arrays: Mapping[str, np.ndarray], draws: Mapping[str, int]) -> None:
        """Restore the variables and counters that `save` returned."""
        for name, variable in named_variables(self).items():
            variable.assign(arrays[name])
        self._policy_weights.refresh()
        self._streams.draws.update(draws)

    def _seed(self, stream: str) -> np.ndarray:
        return np.array(self._streams.next(stream), np.int32)


def _carried(latent: State) -> State:
    """Return the entries of a latent state that the next step of the policy reads."""
    return {key: latent[key] for key in ("deter", "stoch")}


def _finite_or_zero(x: tf.Tensor) -> tf.Tensor:
    """Drop float16 overflows, which would reach the next update through the carried state."""
    return tf.where(tf.math.is_finite(x), x, tf.zeros([], x.dtype))
