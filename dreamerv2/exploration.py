"""Ways to collect experience other than with the task policy.

Each behavior has `policy(feat)` -> action distribution, and
`update(world_model, post, outputs, data, seed, step)` -> metrics.
"""

import functools

import tensorflow as tf

from dreamerv2.behavior import ActorCritic, RewardNorm
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn import dists
from dreamerv2.common.nn.nets import Head
from dreamerv2.common.nn.optim import Optimizer, recording
from dreamerv2.common.nn.precision import cast_once
from dreamerv2.common.nn.variables import Init
from dreamerv2.world_model import Batch, Sequence, WorldModel, refuse_unknown


def make(init: Init, config, world_model: WorldModel, task: ActorCritic):
    """Return the behavior named by expl_behavior; greedy is the task behavior itself."""
    if task.discrete:
        for name in ("expl_noise", "eval_noise"):
            if config[name] > 1:
                raise UserError(
                    f"--{name} {config[name]} is not possible: with discrete actions it is a share"
                    " of random ones, at most 1."
                )
    kind = config.expl_behavior.replace("_", "").lower()
    if kind == "greedy":
        return task
    if kind == "random":
        return Random(world_model.actions, task.discrete)
    kinds = {"plan2explore": Plan2Explore, "modelloss": ModelLoss}
    return kinds[kind](init, config, world_model, task.discrete)


def action_noise(action: tf.Tensor, amount: float, discrete: bool, noise: tf.Tensor) -> tf.Tensor:
    """Add exploration noise to an action [N, A].

    Discrete: a sample from amount / A + (1 - amount) * onehot, by uniform noise [N].
    Continuous: clip(N(a, amount), -1, 1), by uniform noise [N, A].
    """
    if discrete:
        probs = amount / action.shape[-1] + (1 - amount) * action
        return dists.OneHot(tf.math.log(probs)).sample(noise)
    return tf.clip_by_value(dists.Normal(action, float(amount)).sample(noise), -1, 1)


class Random:
    """Every action with the same probability; nothing to learn."""

    actor = None

    def __init__(self, actions: int, discrete: bool):
        self.actions, self.discrete = actions, discrete

    def policy(self, feat: tf.Tensor):
        zeros = tf.zeros((*feat.shape[:-1], self.actions))
        return dists.OneHot(zeros) if self.discrete else dists.Uniform(zeros)

    def update(self, world_model, post, outputs, data, seed, step) -> dict[str, tf.Tensor]:
        return {}


class Intrinsic(tf.Module):
    """Actor-critic trained on intrinsic reward, optionally mixed with the task reward.

    r = expl_intr_scale * norm(intrinsic) + expl_extr_scale * norm(task reward)

    A subclass defines make_heads(init, world_model) -> heads, their loss(feat, outputs, data) -> []
    and intrinsic(seq) -> [H, N].
    """

    def __init__(self, init: Init, config, world_model: WorldModel, discrete: bool):
        super().__init__()
        self.config, self.dtype = config, init.dtype
        self.behavior = ActorCritic(init, config, world_model, discrete)
        self.actor, self.policy = self.behavior.actor, self.behavior.policy
        self.intr_norm = RewardNorm(init / "intr", config.expl_reward_norm)
        self.extr_norm = RewardNorm(init / "extr", config.expl_reward_norm)
        self.heads = self.make_heads(init, world_model)
        variables = [v for head in self.heads for v in head.trainable_variables]
        self.opt = Optimizer(init / "head_opt", "model", variables, config.expl_opt)

    def update(self, world_model, post, outputs, data, seed, step) -> dict[str, tf.Tensor]:
        """Fit the heads to a batch, then the behavior to the reward that the heads give.

        post, outputs: states and results for each of them, from WorldModel.loss.
        """
        feat = world_model.rssm.feat(post)
        outputs = outputs | post | {"feat": feat}
        with recording(self) as tape, cast_once(*self.heads, dtype=self.dtype):
            loss = self.opt.scale(self.loss(feat, outputs, data))
        metrics = self.opt.minimize(tape, loss, step)
        terminal, reward = data["is_terminal"], functools.partial(self.reward, world_model)
        return metrics | self.behavior.update(world_model, post, terminal, reward, seed, step)

    def reward(self, world_model: WorldModel, seq: Sequence) -> tf.Tensor:
        """Imagined sequence -> mixed reward [H, N]."""
        config = self.config
        intrinsic, _ = self.intr_norm(self.intrinsic(seq))
        reward = config.expl_intr_scale * intrinsic
        if config.expl_extr_scale:
            task = world_model.imagined_reward(seq)
            reward += config.expl_extr_scale * self.extr_norm(task)[0]
        return reward


