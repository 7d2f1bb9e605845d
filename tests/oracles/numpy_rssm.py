"""The recurrent state-space model in NumPy: one sequence at a time, one step after the other."""

import numpy as np
from numpy_dists import (
    categorical_entropy,
    categorical_kl,
    categorical_sample,
    normal_entropy,
    normal_kl,
    normal_sample,
    same,
)
from numpy_layers import dense, gru, hidden
from scipy.special import expit

STD_ACTS = {
    "sigmoid2": lambda x: 2 * expit(x / 2),
    "sigmoid": expit,
    "softplus": lambda x: np.logaddexp(0, x),
}


class NumpyRSSM:
    """Steps of single states: deter [D], stoch [S, C] and logit, or stoch [S], mean and std.

    Args:
        weights: variables by name.
        config: the options under `rssm`.
        sg: stands for stop_gradient, see numpy_dists.Frozen.
    """

    def __init__(self, weights, config, sg=same, path="world_model/rssm"):
        self.weights, self.config, self.sg, self.path = weights, config, sg, path

    def initial(self):
        config = self.config
        stoch = (config.stoch, config.discrete) if config.discrete else (config.stoch,)
        return {"deter": np.zeros(config.deter), "stoch": np.zeros(stoch)}

    def feat(self, state):
        return np.concatenate([state["stoch"].ravel(), state["deter"]])

    def prior(self, state, action, pick):
        """h_t and the prior's parameters; pick in [0, 1) chooses the ensemble member."""
        x = np.concatenate([state["stoch"].ravel(), action])
        x = hidden(self.weights, f"{self.path}/img_in", x, self.config)
        deter = gru(self.weights, f"{self.path}/gru", x, state["deter"])
        member = int(pick * self.config.ensemble)
        x = hidden(self.weights, f"{self.path}/img_out{member}", deter, self.config)
        return deter, self._stats(f"img_dist{member}", x)

    def img_step(self, state, action, noise, pick=0.0):
        deter, stats = self.prior(state, action, pick)
        return {"deter": deter, "stoch": self._sample(stats, noise), **stats}

    def obs_step(self, state, action, embed, is_first, noise, pick=0.0):
        """Posterior and prior of the next state."""
        if is_first:
            state, action = self.initial(), np.zeros_like(action)
        deter, prior = self.prior(state, action, pick)
        x = np.concatenate([deter, embed])
        x = hidden(self.weights, f"{self.path}/obs_out", x, self.config)
        stats = self._stats("obs_dist", x)
        post = {"deter": deter, "stoch": self._sample(stats, noise), **stats}
        return post, {"deter": deter, **prior}

    def observe(self, embed, action, is_first, noise, start):
        """All sequences of a batch, entries [B, T, ...]; noise: post [B, T, S], ensemble [T]."""
        rows = []
        for b in range(len(embed)):
            state = {key: value[b] for key, value in start.items()}
            for t in range(embed.shape[1]):
                state, prior = self.obs_step(
                    state,
                    action[b, t],
                    embed[b, t],
                    is_first[b, t],
                    noise["post"][b, t],
                    noise["ensemble"][t],
                )
                rows.append((state, prior))
        shape = embed.shape[:2]

        def stack(i, k):
            return np.reshape([row[i][k] for row in rows], (*shape, *rows[0][i][k].shape))

        return tuple({k: stack(i, k) for k in rows[0][i]} for i in (0, 1))

    def kl(self, p, q):
        """KL(p || q) of states with entries [..., S, C] or [..., S]."""
        if self.config.discrete:
            return categorical_kl(p["logit"], q["logit"]).sum(-1)
        return normal_kl(p["mean"], p["std"], q["mean"], q["std"]).sum(-1)

    def entropy(self, state):
        if self.config.discrete:
            return categorical_entropy(state["logit"]).sum(-1)
        return normal_entropy(state["std"]).sum(-1)

    def _stats(self, name, x):
        x = dense(self.weights, f"{self.path}/{name}", x)
        config = self.config
        if config.discrete:
            return {"logit": x.reshape(config.stoch, config.discrete)}
        mean, std = np.split(x, 2)
        return {"mean": mean, "std": STD_ACTS[config.std_act](std) + config.min_std}

    def _sample(self, stats, noise):
        if self.config.discrete:
            return categorical_sample(stats["logit"], noise, self.sg)
        return normal_sample(stats["mean"], stats["std"], noise)
