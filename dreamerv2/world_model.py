"""The world model: encoder, latent dynamics and heads, trained on sequences."""

from collections.abc import Callable, Collection, Mapping

import tensorflow as tf

from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.nn.dists import draw
from dreamerv2.common.nn.nets import Decoder, Encoder, Head
from dreamerv2.common.nn.recurrence import scan
from dreamerv2.common.nn.variables import Init
from dreamerv2.losses import kl_balance
from dreamerv2.rssm import RSSM, State

Batch = Mapping[str, tf.Tensor]  # key -> [B, T, ...]
Noise = dict[str, tf.Tensor]  # uniform in [0, 1), for each use of it
Sequence = dict[str, tf.Tensor]  # of imagined states, see WorldModel.imagine

NOT_OBSERVED = ("action", "reward", "is_first", "is_last", "is_terminal")
CLIP_REWARDS = {"identity": tf.identity, "sign": tf.sign, "tanh": tf.tanh}


class WorldModel(tf.Module):
    """World model (paper, section 2.1); the shapes are those of one observation, scalars as ()."""

    def __init__(self, init: Init, shapes: Mapping[str, tuple[int, ...]], actions: int, config):
        super().__init__()
        self.config, self.actions, self.dtype = config, actions, init.dtype
        self.float = init.variable_dtype  # of rewards, targets and losses
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
        self._check_options()
        self._report_unused()

    @property
    def losses(self) -> list[str]:
        """Names of the losses: kl, one for each image and vector, reward, discount."""
        decoder = self.heads["decoder"]
        heads = [name for name in self.heads if name != "decoder"]
        return ["kl", *decoder.images, *decoder.vectors, *heads]

    def _check_options(self) -> None:
        # The defaults name heads and losses that this task's model may lack.
        heads = dict.fromkeys([*self.heads, "discount"])
        losses = dict.fromkeys(["kl", "image", "proprio", "reward", "discount", *self.losses])
        for name in self.config.grad_heads:
            refusal = f"--grad_heads {name} is no head of the world model: its heads are"
            refuse_unknown(name, heads, refusal)
        for key in self.config.loss_scales:
            refuse_unknown(key, losses, f"--loss_scales.{key} scales nothing: the losses are")

    def _report_unused(self) -> None:
        """Print the observations that are not read or not predicted, to show a misspelt pattern."""
        keys = list(self.shapes)
        parts = ("encoder", "read", self.encoder), ("decoder", "predicted", self.heads["decoder"])
        for name, use, part in parts:
            used = [*part.images, *part.vectors]
            if unused := [key for key in keys if key not in used]:
                options = f"--{name}.cnn_keys and --{name}.mlp_keys"
                print(f"Not {use}, by {options}: {', '.join(unused)}.", flush=True)
            keys = used  # an observation that is not read need not be predicted

    # --- learning ---

    def noise(self, batch: int, length: int, seed: tf.Tensor) -> Noise:
        """Uniform noise for one `loss` or `predict`: post and prior [B, T, S], ensemble [T]."""
        states = (batch, length, self.config.rssm.stoch)
        return draw(seed, post=states, ensemble=(length,), prior=states)

    def loss(self, data: Batch, start: State, noise: Noise) -> tuple[tf.Tensor, State, dict, dict]:
        """Model loss (paper, equation 2): every head's NLL plus the balanced KL.

        Args:
            data: preprocessed batch.
            start: posterior before the first row of each sequence, entries [B, ...].

        Returns: loss [], posterior states [B, T, ...], outputs for each state ({key}_loss [B, T]
            and embed [B, T, E]), metrics.
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
        scales, is_vector = self.config.loss_scales, key in self.heads["decoder"].vectors
        return scales.get(key, scales.get("proprio", 1.0) if is_vector else 1.0)

    def preprocess(self, obs: Batch) -> dict[str, tf.Tensor]:
        """Turn a raw batch into the networks' inputs and targets.

        Images become x / 255 - 0.5, scalars gain an axis, the reward is clipped, and `discount`,
        the target of the discount head, is gamma * (1 - is_terminal).
        """
        obs = dict(obs)
        for key in self.shapes.keys() & obs.keys():
            value = tf.cast(obs[key], self.float)
            value = value / 255 - 0.5 if len(self.shapes[key]) == 3 else value
            obs[key] = value[..., None] if key in self.scalars else value
        if "reward" in obs:
            reward = tf.cast(obs["reward"], self.float)
            obs["reward"] = CLIP_REWARDS[self.config.clip_rewards](reward)
            obs["discount"] = self._start_discount(obs["is_terminal"])
        return obs

    # --- imagination ---

    def imagination_noise(self, batch: int, discrete: bool, seed, horizon: int = 0) -> Noise:
        """Uniform noise for one `imagine`: prior [H, N, S], ensemble [H], action [H, N(, A)]."""
        size = (horizon or self.config.imag_horizon, batch)
        actions = () if discrete else (self.actions,)
        prior, action = (*size, self.config.rssm.stoch), (*size, *actions)
        return draw(seed, prior=prior, ensemble=size[:1], action=action)

    def imagine(self, policy: Callable, start: State, is_terminal, noise: Noise) -> Sequence:
        """Unroll the prior with the policy (paper, section 2.2).

        Args:
            policy: maps feat [N, F] to an action distribution.
            start, is_terminal: posterior states, entries [N, ...], and whether the task ended.

        Returns: feat [H+1, N, F], deter and stoch [H+1, N, ...], action [H+1, N, A] (a_t led into
            z_t, a_0 is zeros) and discount [H+1, N].
        """
        start = {key: start[key] for key in ("deter", "stoch")}

        def step(now, noise):
            state, _ = now
            dist = policy(tf.stop_gradient(self.rssm.feat(state)))
            action = dist.sample(noise["action"])  # not in 16 bit: log_prob needs it unrounded
            state = self.rssm.img_step(state, action, noise)
            return {key: state[key] for key in start}, action

        def prepend(x, xs):
            return tf.concat([x[None], xs], 0)

        first = tf.zeros((is_terminal.shape[0], self.actions), self.float)
        states, action = scan(step, noise, (start, first))
        sequence = tf.nest.map_structure(prepend, start, states)
        sequence |= {"action": prepend(first, action), "feat": self.rssm.feat(sequence)}
        sequence["discount"] = self._discount(sequence["feat"], is_terminal)
        return sequence

    def imagined_reward(self, sequence: Sequence) -> tf.Tensor:
        """Mean of the reward head in states 0..H-1 of an imagined sequence, [H, N]."""
        return self.heads["reward"](sequence["feat"][:-1]).mean

    def _discount(self, feat: tf.Tensor, is_terminal: tf.Tensor) -> tf.Tensor:
        if "discount" not in self.heads:
            return self.config.discount * tf.ones(feat.shape[:-1], self.float)
        predicted = self.heads["discount"](feat[1:]).mean
        # The data tell whether a start state is terminal; the head need not guess.
        return tf.concat([self._start_discount(is_terminal)[None], predicted], 0)

    def _start_discount(self, is_terminal: tf.Tensor) -> tf.Tensor:
        return self.config.discount * (1 - tf.cast(is_terminal, self.float))

    # --- open-loop prediction ---

    def filter_context(self, data: Batch, context: int, noise: Noise) -> State:
        """Posterior states of the first `context` rows, [B, context, ...], from a zero state."""
        seen = {k: data[k][:, :context] for k in (*self.shapes, "action", "is_first")}
        noise = {"post": noise["post"][:, :context], "ensemble": noise["ensemble"][:context]}
        start = self.rssm.initial(seen["action"].shape[0])
        embed = self.encoder(seen)
        return self.rssm.observe(embed, seen["action"], seen["is_first"], noise, start)[0]

    def predict(self, data: Batch, context: int, noise: Noise) -> dict[str, tuple]:
        """Predict all images of a preprocessed batch, by the posterior and in an open loop.

        In the open loop the model sees `context` rows, fewer than T, then only the actions.

        Returns: for each image truth, posterior and open loop, [N, T, H, W, C] in [0, 1].
        """

        def decode(states):
            images = self.heads["decoder"](self.rssm.feat(states))
            return {k: tf.clip_by_value(images[k].mode() + 0.5, 0, 1) for k in keys}

        keys, length = self.heads["decoder"].images, data["action"].shape[1]
        states = self.filter_context(data, length, noise)
        last = {k: x[:, context - 1] for k, x in states.items()}
        rest = {"prior": noise["prior"][:, context:], "ensemble": noise["ensemble"][context:]}
        imagined = self.rssm.imagine(data["action"][:, context:], rest, last)
        post, prior = decode(states), decode(imagined)
        model = {k: tf.concat([post[k][:, :context], prior[k]], 1) for k in keys}
        return {k: (data[k] + 0.5, post[k], model[k]) for k in keys}


def refuse_unknown(name: str, known: Collection[str], sentence: str) -> None:
    """Raise a UserError that ends in the known names if this is none of them."""
    if name not in known:
        raise UserError(f"{sentence} {', '.join(known)}.{nearest(name, known)}")


def is_trained(key: str) -> bool:
    """Tell whether an entry of a batch is an observation that the model may read."""
    return key not in NOT_OBSERVED and not key.startswith("log_")
