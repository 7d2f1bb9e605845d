"""The model loss and imagination in NumPy, put together from numpy_rssm and numpy_layers."""

import numpy as np
from numpy_dists import bernoulli_log_prob, normal_log_prob, same
from numpy_layers import decoder, encoder, number
from numpy_rssm import NumpyRSSM
from scipy.special import expit

CLIP_REWARDS = {"identity": lambda x: x, "sign": np.sign, "tanh": np.tanh}


def preprocess(raw, shapes, config):
    """Raw batch (shapes with scalars as ()) to the model's inputs and targets."""
    data = {key: np.asarray(value, np.float64) for key, value in raw.items()}
    for key, shape in shapes.items():
        if len(shape) == 3:
            data[key] = data[key] / 255 - 0.5
        if shape == ():
            data[key] = data[key][..., None]
    data["reward"] = CLIP_REWARDS[config.clip_rewards](data["reward"])
    data["discount"] = config.discount * (1 - data["is_terminal"])
    return data


def balanced_kl(rssm, post, prior, config, sg=same):
    """Loss and KL per state."""

    def stop(state):
        return {k: sg(v) for k, v in sorted(state.items())}

    free, alpha = config.free, config.balance
    if alpha == 0.5:
        value = rssm.kl(prior, post) if config.forward else rssm.kl(post, prior)
        return np.maximum(value, free).mean(), value
    if config.forward:
        values = rssm.kl(prior, stop(post)), rssm.kl(stop(prior), post)
    else:
        values = rssm.kl(stop(post), prior), rssm.kl(post, stop(prior))
    if config.free_avg:
        left, right = (max(value.mean(), free) for value in values)
    else:
        left, right = (np.maximum(value, free).mean() for value in values)
    return alpha * left + (1 - alpha) * right, values[0]


def model_loss(weights, data, shapes, config, noise, start, sg=same):
    """Total loss, losses by key, posterior states, feat and KL per state.

    Args:
        data: from `preprocess`; shapes: key -> shape, scalars as (1,).
        noise: post [B, T, S] and ensemble [T].
        start: state before each sequence.
    """
    embed = encoder(weights, "world_model/encoder", data, shapes, config.encoder)
    rssm = NumpyRSSM(weights, config.rssm, sg)
    post, prior = rssm.observe(embed, data["action"], data["is_first"], noise, start)
    losses = {}
    losses["kl"], value = balanced_kl(rssm, post, prior, config.kl, sg)
    feat = np.concatenate([post["stoch"].reshape(*embed.shape[:2], -1), post["deter"]], -1)

    def seen(name):
        return feat if name in config.grad_heads else sg(feat)

    means = decoder(weights, "world_model/decoder", seen("decoder"), shapes, config.decoder)
    for key, mean in means.items():
        axes = tuple(range(2, mean.ndim))
        losses[key] = -normal_log_prob(data[key], mean).sum(axes).mean()
    mean = number(weights, "world_model/reward", seen("reward"), config.reward_head)
    losses["reward"] = -normal_log_prob(data["reward"], mean).mean()
    if config.pred_discount:
        logits = number(weights, "world_model/discount", seen("discount"), config.discount_head)
        losses["discount"] = -bernoulli_log_prob(data["discount"], logits).mean()
    total = sum(scale_of(key, shapes, config) * value for key, value in losses.items())
    return {"total": total, "losses": losses, "post": post, "prior": prior, "kl": value}


def scale_of(key, shapes, config):
    scales = config.loss_scales
    if key in scales:
        return scales[key]
    return scales["proprio"] if len(shapes.get(key, ())) == 1 else 1.0


def imagine(weights, config, policy, start, terminal, noise, sg=same):
    """Roll the prior out: entries [H+1, N, ...] of feat, action, discount.

    Args:
        policy: (weights, feat [F], noise, sg) -> action [A].
        start: deter and stoch, entries [N, ...]; terminal [N].
        noise: prior [H, N, S], ensemble [H], action [H, N, ...].
    """
    rssm = NumpyRSSM(weights, config.rssm, sg)
    feats, actions = [], []
    for n in range(len(terminal)):
        state = {key: start[key][n] for key in ("deter", "stoch")}
        row, taken = [rssm.feat(state)], []
        for t in range(config.imag_horizon):
            taken.append(policy(weights, sg(row[-1]), noise["action"][t][n], sg))
            state = rssm.img_step(state, taken[-1], noise["prior"][t, n], noise["ensemble"][t])
            row.append(rssm.feat(state))
        feats.append(row)
        actions.append([np.zeros_like(taken[0]), *taken])
    feat, action = np.swapaxes(feats, 0, 1), np.swapaxes(actions, 0, 1)
    discount = np.full(feat.shape[:-1], config.discount)
    if config.pred_discount:
        discount = expit(number(weights, "world_model/discount", feat, config.discount_head))
        discount[0] = config.discount * (1 - np.asarray(terminal, float))
    return {"feat": feat, "action": action, "discount": discount}