class Plan2Explore(Intrinsic):
    """Disagreement of an ensemble that predicts the next latent (arXiv 2005.05960).

    Each head reads z_t and, with disag_action_cond, the action a_{t+1} that leads OUT of it.
    """

    def make_heads(self, init: Init, world_model: WorldModel) -> list[Head]:
        rssm, config = world_model.rssm, self.config
        sizes = {
            "stoch": rssm.stoch_size,
            "deter": config.rssm.deter,
            "feat": rssm.feat_size,
            "embed": world_model.encoder.size,
        }
        inputs = rssm.feat_size + world_model.actions * config.disag_action_cond
        shape = (sizes[config.disag_target],)
        names = [init / f"disag{i}" for i in range(config.disag_models)]
        return [Head(name, inputs, shape, config.expl_head) for name in names]

    def loss(self, feat: tf.Tensor, outputs: dict, data: Batch) -> tf.Tensor:
        offset, length = self.config.disag_offset, feat.shape[1]
        ahead = max(offset, 1)
        rows = length - ahead  # the last row has no action that leads out of it
        inputs = self._inputs(feat[:, :rows], data["action"][:, 1 : rows + 1])
        target = outputs[self.config.disag_target][:, offset : offset + rows]
        target = tf.stop_gradient(tf.reshape(target, (*target.shape[:2], -1)))
        inputs = tf.stop_gradient(inputs)
        loss = -tf.add_n([head(inputs).log_prob(target) for head in self.heads])
        # No action leads from one sequence of a batch row into the next: leave such pairs out.
        sequence = tf.cumsum(tf.cast(data["is_first"], tf.int32), 1)
        mask = tf.cast(sequence[:, :rows] == sequence[:, ahead:], loss.dtype)
        return tf.reduce_sum(loss * mask) / tf.maximum(tf.reduce_sum(mask), 1)

    def intrinsic(self, seq: Sequence) -> tf.Tensor:
        inputs = self._inputs(seq["feat"][:-1], seq["action"][1:])
        guesses = tf.stack([head(inputs).mode() for head in self.heads])  # [M, H, N, size]
        # A few heads in 16 bit often agree exactly, and a root has no slope at 0.
        variance = tf.maximum(tf.math.reduce_variance(guesses, 0), 1e-20)
        disagreement = tf.reduce_mean(tf.sqrt(variance), -1)
        return tf.math.log(disagreement) if self.config.disag_log else disagreement

    def _inputs(self, feat: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        if not self.config.disag_action_cond:
            return feat
        return tf.concat([feat, tf.cast(action, feat.dtype)], -1)


class ModelLoss(Intrinsic):
    """A head predicts the world model's loss `expl_model_loss`, which is the intrinsic reward."""

    def make_heads(self, init: Init, world_model: WorldModel) -> list[Head]:
        name, known = self.config.expl_model_loss, world_model.losses
        refusal = f"--expl_model_loss {name} is no loss of this world model: its losses are"
        refuse_unknown(name, known, refusal)
        return [Head(init / "loss", world_model.rssm.feat_size, (), self.config.expl_head)]

    def loss(self, feat: tf.Tensor, outputs: dict, data: Batch) -> tf.Tensor:
        target = tf.stop_gradient(outputs[f"{self.config.expl_model_loss}_loss"])
        return -tf.reduce_mean(self.heads[0](tf.stop_gradient(feat)).log_prob(target))

    def intrinsic(self, seq: Sequence) -> tf.Tensor:
        return self.heads[0](seq["feat"][:-1]).mode()
