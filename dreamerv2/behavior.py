"""Actor and critic, learned from imagined trajectories alone."""

import contextlib
from collections.abc import Callable

import tensorflow as tf

from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.nets import Head
from dreamerv2.common.nn.optim import Optimizer, recording
from dreamerv2.common.nn.precision import cast_once
from dreamerv2.common.nn.schedules import schedule
from dreamerv2.common.nn.variables import Init
from dreamerv2.losses import actor_loss, critic_loss, imagination_weights, lambda_return
from dreamerv2.rssm import State
from dreamerv2.world_model import Sequence, WorldModel


class RewardNorm(tf.Module):
    """Scales rewards by a running mean of their magnitude: r / (mag + eps) * scale.

    With momentum 1 the magnitude is 1, so the defaults change nothing.
    """

    def __init__(self, init: Init, config):
        super().__init__()
        self.config, name = config, f"{init.path}/reward_mag"
        self.mag = tf.Variable(1.0, name=name, dtype=init.variable_dtype, trainable=False)

    def undo(self, value: tf.Tensor) -> tf.Tensor:
        """Return a value in units of the reward before its normalization."""
        mag = tf.cast(self.mag, value.dtype) if self.config.momentum < 1 else 1.0
        return value * (mag + self.config.eps) / max(self.config.scale, 1e-8)

    def __call__(self, reward: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Reward of any shape -> the same, normalized, and metrics. Updates the magnitude."""
        keep = self.config.momentum
        mag = tf.ones([], reward.dtype)  # with momentum 1, also after a checkpoint of another one
        if keep < 1:
            mean = tf.reduce_mean(tf.abs(tf.stop_gradient(reward)))
            mag = keep * self.mag + (1 - keep) * tf.cast(mean, self.mag.dtype)
            # An overflow in float16 skips the update, and must not reach the magnitude either.
            self.mag.assign(tf.where(tf.math.is_finite(mag), mag, self.mag))
            mag = tf.cast(self.mag, reward.dtype)
        normed = reward / (mag + self.config.eps) * self.config.scale
        metrics = {
            "reward_mean": tf.reduce_mean(reward),
            "reward_std": tf.math.reduce_std(reward),
            "reward_normed_mean": tf.reduce_mean(normed),
            "reward_normed_std": tf.math.reduce_std(normed),
        }
        return normed, metrics


class ActorCritic(tf.Module):
    """Actor, critic and slow critic on the latent state (paper, section 2.2)."""

    def __init__(self, init: Init, config, world_model: WorldModel, discrete: bool):
        super().__init__()
        self.config, self.discrete, self.dtype = config, discrete, init.dtype
        size, actions = world_model.rssm.feat_size, world_model.actions
        dist = config.actor.dist
        if dist == "auto":
            dist = "onehot" if discrete else "trunc_normal"
        if (dist == "onehot") != discrete:
            kind, fit = ("discrete", "onehot") if discrete else ("continuous", "trunc_normal")
            raise UserError(f"--actor.dist {dist} does not fit {kind} actions; auto takes {fit}.")
        self.actor = Head(init / "actor", size, (actions,), config.actor.update({"dist": dist}))
        self.critic = Head(init / "critic", size, (), config.critic)
        self.slow_critic = self.critic
        if config.slow_target:
            self.slow_critic = Head(init / "slow_critic", size, (), config.critic)
            self._copy_critic(1.0)
        self.updates = tf.Variable(0, name=f"{init.path}/updates", dtype=tf.int64, trainable=False)
        self.reward_norm = RewardNorm(init, config.reward_norm)
        weights = self.actor.trainable_variables, self.critic.trainable_variables
        self.actor_opt = Optimizer(init / "actor_opt", "actor", weights[0], config.actor_opt)
        self.critic_opt = Optimizer(init / "critic_opt", "critic", weights[1], config.critic_opt)
        grad = config.actor_grad
        self.grad = grad if grad != "auto" else ("reinforce" if discrete else "dynamics")

    def policy(self, feat: tf.Tensor):
        """feat [N, F] -> distribution over actions [N, A]."""
        return self.actor(feat)

    def value(self, feat: tf.Tensor) -> tf.Tensor:
        """feat [N, F] -> the slow critic's value [N], without the rewards' normalization."""
        return self.reward_norm.undo(self.slow_critic(feat).mode())

    def update(
        self, world_model, start: State, is_terminal, reward_fn: Callable, seed, step
    ) -> dict[str, tf.Tensor]:
        """One update of actor, critic and slow critic; returns metrics.

        Args:
            world_model: imagines; an argument, so that it is no part of this module.
            start, is_terminal: posterior states to imagine from, entries [B, T, ...].
            reward_fn: maps an imagined sequence to r_0..r_{H-1}, [H, N].
            seed, step: int32 [2], and the agent steps so far, for schedules.
        """
        start, is_terminal = tf.nest.map_structure(_start_states, (start, is_terminal))
        noise = world_model.imagination_noise(is_terminal.shape[0], self.discrete, seed)
        with recording(self.actor) as tape, cast_once(world_model, self, dtype=self.dtype):
            # REINFORCE sends no gradient through the dynamics: nothing there needs recording.
            with tape.stop_recording() if self.grad == "reinforce" else contextlib.nullcontext():
                seq = world_model.imagine(self.policy, start, is_terminal, noise)
                reward, metrics = self.reward_norm(reward_fn(seq))
                target, value = self.target(seq, reward)
                metrics["critic_slow"] = tf.reduce_mean(value)
            loss, actor_metrics = self.actor_loss(seq, target, value, step)
            loss = self.actor_opt.scale(loss)
        metrics |= actor_metrics | self.actor_opt.minimize(tape, loss, step)
        with recording(self.critic) as tape, cast_once(self, dtype=self.dtype):
            loss, critic_metrics = self.critic_loss(seq, target)
            loss = self.critic_opt.scale(loss)
        metrics |= critic_metrics | self.critic_opt.minimize(tape, loss, step)
        self._update_slow_critic()
        return metrics

    def target(self, seq: Sequence, reward: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return lambda-returns V_0..V_{H-1} [H, N] and slow values v_0..v_H [H+1, N]."""
        value = self.slow_critic(seq["feat"]).mode()
        discount = seq["discount"][:-1]
        return lambda_return(reward, value, discount, self.config.discount_lambda), value

    def actor_loss(self, seq: Sequence, target, value, step) -> tuple[tf.Tensor, dict]:
        """Pair actions, targets, baselines and weights as drawn at losses.actor_loss."""
        policy = self.policy(tf.stop_gradient(seq["feat"][:-2]))
        entropy_scale = schedule(self.config.actor_ent, step, target.dtype)
        metrics, reinforce, log_prob = {}, {"reinforce": 1.0, "dynamics": 0.0}.get(self.grad), None
        if reinforce is None:
            metrics["actor_grad_mix"] = schedule(self.config.actor_grad_mix, step, target.dtype)
            reinforce = 1 - metrics["actor_grad_mix"]
        if self.grad != "dynamics":
            log_prob = policy.log_prob(tf.stop_gradient(seq["action"][1:-1]))
        baseline = value if self.config.slow_baseline else self.critic(seq["feat"]).mode()
        entropy = policy.entropy()
        weight = imagination_weights(seq["discount"][:-1])
        loss = actor_loss(
            log_prob, entropy, target[1:], baseline[:-2], weight[:-1], reinforce, entropy_scale
        )
        metrics |= {"actor_ent": tf.reduce_mean(entropy), "actor_ent_scale": entropy_scale}
        if self.discrete:  # how many actions it chooses between, and the share of the usual one
            metrics["actor_choices"] = tf.reduce_mean(tf.exp(entropy))
            metrics["actor_top_share"] = tf.reduce_max(tf.reduce_mean(seq["action"][1:], (0, 1)))
        return loss, metrics

    def critic_loss(self, seq: Sequence, target: tf.Tensor) -> tuple[tf.Tensor, dict]:
        """Fit V_t at z_t, t = 0..H-1."""
        dist = self.critic(tf.stop_gradient(seq["feat"][:-1]))
        loss = critic_loss(dist, target, imagination_weights(seq["discount"][:-1]))
        value = dist.mode()
        metrics = {
            "critic": tf.reduce_mean(value),
            "critic_target": tf.reduce_mean(target),
            "critic_error": tf.reduce_mean(tf.abs(value - target)),
        }
        return loss, metrics

    def _update_slow_critic(self) -> None:
        """Copy the critic after the first update; later mix a fraction in every so many updates."""
        if self.config.slow_target:
            due = self.updates % self.config.slow_target_update == 0
            whole = tf.constant(1, tf.float64)
            fraction = tf.where(self.updates == 0, whole, self.config.slow_target_fraction)
            tf.cond(due, lambda: self._copy_critic(fraction), lambda: tf.constant(False))
        self.updates.assign_add(1)

    def _copy_critic(self, fraction: tf.Tensor | float) -> tf.Tensor:
        for slow, fast in zip(self.slow_critic.variables, self.critic.variables, strict=True):
            mix = tf.cast(fraction, slow.dtype)
            slow.assign(mix * fast + (1 - mix) * slow)
        return tf.constant(True)


def _start_states(x: tf.Tensor) -> tf.Tensor:
    """[B, T, ...] -> [B*T, ...], without gradient."""
    return tf.stop_gradient(tf.reshape(x, (-1, *x.shape[2:])))
