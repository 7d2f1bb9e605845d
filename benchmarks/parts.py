"""The parts of one update, each compiled separately from the agent's modules.

Each part runs on the result of the part before. Their sum is a little more than the whole update,
which shares some work between them.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from benchmarks import flops
from benchmarks.bench import Bench
from benchmarks.devices import compiled, wait
from benchmarks.measure import Row, milliseconds, repeat
from dreamerv2.common.nn.optim import recording
from dreamerv2.common.nn.precision import cast_once
from dreamerv2.losses import kl_balance


class Part(NamedTuple):
    """One part of an update.

    Attributes:
        call: inputs -> nest of tensors.
        trained: modules whose weights get a gradient; if empty, there is no backward pass.
        read: further modules whose weights are cast.
        watch: the inputs get a gradient too.
    """

    call: Callable
    trained: tuple[tf.Module, ...] = ()
    read: tuple[tf.Module, ...] = ()
    watch: bool = False


def rows(bench: Bench) -> Iterator[Row]:
    """Measure each part forward, and forward with backward if it has a backward pass."""
    agent = bench.agent(bench.precisions[0])
    costs = flops.update_costs(agent)
    runs = {"budget": bench.budget / 2, "least": 2 if bench.quick else 5}

    def measure(name: str, part: Part, inputs: Any) -> Iterator[Row]:
        cost = costs.get(name, flops.Cost(0, 0))
        peak = bench.roofline.flops(agent.dtype.name)
        forward, both = (compiled(f) for f in _functions(agent, part))
        times = repeat(lambda: wait(forward(inputs)), **runs)
        yield Row(f"{name} forward", milliseconds(times), "ms", cost.forward, 0, peak)
        if part.trained or part.watch:
            times = repeat(lambda: wait(both(inputs)), **runs)
            title = f"{name} forward and backward"
            yield Row(title, milliseconds(times), "ms", cost.both, 0, peak)
        bench.parts[name] = statistics.median(times)
        return forward(inputs)

    data = agent.world_model.preprocess(agent.place(bench.task.batch(bench.config)))
    known = yield from _world_model(agent, data, measure)
    yield from _behavior(agent, *known, measure)
    yield from _optimizers(bench, agent)


def _world_model(agent, data, measure) -> Iterator[Row]:
    """Measure the world model; return posterior states and is_terminal."""
    model, config, seed = agent.world_model, agent.config, tf.constant([0, 1])
    noise, start = model.noise(*data["action"].shape[:2], seed), agent.initial_train_state()
    embed = yield from measure("encoder", Part(model.encoder, (model.encoder,)), data)

    def observe(embed):
        return model.rssm.observe(embed, data["action"], data["is_first"], noise, start)

    post, prior = yield from measure("observe", Part(observe, (model.rssm,), (), True), embed)

    def kl(states):
        return kl_balance(*states, model.rssm.dist, **config.kl)[0]

    yield from measure("kl", Part(kl, watch=True), (post, prior))
    feat = model.rssm.feat(post)
    decoder = model.heads["decoder"]
    heads = {name: head for name, head in model.heads.items() if name != "decoder"}

    def reconstruct(feat):
        return [-dist.log_prob(data[key]) for key, dist in decoder(feat).items()]

    def predict(feat):
        return [-head(feat).log_prob(data[name]) for name, head in heads.items()]

    yield from measure("decoder", Part(reconstruct, (decoder,), (), True), feat)
    yield from measure("heads", Part(predict, tuple(heads.values()), (), True), feat)
    return post, data["is_terminal"]


def _behavior(agent, post, is_terminal, measure) -> Iterator[Row]:
    """Measure the actor-critic; imagination and target have a backward pass in `dynamics` only."""
    model, behavior = agent.world_model, agent.task_behavior

    def flat(x):
        return tf.reshape(x, (-1, *x.shape[2:]))

    start, is_terminal = tf.nest.map_structure(flat, (post, is_terminal))
    seed, step = tf.constant([0, 2]), tf.constant(0, tf.int64)
    noise = model.imagination_noise(is_terminal.shape[0], behavior.discrete, seed)
    passes = behavior.grad != "reinforce"

    def imagine(start):
        return model.imagine(behavior.policy, start, is_terminal, noise)

    trained = (behavior.actor,) if passes else ()
    part = Part(imagine, trained, (model, behavior.actor))
    seq = yield from measure("imagination", part, start)

    def evaluate(seq):
        return behavior.target(seq, model.imagined_reward(seq))

    read = (model.heads["reward"], behavior.slow_critic)
    target, value = yield from measure("target", Part(evaluate, (), read, passes), seq)

    def actor(seq):
        return behavior.actor_loss(seq, target, value, step)[0]

    def critic(seq):
        return behavior.critic_loss(seq, target)[0]

    yield from measure("actor", Part(actor, (behavior.actor,)), seq)
    yield from measure("critic", Part(critic, (behavior.critic,)), seq)


def _optimizers(bench: Bench, agent) -> Iterator[Row]:
    """Measure each optimizer: norm, clipping, decay and step, without the gradient."""
    behavior = agent.task_behavior
    for optimizer in (agent.model_opt, behavior.actor_opt, behavior.critic_opt):
        grads = [1e-3 * tf.ones_like(v) for v in optimizer.weights]
        step = compiled(lambda g, opt=optimizer: opt.minimize(Known(g), tf.constant(1.0)))
        call = functools.partial(step, grads)
        times = repeat(lambda call=call: wait(call()), bench.budget / 2)
        # Adam reads gradient, weight and two moments, and writes the last three.
        size = 7 * 4 * sum(v.shape.num_elements() for v in optimizer.weights)
        peak = bench.roofline.device_bytes()
        bench.parts[f"{optimizer.label} optimizer"] = statistics.median(times)
        yield Row(f"{optimizer.label} optimizer", milliseconds(times), "ms", 0, size, 0, peak)


class Known:
    """A replacement of the tape for `Optimizer.minimize`, with given gradients."""

    def __init__(self, grads: list[tf.Tensor]):
        self._grads = grads

    def gradient(self, *unused: Any, **options: Any) -> list[tf.Tensor]:
        """Return the given gradients."""
        return self._grads


def _functions(agent, part: Part) -> tuple[Callable, Callable]:
    """Return inputs -> outputs and inputs -> gradients; weights are cast once, as in training."""
    modules = (*part.trained, *part.read)

    def forward(inputs):
        with cast_once(*modules, dtype=agent.dtype):
            return part.call(inputs)

    def both(inputs):
        container = tf.Module()
        container.trained = part.trained
        watched = _floats(inputs) if part.watch else []
        with recording(container) as tape, cast_once(*modules, dtype=agent.dtype):
            tape.watch(watched)
            outputs = _floats(part.call(inputs))
        sources = [*container.trainable_variables, *watched]
        return tape.gradient(outputs, sources, unconnected_gradients="zero")

    return forward, both


def _floats(nest: Any) -> list[tf.Tensor]:
    return [x for x in tf.nest.flatten(nest, expand_composites=True) if x.dtype.is_floating]
