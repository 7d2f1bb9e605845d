"""One whole update of world model, actor and critic, one policy step, and the update for export."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf

from benchmarks import flops
from benchmarks.bench import Bench
from benchmarks.devices import wait
from benchmarks.measure import Row, milliseconds, repeat
from dreamerv2.common.nn import device


def update(bench: Bench) -> Iterator[Row]:
    """Measure `Agent.train` in each precision, with a batch copied ahead as in the loop."""
    for precision in bench.precisions:
        agent = bench.agent(precision)
        batch, state = agent.place(bench.task.batch(bench.config)), None

        def call(agent=agent, batch=batch):
            nonlocal state
            state, metrics = agent.train(batch, state)
            wait(metrics)

        times = repeat(call, bench.budget, least=2 if bench.quick else 5)
        known = agent.expl_behavior is agent.task_behavior
        total = sum(cost.both for cost in flops.update_costs(agent).values()) if known else 0
        peak = bench.roofline.flops(agent.dtype.name)
        yield Row(f"update {agent.dtype.name}", milliseconds(times), "ms", total, 0, peak)
        if bench.parts and precision == bench.precisions[0]:
            rest = [seconds - sum(bench.parts.values()) for seconds in times]
            yield Row("update beyond the sum of its parts", milliseconds(rest), "ms")


def policy(bench: Bench) -> Iterator[Row]:
    """Measure `Agent.policy` from observations in NumPy to actions in NumPy."""
    agent = bench.agent(bench.precisions[0])
    for count in (1, 8):
        obs = bench.task.rows(count)
        state = None

        def call(obs=obs):
            nonlocal state
            _, state = agent.policy(obs, state)

        times = repeat(call, bench.budget / 2, least=20, most=2000)
        operations = count * flops.policy_cost(agent)
        peaks = (bench.roofline.flops(agent.dtype.name), bench.roofline.device_bytes())
        name = f"policy step, {count} environment(s) {agent.dtype.name}"
        size = flops.policy_bytes(agent)
        yield Row(name, milliseconds(times), "ms", operations, size, *peaks)


def export(bench: Bench, path: Path) -> None:
    """Write the update for a GPU as StableHLO text, for XLA on another machine.

    The module's arguments are batch, carried state, seed and step, then every variable.
    """
    agent = bench.agent(bench.precisions[0])
    function = tf.function(agent._update_step, jit_compile=True)
    seed, step = tf.constant(np.zeros(2, np.int32)), tf.constant(0, tf.int64)
    data = agent.place(bench.task.batch(bench.config))
    arguments = (data, agent.initial_train_state(), seed, step)
    with mock.patch.object(device, "gpus", lambda: ["the other machine's"]):
        text = function.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    path.write_text(text if isinstance(text, str) else text.decode())
