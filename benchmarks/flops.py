"""Operation counts of one update, from the shapes of the layers.

Only matrix products and convolutions count, two operations for each multiplication. Backward, a
layer of F operations takes F for the gradient of its weights and F for the gradient of its inputs.
The first layer of a network saves the latter if nothing needs the gradient of the inputs.
"""

import dataclasses
import math

import tensorflow as tf

from dreamerv2.common.nn.layers import Conv, Dense


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating point operations of one part of an update.

    Attributes:
        forward: forward pass alone.
        both: forward and backward pass.
    """

    forward: float
    both: float


def update_costs(agent) -> dict[str, Cost]:
    """Return part -> cost of one update, for an agent that explores with its task behavior."""
    config, model = agent.config, agent.world_model
    rows, horizon = config.dataset.batch * config.dataset.length, config.imag_horizon
    behavior = agent.task_behavior
    encoder = rows * observation(model.encoder, model.shapes)
    pixels = rows * first_layer(model.encoder, model.shapes)
    rssm = rows * dense(model.rssm)
    heads = {name: rows * dense(head) for name, head in model.heads.items() if name != "decoder"}
    decoder = rows * reconstruction(model.heads["decoder"])
    actor, critic = rows * dense(behavior.actor), rows * dense(behavior.critic)
    return {
        "encoder": Cost(encoder, 3 * encoder - pixels),
        "observe": Cost(rssm, 3 * rssm),
        "decoder": Cost(decoder, 3 * decoder),
        "heads": Cost(sum(heads.values()), 3 * sum(heads.values())),
        "imagination": imagination(agent, rows),
        "target": target(behavior, horizon * heads["reward"] + (horizon + 1) * critic),
        "actor": _trained(behavior.actor, (horizon - 1) * actor),
        "critic": _trained(behavior.critic, horizon * critic),
    }


def imagination(agent, starts: int) -> Cost:
    """Return the cost of `imag_horizon` steps of actor and prior, and of the discount head."""
    model, behavior = agent.world_model, agent.task_behavior
    steps = starts * agent.config.imag_horizon
    prior = steps * (dense(model.rssm) - dense(model.rssm.post) - dense(model.rssm.post_dist))
    actor = steps * dense(behavior.actor)
    discount = steps * dense(model.heads["discount"]) if "discount" in model.heads else 0
    forward = prior + actor + discount
    if behavior.grad == "reinforce":
        return Cost(forward, forward)
    # The actor's gradient passes through the model, whose weights need no gradient.
    return Cost(forward, forward + prior + discount + _trained(behavior.actor, actor).both - actor)


def target(behavior, forward: float) -> Cost:
    """Return the cost of imagined rewards and values, with gradients of their inputs at most."""
    return Cost(forward, forward if behavior.grad == "reinforce" else 2 * forward)


def policy_cost(agent) -> float:
    """Return the operations of one policy step in one environment."""
    model = agent.world_model
    unused = sum(dense(module) for net in model.rssm.prior_nets for module in net[::2])
    acting = dense(agent.task_behavior.actor) + dense(model.rssm) - unused
    return acting + observation(model.encoder, model.shapes)


def policy_bytes(agent) -> float:
    """Return the bytes of the weights that one policy step reads, in the compute type."""
    model, rssm = agent.world_model, agent.world_model.rssm
    modules = (model.encoder, rssm.inp, rssm.gru, rssm.post, rssm.post_dist)
    return sum(_size(module) for module in (*modules, agent.task_behavior.actor))


def dense(module: tf.Module) -> float:
    """Return the operations of all dense layers of a module for one row."""
    layers = [m for m in (module, *module.submodules) if isinstance(m, Dense)]
    return 2 * sum(layer.kernel.shape.num_elements() for layer in layers)


def observation(encoder, shapes) -> float:
    """Return the operations of the encoder for one observation."""
    return dense(encoder) + sum(_convolutions(encoder, shapes))


def first_layer(encoder, shapes) -> float:
    """Return the operations of the layers that read observations, which need no gradient."""
    first = [2 * encoder.mlp.steps[0].kernel.shape.num_elements()] if encoder.vectors else []
    return sum(first + _convolutions(encoder, shapes)[:1])


def reconstruction(decoder) -> float:
    """Return the operations of the decoder for one row of features."""
    total, size = dense(decoder), 1
    for layer in getattr(decoder, "convs", []):
        total += 2 * size**2 * layer.kernel.shape.num_elements()
        size = 2 * (size - 1) + layer.kernel.shape[0]
    return total


def _convolutions(encoder, shapes) -> list[float]:
    if not encoder.images:
        return []
    height, width, _ = shapes[encoder.images[0]]
    result = []
    for layer in encoder.convs:
        kernel = layer.kernel.shape
        height, width = ((size - kernel[0]) // 2 + 1 for size in (height, width))
        result.append(2 * height * width * kernel.num_elements())
    return result


def _trained(head, forward: float) -> Cost:
    """Return the cost of a head whose inputs need no gradient."""
    first = head.mlp.steps[0].kernel.shape.num_elements() * 2 / dense(head)
    return Cost(forward, forward * (3 - first))


def _size(module: tf.Module) -> float:
    layers = [m for m in (module, *module.submodules) if isinstance(m, Dense | Conv)]
    return sum(math.prod(v.shape) * layer.dtype.size for layer in layers for v in layer.variables)
