"""The world model: encoder, latent dynamics and heads, trained to explain sequences."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.nn.layers import OneHots
from dreamerv2.common.nn.nets import Decoder, Encoder, Head
from dreamerv2.common.nn.recurrence import scan
from dreamerv2.common.nn.tfutils import Init, uniform
from dreamerv2.losses import kl_balance
from dreamerv2.rssm import RSSM, State

Batch = Mapping[str, tf.Tensor]  # key -> [B, T, ...]
Sequence = dict[str, tf.Tensor | OneHots]  # of imagined states, see WorldModel.imagine

NOT_OBSERVED = ("action", "reward", "is_first", "is_last", "is_terminal")
CLIP_REWARDS = {"identity": tf.identity, "sign": tf.sign, "tanh": tf.tanh}


class WorldModel(tf.Module):
    """World model (paper, section 2.1).

    Args:
        shapes: observation key -> shape of one observation, scalars as ().
        actions: size of an action.
        config: the whole config.
    """

    def __init__(self, init: Init, shapes: Mapping[str, tuple[int, ...]], actions: int, config):
        super().__init__()
        self.config, self.actions, self.dtype = config, actions, init.dtype
        self.float = init.store  # of rewards, targets and losses
        shapes = {k: s for k, s in shapes.items() if is_trained(k)}
        self.scalars = [key for key, shape in shapes.items() if shape == ()]
        self.shapes = {key: shape or (1,) for key, shape in shapes.items()}
        self.encoder = Encoder(init / "encoder", self.shapes, config.encoder)
        self.rssm = RSSM(init / "rssm", self.encoder.size, actions, config.rssm)
        size = self.rssm.feat_size
        self.heads = {
            "decoder": Decoder(init / "decoder", size, self.shapes, config.decoder),
            "reward": Head(init / "reward", size, (), config.reward_head),
        }
        if config.pred_discount:
            self.heads["discount"] = Head(init / "discount", size, (), config.discount_head)
        self._check_heads()
        self._check_scales()
        self._name_left_out()

    def _name_left_out(self) -> None:
        """Say which observations are not read or not predicted: a misspelt pattern shows here."""
        decoder = self.heads["decoder"]
        read = (*self.encoder.images, *self.encoder.vectors)
        predicted = (*decoder.images, *decoder.vectors)
        for what, part, keys in (
            ("read", "encoder", [key for key in self.shapes if key not in read]),
            ("predicted", "decoder", [key for key in read if key not in predicted]),
        ):
            if keys:
                knobs = f"--{part}.cnn_keys and --{part}.mlp_keys"
                print(f"Not {what}, by {knobs}: {', '.join(keys)}.", flush=True)

    def _check_heads(self) -> None:
        known = [*self.heads] + ["discount"] * ("discount" not in self.heads)
        for name in self.config.grad_heads:
            if name not in known:
                raise UserError(
                    f"--grad_heads {name} is no head of the world model: its heads are "
                    f"{', '.join(known)}.{nearest(name, known)}"
                )

    def _check_scales(self) -> None:
        decoder = self.heads["decoder"]
        # `image` may always be there: sets of values scale it, for tasks with and without images.
        known = ["kl", "image", "proprio", "reward", "discount"]
        made = (*(h for h in self.heads if h != "decoder"), *decoder.images, *decoder.vectors)
        known += [key for key in made if key not in known]
        for key in self.config.loss_scales:
            if key not in known:
                raise UserError(
                    f"--loss_scales.{key} scales nothing: the losses are"
                    f" {', '.join(known)}.{nearest(key, known)}"
                )

    # --- learning ---

    def noise(self, batch: int, length: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Uniform noise for one `loss`: post [B, T, S], ensemble [T]."""
        return {
            "post": uniform((batch, length, *self.rssm.noise_shape), seed, 0),
            "ensemble": uniform((length,), seed, 1),
        }

    def loss(
        self, data: Batch, start: State, noise: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, State, dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Model loss (paper, equation 2): every head's NLL plus the balanced KL.

        Args:
            data: preprocessed batch.
            start: posterior before the first row of each sequence, entries [B, ...].
            noise: from `noise`.

        Returns: loss [], posterior states [B, T, ...], what is known of each state ({key}_loss
            [B, T] and embed [B, T, E]), metrics.
        """
        config, images = self.config, self.heads["decoder"].images
        embed = self.encoder(data)
        post, prior = self.rssm.observe(embed, data["action"], data["is_first"], noise, start)
        losses, outputs, metrics = {}, {"embed": embed}, {}
        losses["kl"], outputs["kl_loss"] = kl_balance(post, prior, self.rssm.dist, **config.kl)
        feat = self.rssm.feat(post)
        for name, head in self.heads.items():
            out = head(feat if name in config.grad_heads else tf.stop_gradient(feat))
            for key, dist in (out if isinstance(out, dict) else {name: out}).items():
                outputs[f"{key}_loss"] = -dist.log_prob(data[key])
                losses[key] = tf.reduce_mean(outputs[f"{key}_loss"])
                if key in images:
                    # The NLL of 4096 unit Gaussians hides the error behind a constant of 3764.
                    metrics[f"{key}_mse"] = tf.reduce_mean((dist.mode() - data[key]) ** 2)
        total = tf.add_n([self._scale(key) * value for key, value in losses.items()])
        metrics |= {f"{key}_loss": value for key, value in losses.items()}
        metrics["model_kl"] = tf.reduce_mean(outputs["kl_loss"])
        metrics["prior_ent"] = tf.reduce_mean(self.rssm.dist(prior).entropy())
        metrics["post_ent"] = tf.reduce_mean(self.rssm.dist(post).entropy())
        return total, post, outputs, metrics

    def _scale(self, key: str) -> float:
        scales = self.config.loss_scales
        if key in self.heads["decoder"].vectors:
            return scales.get(key, scales.get("proprio", 1.0))
        return scales.get(key, 1.0)

    def preprocess(self, obs: Batch) -> dict[str, tf.Tensor]:
        """Raw batch to what the networks read.

        Images become x / 255 - 0.5, scalars gain an axis, the reward is clipped, and `discount`,
        the target of the discount head, is gamma * (1 - is_terminal).
        """
        obs = dict(obs)
        for key in self.shapes.keys() & obs.keys():
            if len(self.shapes[key]) == 3:
                obs[key] = tf.cast(obs[key], self.float) / 255 - 0.5
            else:
                value = tf.cast(obs[key], self.float)
                obs[key] = value[..., None] if key in self.scalars else value
        if "reward" in obs:
            reward = tf.cast(obs["reward"], self.float)
            obs["reward"] = CLIP_REWARDS[self.config.clip_rewards](reward)
            going = 1 - tf.cast(obs["is_terminal"], self.float)
            obs["discount"] = self.config.discount * going
        return obs

    # --- imagination ---

    def imagination_noise(self, batch: int, actions, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Uniform noise for one `imagine` of `imag_horizon` steps.

        Args:
            batch: number of start states, N.
            actions: shape of the noise of one policy sample.
        """
        horizon = self.config.imag_horizon
        return {
            "prior": uniform((horizon, batch, *self.rssm.noise_shape), seed, 0),
            "ensemble": uniform((horizon,), seed, 1),
            "action": uniform((horizon, batch, *actions), seed, 2),
        }

    def imagine(
        self,
        policy: Callable,
        start: State,
        is_terminal: tf.Tensor,
        noise: dict[str, tf.Tensor],
    ) -> Sequence:
        """Unroll the prior with the policy (paper, section 2.2).

        Args:
            policy: maps feat [N, F], and OneHots if they help, to an action distribution.
            start: posterior states, entries [N, ...].
            is_terminal: [N], of the start states.
            noise: from `imagination_noise`, entries [H, N, ...].

        Returns: feat [H+1, N, F], deter and stoch [H+1, N, ...], action [H+1, N, A] (a_t led into
            z_t, a_0 is zeros) and discount [H+1, N]; hot, if it helps, see
            `head_inputs`.
        """
        start = {key: start[key] for key in ("deter", "stoch")}

        def step(now, noise):
            state, _ = now
            feat, *hot = self.rssm.features(state)
            dist = policy(tf.stop_gradient(feat), *hot)
            action = dist.sample(noise["action"])  # wide: log_prob is exact on no other
            state = self.rssm.img_step(state, action, noise, *hot)
            return {key: state[key] for key in start}, action

        first = tf.zeros((is_terminal.shape[0], self.actions), self.float)
        states, action = scan(step, noise, (start, first))
        prepend = lambda x, xs: tf.concat([x[None], xs], 0)  # noqa: E731
        sequence = tf.nest.map_structure(prepend, start, states)
        sequence["action"] = prepend(first, action)
        sequence |= zip(("feat", "hot"), self.rssm.features(sequence), strict=False)
        sequence["discount"] = self._discount(sequence, is_terminal)
        return sequence

    def imagined_reward(self, sequence: Sequence) -> tf.Tensor:
        """What the reward head expects in states 0..H-1 of an imagined sequence, [H, N]."""
        return self.heads["reward"](*head_inputs(sequence, stop=-1)).mean

    def _discount(self, sequence: Sequence, is_terminal: tf.Tensor) -> tf.Tensor:
        gamma = self.config.discount
        if "discount" not in self.heads:
            return gamma * tf.ones(sequence["feat"].shape[:-1], self.float)
        predicted = self.heads["discount"](*head_inputs(sequence, start=1)).mean
        # Whether the start states were terminal is known; the head need not guess.
        return tf.concat([gamma * (1 - tf.cast(is_terminal, self.float))[None], predicted], 0)

    # --- what it believes ---

    def video_noise(self, batch: int, length: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Uniform noise for one `video_pred`."""
        post = uniform((batch, length, *self.rssm.noise_shape), seed, 0)
        prior = uniform((batch, length, *self.rssm.noise_shape), seed, 1)
        return {"post": post, "prior": prior, "ensemble": uniform((length,), seed, 2)}

    def video_pred(
        self, data: Batch, key: str, noise: dict[str, tf.Tensor], context: int = 5
    ) -> tf.Tensor:
        """Open-loop prediction: the model sees `context` frames, then only the actions.

        Args:
            data: preprocessed batch of N sequences of T > context rows.
            key: which image.
            noise: from `video_noise`.

        Returns: [T, 3*H, N*W, C] in [0, 1]; rows are truth, model and error (0.5 is none). Where
            another sequence begins among the frames to be predicted, all are grey from there on.
        """
        truth = data[key] + 0.5
        batch, length = truth.shape[:2]
        context = min(context, length - 1)
        decode = lambda states: self.heads["decoder"](self.rssm.feat(states))[key].mode()  # noqa: E731
        seen, rest = (lambda x: x[:, :context]), (lambda x: x[:, context:])
        embed = self.encoder({k: seen(data[k]) for k in self.shapes})
        filtering = {"post": seen(noise["post"]), "ensemble": noise["ensemble"][:context]}
        post, _ = self.rssm.observe(
            embed, seen(data["action"]), seen(data["is_first"]), filtering, self.rssm.initial(batch)
        )
        dreaming = {"prior": rest(noise["prior"]), "ensemble": noise["ensemble"][context:]}
        last = {k: x[:, -1] for k, x in post.items()}
        prior = self.rssm.imagine(rest(data["action"]), dreaming, last)
        model = tf.clip_by_value(tf.concat([decode(post), decode(prior)], 1) + 0.5, 0, 1)
        video = tf.concat([truth, model, (model - truth + 1) / 2], 2)
        begun = tf.cumsum(tf.cast(rest(data["is_first"]), tf.int32), 1) > 0
        over = tf.concat([tf.zeros((batch, context), tf.bool), begun], 1)
        video = tf.where(over[..., None, None, None], tf.constant(0.5, video.dtype), video)
        video = tf.einsum("bthwc->thbwc", video)
        return tf.reshape(video, (*video.shape[:2], -1, video.shape[-1]))


def head_inputs(sequence: Sequence, start: int | None = None, stop: int | None = None) -> list:
    """What to call heads with for these rows of an imagined sequence, see RSSM.features."""
    return [sequence[key][start:stop] for key in ("feat", "hot") if key in sequence]


def is_trained(key: str) -> bool:
    """Whether an entry of a batch is an observation that the model may read."""
    return key not in NOT_OBSERVED and not key.startswith("log_")
