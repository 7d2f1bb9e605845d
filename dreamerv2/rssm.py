"""The recurrent state-space model: latent dynamics with a deterministic and a stochastic part.

A state is a dict: deter [..., D], stoch [..., S, C] and logit [..., S, C] (float32); the Gaussian
variant (discrete: 0) has stoch, mean and std [..., S] instead.
"""

import tensorflow as tf

from dreamerv2.common.nn import dists
from dreamerv2.common.nn.layers import Dense, GRUCell, NormAct
from dreamerv2.common.nn.precision import at_least_float32
from dreamerv2.common.nn.recurrence import Nest, recur, scan, swap_time
from dreamerv2.common.nn.variables import Init

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
    posterior  q(z_t | h_t, e_t)                                e_t: output of the encoder
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
        """The state before the first observation: zeros."""
        stats = ("logit",) if self.discrete else ("mean", "std")
        zeros = tf.zeros((batch, *self.stoch_shape), self.dtype)
        state = {"deter": tf.zeros((batch, self.config.deter), self.dtype), "stoch": zeros}
        return state | {key: at_least_float32(zeros) for key in stats}

    def feat(self, state: State) -> tf.Tensor:
        """[..., S*C + D]: flattened stochastic part, then deterministic part."""
        return tf.concat([self._flat(state["stoch"]), state["deter"]], -1)

    def dist(self, state: State):
        """Distribution of the stochastic part, one event per state."""
        if self.discrete:
            return dists.OneHot(state["logit"], event=1)
        return dists.Normal(state["mean"], state["std"], event=1)

    # --- steps ---

    def obs_step(self, state: State, action, embed, is_first, noise: tf.Tensor | None) -> State:
        """One posterior step, see `observe`: action [B, A], embed [B, E], is_first [B].

        noise: uniform [B, S], or None for the posterior's mode.
        """
        return self._filter(state, (reset_where(is_first, action), embed, is_first, noise))

    def _filter(self, state: State, now: tuple) -> State:
        """x = act(W [z, a]),  h = GRU(x, h),  z ~ q(z | h, e), for a and e or their `share`."""
        action, embed, is_first, noise = now
        stoch, deter = reset_where(is_first, (self._flat(state["stoch"]), state["deter"]))
        x = self.inp_act(self.inp(stoch, action))
        deter = self.gru(x, deter)
        x = self.post_act(self.post(deter, embed))
        return self._sample(deter, self._stats(self.post_dist(x)), noise)

    def observe(self, embed, action, is_first, noise, start: State) -> tuple[State, State]:
        """Filter a batch of sequences: `obs_step` over time.

        Args:
            embed: [B, T, E] from the encoder.
            action: [B, T, A]; a_t led to the observation at t.
            is_first: [B, T] bool; state and action before such a row count as zeros.
            noise: post [B, T, S] and ensemble [T], uniform in [0, 1).
            start: state before the first row, entries [B, ...].

        Returns: posterior and prior states, entries [B, T, ...].
        """
        # As numbers, since oneDNN without AVX-512 logs an error for every bool it transposes.
        is_first = tf.where(is_first, 1.0, 0.0)
        action = tf.cast(action, self.dtype)
        action, embed, is_first, post = swap_time((action, embed, is_first, noise["post"]))
        # Shares of the inputs that need no state: one large product outside of the loop.
        action = self.inp.share(reset_where(is_first, action))
        embed = self.post.share(embed)
        post = recur(self._filter, (action, embed, is_first, post), start)
        # The recurrence does not depend on the prior.
        prior = {**self._prior_stats(post["deter"], noise["ensemble"]), "deter": post["deter"]}
        return swap_time((post, prior))

    def img_step(self, state: State, action: tf.Tensor, noise: dict[str, tf.Tensor]) -> State:
        """One prior step: x = act(W [z, a]),  h = GRU(x, h),  z ~ p(z | h).

        noise: uniform, prior [B, S] and ensemble [].
        """
        x = self.inp_act(self.inp(self._flat(state["stoch"]), action))
        deter = self.gru(x, state["deter"])
        stats = self._prior_stats(deter[None], noise["ensemble"][None])
        return self._sample(deter, {key: x[0] for key, x in stats.items()}, noise["prior"])

    def imagine(self, action: tf.Tensor, noise: dict[str, tf.Tensor], start: State) -> State:
        """Open loop: action [B, T, A], noise (prior [B, T, S], ensemble [T]) -> [B, T, ...]."""
        noise = {"prior": swap_time(noise["prior"]), "ensemble": noise["ensemble"]}
        inputs = swap_time(action), noise
        return swap_time(scan(lambda state, now: self.img_step(state, *now), inputs, start))

    # --- parts of a step ---

    def _prior_stats(self, deter: tf.Tensor, pick: tf.Tensor) -> State:
        """deter [T, B, D] -> p(z | h); pick, uniform [T], selects the ensemble's member."""
        outs = [dist(act(layer(deter))) for layer, act, dist in self.prior_nets]
        if len(outs) == 1:
            return self._stats(outs[0])
        member = tf.cast(pick * len(outs), tf.int32)
        chosen = tf.one_hot(member, len(outs), dtype=outs[0].dtype)  # [T, N]
        return self._stats(tf.einsum("tn,ntbk->tbk", chosen, tf.stack(outs)))

    def _stats(self, x: tf.Tensor) -> State:
        """[..., S*C] -> logit [..., S, C], or [..., 2S] -> mean and std [..., S]."""
        x = at_least_float32(x)
        if self.discrete:
            return {"logit": tf.reshape(x, (*x.shape[:-1], *self.stoch_shape))}
        mean, std = tf.split(x, 2, -1)
        return {"mean": mean, "std": STD_ACTS[self.config.std_act](std) + self.config.min_std}

    def _sample(self, deter, stats: State, noise: tf.Tensor | None) -> State:
        dist = self.dist(stats)
        stoch = dist.mode() if noise is None else dist.sample(noise)
        return {"deter": deter, "stoch": tf.cast(stoch, self.dtype), **stats}

    def _flat(self, stoch: tf.Tensor) -> tf.Tensor:
        """[..., S, C] -> [..., S*C]."""
        return tf.reshape(stoch, (*stoch.shape[: -len(self.stoch_shape)], self.stoch_size))


def reset_where(is_first: tf.Tensor, nest: Nest) -> Nest:
    """Zero the rows [N, ...] where is_first [N]. Uses where(), since 0 * NaN is NaN."""
    # Compared, not cast: TensorFlow moves a cast to bool before the transposition.
    first = (is_first if is_first.dtype == tf.bool else is_first > 0)[..., None]
    return tf.nest.map_structure(lambda x: tf.where(first, tf.zeros([], x.dtype), x), nest)
