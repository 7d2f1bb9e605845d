"""Returns and the losses of actor and critic in NumPy, and one update's worth of them together."""

import numpy as np
from numpy_dists import (
    categorical_entropy,
    categorical_log_prob,
    categorical_sample,
    normal_log_prob,
    same,
    truncated_entropy,
    truncated_log_prob,
    truncated_sample,
)
from numpy_layers import head, number
from numpy_model import imagine
from scipy.special import expit


def recursive_return(reward, value, discount, lambda_, t=0):
    """V_t by its definition, [N]."""
    if t == len(reward):
        return value[t]
    later = recursive_return(reward, value, discount, lambda_, t + 1)
    return reward[t] + discount[t] * ((1 - lambda_) * value[t + 1] + lambda_ * later)


def lambda_returns(reward, value, discount, lambda_):
    """V_0..V_{H-1}, [H, N]."""
    return np.stack(
        [recursive_return(reward, value, discount, lambda_, t) for t in range(len(reward))]
    )


def trajectory_weights(discount):
    """w_t, the product of the discounts before t, [H, N]."""
    return np.stack([np.prod(discount[:t], axis=0) for t in range(len(discount))])


def truncated_policy(weights, feat, config, path):
    """Mean and deviation of the continuous policy."""
    mean = np.tanh(head(weights, path, feat, config))
    std = 2 * expit(head(weights, path, feat, config, "std") / 2) + config.min_std
    return mean, std


def policy_terms(weights, config, discrete, feat, action, path):
    """log pi(action | feat) and entropy, [...]."""
    if discrete:
        logits = head(weights, path, feat, config.actor)
        return categorical_log_prob(logits, action), categorical_entropy(logits)
    mean, std = truncated_policy(weights, feat, config.actor, path)
    log_prob = truncated_log_prob(action, mean, std).sum(-1)
    return log_prob, truncated_entropy(mean, std).sum(-1)


def reinforce_share(config, discrete):
    """rho of the actor loss."""
    kind = config.actor_grad
    if kind == "auto":
        kind = "reinforce" if discrete else "dynamics"
    return {"reinforce": 1, "dynamics": 0, "both": 1 - config.actor_grad_mix}[kind]


def rollout(weights, config, discrete, start, terminal, noise, sg, path):
    """The imagined sequence, see numpy_model.imagine."""

    def policy(weights, feat, u, sg):
        if discrete:
            return categorical_sample(head(weights, path, feat, config.actor), u, sg)
        return truncated_sample(*truncated_policy(weights, feat, config.actor, path), u, sg)

    return imagine(weights, config, policy, start, terminal, noise, sg)


def behave(weights, config, discrete, start, terminal, noise, sg=same):
    """Results of one update of actor and critic.

    Args:
        weights: of model, actor and critics.
        start, terminal, noise: see numpy_model.imagine.

    Returns: the two losses and their terms, [H or so, N].
    """
    actor, critic = "task/actor", "task/critic"
    seq = rollout(weights, config, discrete, start, terminal, noise, sg, actor)
    feat, discount, norm = seq["feat"], seq["discount"][:-1], config.reward_norm
    reward = number(weights, "world_model/reward", feat[:-1], config.reward_head)
    mag = norm.momentum + (1 - norm.momentum) * np.abs(sg(reward)).mean()  # it starts at 1
    normed = reward / (mag + norm.eps) * norm.scale
    slow = "task/slow_critic" if config.slow_target else critic
    value = number(weights, slow, feat, config.critic)
    fast = number(weights, critic, feat, config.critic)
    target = lambda_returns(normed, value, discount, config.discount_lambda)
    weight = sg(trajectory_weights(discount))

    policy = policy_terms(weights, config, discrete, sg(feat[:-2]), sg(seq["action"][1:-1]), actor)
    (log_prob, entropy), rho = policy, reinforce_share(config, discrete)
    advantage = sg(target[1:] - (value if config.slow_baseline else fast)[:-2])
    objective = rho * log_prob * advantage + (1 - rho) * target[1:] + config.actor_ent * entropy
    guess = number(weights, critic, sg(feat[:-1]), config.critic)
    fit = normal_log_prob(sg(target), guess)
    result = {"target": target, "critic": fast[:-1], "entropy": entropy, "mag": mag, "seq": seq}
    result |= {"reward": reward, "normed": normed, "slow": value}
    result["actor_loss"] = -(weight[:-1] * objective).mean()
    return result | {"critic_loss": -(weight * fit).mean()}
