"""The recurrent state-space model: latent dynamics with a deterministic and a stochastic part.

A state is a dict: deter [..., D], stoch [..., S, C] and logit [..., S, C] (float32); the Gaussian
variant (discrete: 0) has stoch, mean and std [..., S] instead.
"""

from collections.abc import Callable

import tensorflow as tf

from dreamerv2.common.nn import dists
from dreamerv2.common.nn.layers import Dense, GRUCell, NormAct, OneHots
from dreamerv2.common.nn.recurrence import Linear, recur, scan, swap_time
from dreamerv2.common.nn.tfutils import Init, Nest, weight, wide

State = dict[str, tf.Tensor]

STD_ACTS = {
    "sigmoid2": lambda x: 2 * tf.sigmoid(x / 2),
    "sigmoid": tf.sigmoid,
    "softplus": tf.nn.softplus,
}


class RSSM(tf.Module):
    """Recurrent state-space model (paper, section 2.1, equation 1).

        x_t = act(W [z_{t-1}, a_t]),  h_t = GRU(x_t, h_{t-1})       a_t led from t-1 to t
        prior      p(z_t | h_t)
        posterior  q(z_t | h_t, e_t)

    Args:
        embed: size of the encoder's output e_t.
        actions: size of an action.
        config: the knobs under `rssm`.
    """

    def __init__(self, init: Init, embed: int, actions: int, config):
        super().__init__()
        self.dtype, self.config = init.dtype, config
        self.discrete = bool(config.discrete)
        self.stoch_shape = (config.stoch, config.discrete) if self.discrete else (config.stoch,)
        self.stoch_size = config.stoch * (config.discrete or 1)
        self.feat_size = self.stoch_size + config.deter
        stats = self.stoch_size if self.discrete else 2 * config.stoch

        def hidden(name: str, inputs: int) -> tuple[Dense, NormAct]:
            part = init / name
            layer = Dense(part, inputs, config.hidden)
            return layer, NormAct(part, config.hidden, config.norm, config.act)

        self.inp, self.inp_act = hidden("img_in", self.stoch_size + actions)
        self.gru = GRUCell(init / "gru", config.hidden, config.deter)
        self.prior_nets = []
        for i in range(config.ensemble):
            layer = hidden(f"img_out{i}", config.deter)
            self.prior_nets.append((*layer, Dense(init / f"img_dist{i}", config.hidden, stats)))
        self.post, self.post_act = hidden("obs_out", config.deter + embed)
        self.post_dist = Dense(init / "obs_dist", config.hidden, stats)

    # --- states ---

    def initial(self, batch: int) -> State:
        """The state before anything was seen: zeros."""
        stats = ("logit",) if self.discrete else ("mean", "std")
        zeros = tf.zeros((batch, *self.stoch_shape), self.dtype)
        state = {"deter": tf.zeros((batch, self.config.deter), self.dtype), "stoch": zeros}
        return state | {key: wide(zeros) for key in stats}

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniform noise that one state's sample takes, without leading axes."""
        return (self.config.stoch,)

    def feat(self, state: State) -> tf.Tensor:
        """[..., S*C + D]: flattened stochastic part, then deterministic part."""
        return tf.concat([self._flat(state["stoch"]), state["deter"]], -1)

    def features(self, state: State) -> tuple:
        """What to call heads with for a sampled state: its feat and, if that is faster, OneHots."""
        hot = OneHots.of(state["stoch"]) if self.discrete else None
        return (self.feat(state),) if hot is None else (self.feat(state), hot)

    def dist(self, state: State):
        """Distribution of the stochastic part, one event per state."""
        if self.discrete:
            return dists.OneHot(state["logit"], event=1)
        return dists.Normal(state["mean"], state["std"], event=1)

    # --- steps ---

    def observe(
        self,
        embed: tf.Tensor,
        action: tf.Tensor,
        is_first: tf.Tensor,
        noise: dict[str, tf.Tensor],
        start: State,
    ) -> tuple[State, State]:
        """Filter a batch of sequences.

        Args:
            embed: [B, T, E] from the encoder.
            action: [B, T, A]; a_t led to the observation at t.
            is_first: [B, T] bool; state and action before such a row count as zeros.
            noise: post [B, T, S] and ensemble [T], uniform in [0, 1).
            start: state before the first row, entries [B, ...].

        Returns: posterior and prior states, entries [B, T, ...].
        """
        # Numbers: without AVX-512 oneDNN complains of every bool it is to transpose.
        inputs = swap_time({"noise": noise["post"], "first": tf.where(is_first, 1.0, 0.0)})
        action, embed = swap_time((tf.cast(action, self.dtype), embed))
        # What needs no state is outside of the loop: one large product, not one a step.
        shares = {
            "inp": self.inp.part(
                _begun(action, inputs["first"]), self.stoch_size, self.inp.kernel.shape[0]
            ),
            "post": self.post.part(embed, self.config.deter, self.post.kernel.shape[0]),
        }
        post = recur(self._filter, self._recurrent_layers(shares), inputs, start)
        # Neither does the recurrence depend on the prior.
        stats = self._prior_stats(post["deter"], noise["ensemble"])
        prior = {**stats, "deter": post["deter"]}
        return swap_time((post, prior))

    def obs_step(
        self,
        state: State,
        action: tf.Tensor,
        embed: tf.Tensor,
        is_first: tf.Tensor,
        noise: tf.Tensor | None,
    ) -> State:
        """One posterior step.

        Args:
            state: the one before, entries [B, ...].
            action: [B, A] that led here.
            embed: [B, E]; is_first: [B].
            noise: uniform [B, S], or None for the posterior's mode.
        """
        action = _begun(tf.cast(action, self.dtype), is_first)
        embed = tf.cast(embed, self.dtype)
        layers = {
            "inp": lambda stoch: self.inp(tf.concat([stoch, action], -1)),
            "gru": self.gru.dense,
            "post": lambda deter: self.post(tf.concat([deter, embed], -1)),
            "out": self.post_dist,
        }
        now = {"first": is_first, "noise": noise}
        return self._filter(state, now, lambda name, x: layers[name](x))

    def img_step(
        self,
        state: State,
        action: tf.Tensor,
        noise: dict[str, tf.Tensor],
        hot: OneHots | None = None,
    ) -> State:
        """One prior step.

        Args:
            state: the one before, entries [B, ...].
            action: [B, A] that leads on.
            noise: uniform, prior [B, S] and ensemble [].
            hot: from `features(state)` if the state was sampled; faster, the same result.
        """
        flat = self._flat(state["stoch"])
        x = self.inp_act(self.inp(tf.concat([flat, tf.cast(action, self.dtype)], -1), hot))
        deter = self.gru(x, state["deter"])
        stats = self._prior_stats(deter[None], noise["ensemble"][None])
        stats = tf.nest.map_structure(lambda x: x[0], stats)
        return self._sample(deter, stats, noise["prior"])

    def imagine(self, action: tf.Tensor, noise: dict[str, tf.Tensor], start: State) -> State:
        """Open loop: action [B, T, A], noise (prior [B, T, S], ensemble [T]) -> [B, T, ...]."""
        inputs = (swap_time(action), swap_time(noise["prior"]), noise["ensemble"])
        step = lambda s, x: self.img_step(s, x[0], {"prior": x[1], "ensemble": x[2]})  # noqa: E731
        return swap_time(scan(step, inputs, start))

    # --- parts of a step ---

    def _filter(self, state: State, now: dict, apply: Callable) -> State:
        """One posterior step; `apply(name, x)` is the linear layer of that name.

        The layers `inp` and `post` add the share of action and embedding themselves.
        """
        stoch, deter = _begun((self._flat(state["stoch"]), state["deter"]), now["first"])
        x = self.inp_act(apply("inp", stoch))
        deter = self.gru.gates(apply("gru", tf.concat([x, deter], -1)), deter)
        x = self.post_act(apply("post", deter))
        return self._sample(deter, self._stats(apply("out", x)), now["noise"])

    def _recurrent_layers(self, shares: State) -> dict[str, Linear]:
        """The linear layers of a posterior step; shares [T, B, units] of what needs no state."""

        def constant(dense: Dense) -> tf.Tensor:
            bias = weight(dense.bias, self.dtype)
            return tf.broadcast_to(bias, (*shares["inp"].shape[:2], bias.shape[0]))

        return {
            "inp": Linear(self.inp.rows(0, self.stoch_size), shares["inp"]),
            "gru": Linear(weight(self.gru.dense.kernel, self.dtype), constant(self.gru.dense)),
            "post": Linear(self.post.rows(0, self.config.deter), shares["post"]),
            "out": Linear(weight(self.post_dist.kernel, self.dtype), constant(self.post_dist)),
        }

    def _prior_stats(self, deter: tf.Tensor, pick: tf.Tensor) -> State:
        """deter [T, B, D], pick uniform [T]: which member of the ensemble answers at each step."""
        outs = [dist(act(layer(deter))) for layer, act, dist in self.prior_nets]
        if len(outs) == 1:
            return self._stats(outs[0])
        member = tf.cast(pick * len(outs), tf.int32)
        chosen = tf.one_hot(member, len(outs), dtype=outs[0].dtype)  # [T, N]
        return self._stats(tf.einsum("tn,ntbk->tbk", chosen, tf.stack(outs)))

    def _stats(self, x: tf.Tensor) -> State:
        """[..., S*C] -> logit [..., S, C], or [..., 2S] -> mean and std [..., S]."""
        x = wide(x)
        if self.discrete:
            return {"logit": tf.reshape(x, (*x.shape[:-1], *self.stoch_shape))}
        mean, std = tf.split(x, 2, -1)
        return {"mean": mean, "std": STD_ACTS[self.config.std_act](std) + self.config.min_std}

    def _sample(self, deter, stats: State, noise: tf.Tensor | None) -> State:
        dist = self.dist(stats)
        stoch = dist.mode() if noise is None else dist.sample(noise)
        return {"deter": deter, "stoch": tf.cast(stoch, self.dtype), **stats}

    def _flat(self, stoch: tf.Tensor) -> tf.Tensor:
        return tf.reshape(stoch, (*stoch.shape[: -len(self.stoch_shape)], self.stoch_size))


def _begun(nest: Nest, first: tf.Tensor) -> Nest:
    """Zeros where a new sequence begins, [N...]; a product with 0 would leave NaN what it is."""
    # Compared, not cast: TensorFlow moves a cast to bool before the transposition.
    first = (first if first.dtype == tf.bool else first > 0)[..., None]
    return tf.nest.map_structure(lambda x: tf.where(first, tf.zeros([], x.dtype), x), nest)
