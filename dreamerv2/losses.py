"""The equations of the paper as pure functions of tensors (arXiv 2010.02193).

Time is the leading axis where there is one.
"""

import tensorflow as tf

from dreamerv2.common.nn import dists

sg = tf.stop_gradient


def kl_balance(
    post: dict, prior: dict, dist, balance: float, free: float, free_avg: bool, forward: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """KL loss between posterior and prior (paper, equation 2 and algorithm 2).

        loss = alpha * KL(sg(post) || prior) + (1 - alpha) * KL(post || sg(prior))

    Each of the two is clipped from below at `free` nats, after averaging over the batch
    (free_avg) or before. balance 0.5 is the plain KL(post || prior), with its whole gradient to
    both, clipped before averaging. `forward` swaps the two arguments of each KL:
    alpha * KL(prior || sg(post)) + (1 - alpha) * KL(sg(prior) || post).

    Args:
        post, prior: latent states, entries [B, T, ...].
        dist: maps a state to its distribution.
        balance: alpha, the share that trains the prior.
        free: nats below which the KL is not pushed.

    Returns: loss [] and KL per state [B, T], in nats.
    """

    def kl(p, q):
        return dists.kl_divergence(dist(p), dist(q))

    def clip_and_average(x):
        if free_avg and balance != 0.5:
            return tf.maximum(tf.reduce_mean(x), free)
        return tf.reduce_mean(tf.maximum(x, free))

    if balance == 0.5:
        value = kl(prior, post) if forward else kl(post, prior)
        return clip_and_average(value), value
    post_sg, prior_sg = tf.nest.map_structure(sg, (post, prior))
    if forward:
        to_prior, to_post = kl(prior, post_sg), kl(prior_sg, post)
    else:
        to_prior, to_post = kl(post_sg, prior), kl(post, prior_sg)
    loss = balance * clip_and_average(to_prior) + (1 - balance) * clip_and_average(to_post)
    return loss, to_prior


def lambda_return(reward, value, discount, lambda_: float) -> tf.Tensor:
    """Lambda-returns (paper, equation 4).

        V_t = r_t + d_t * ((1 - lambda) * v_{t+1} + lambda * V_{t+1}),   V_H = v_H

    Args:
        reward, discount: [H, N], r_t and d_t of states 0..H-1.
        value: [H+1, N], v_t of states 0..H; the last bootstraps.

    Returns: V_t, [H, N].
    """
    inputs = reward + discount * value[1:] * (1 - lambda_)
    returns, last = [], value[-1]
    for t in reversed(range(reward.shape[0])):
        last = inputs[t] + discount[t] * lambda_ * last
        returns.append(last)
    return tf.stack(returns[::-1])


def imagination_weights(discount: tf.Tensor) -> tf.Tensor:
    """Probability that a trajectory is still going: w_0 = 1, w_t = d_0 * ... * d_{t-1}, [H, N]."""
    return sg(tf.math.cumprod(discount, 0, exclusive=True))


def actor_loss(
    log_prob: tf.Tensor | None, entropy, target, baseline, weight, reinforce, entropy_scale
) -> tf.Tensor:
    """Actor loss (paper, equation 6), a mean over imagined steps.

        t            0        1        2     ...   H-1      H
        state       z_0      z_1      z_2          z_{H-1}  z_H
        action       -       a_1      a_2          a_{H-1}  a_H       a_t led INTO z_t
        pairs     pi(a_1|z_0), v_0, w_0 with V_1  ...  pi(a_{H-1}|z_{H-2}), v_{H-2}, w_{H-2}
                  with V_{H-1}

        -mean(w * (rho * log pi(sg a) * sg(V - v) + (1 - rho) * V + eta * entropy))

    Args:
        log_prob: [H-1, N] of the imagined actions; None with rho = 0, which does not need it.
        entropy: [H-1, N] of the policy.
        target: [H-1, N], the lambda-returns V_1..V_{H-1}.
        baseline: [H-1, N], values v_0..v_{H-2}.
        weight: [H-1, N].
        reinforce: rho in [0, 1]; 1 is REINFORCE, 0 the gradient through the dynamics.
        entropy_scale: eta.
    """
    objective = entropy_scale * entropy + (1 - reinforce) * target
    if log_prob is not None:
        objective += reinforce * log_prob * sg(target - baseline)
    return -tf.reduce_mean(sg(weight) * objective)


def critic_loss(dist, target: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Critic loss (paper, equation 5): -mean(w * log p(sg V)), a unit Gaussian; [H, N] -> []."""
    return -tf.reduce_mean(sg(weight) * dist.log_prob(sg(target)))
