import numpy as np
import pytest
import tensorflow as tf
from numpy_optim import NumpyOptimizer
from small_models import assert_close, small_config

from dreamerv2.common.nn.optim import SLOTS, Optimizer
from dreamerv2.common.nn.variables import Init

SHAPES = [(3, 4), (5,), ()]


class Bench:
    """Variables whose gradient is whatever the test says, and the optimizer under test."""

    def __init__(self, dtype="float64", scaled=False, **options):
        self.config = small_config({f"model_opt.{k}": v for k, v in options.items()}).model_opt
        rng = np.random.default_rng(0)
        self.values = [rng.normal(size=shape) for shape in SHAPES]
        self.variables = [
            tf.Variable(value, name=f"part/v{i}", dtype=dtype)
            for i, value in enumerate(self.values)
        ]
        self.values = [variable.numpy().astype(float) for variable in self.variables]
        init = Init(rng, "float16" if scaled else dtype, "opt")
        self.optimizer = Optimizer(init, "test", self.variables, self.config)
        self.step = tf.function(self._step)

    def _step(self, grads, step):
        with tf.GradientTape() as tape:
            pairs = zip(grads, self.variables, strict=True)
            loss = self.optimizer.scale(tf.add_n([tf.reduce_sum(g * v) for g, v in pairs]))
        return self.optimizer.minimize(tape, loss, step)

    def update(self, grads, step=0):
        dtype = self.variables[0].dtype
        return self.step([tf.constant(grad, dtype) for grad in grads], tf.constant(step, tf.int64))


def gradients(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return [size * rng.normal(size=shape) for shape in SHAPES]


@pytest.mark.parametrize(
    ("opt", "clip", "dtype"),
    [*((opt, 3.0, "float64") for opt in SLOTS), ("adam", 3.0, "float32"), ("sgd", 0.0, "float64")],
)
def test_each_optimizer_over_several_updates(opt, clip, dtype):
    """Updates with clipping (every other one) and decay; gradients of changing size and sign."""
    bench = Bench(dtype, opt=opt, lr=0.01, eps=1e-5, clip=clip, wd=0.02)
    oracle = NumpyOptimizer(bench.values, bench.config)
    for i in range(12):
        grads = gradients(i, size=0.1 if i % 2 else 5.0)
        metrics = bench.update(grads)
        norm = oracle.update(grads)
        assert_close(metrics["test_grad_norm"], norm, "norm before clipping")
        for variable, expected in zip(bench.variables, oracle.values, strict=True):
            assert_close(variable, expected, f"{opt} after {i + 1} updates")


@pytest.mark.parametrize("opt", SLOTS)
def test_a_schedule_gives_the_learning_rate_of_each_step(opt):
    """At step 0 as with its first value, and at its end as with its last."""
    scheduled = Bench(opt=opt, lr="linear(0.01,0.002,1000)")
    for step, lr in ((0, 0.01), (500, 0.006), (1000, 0.002)):
        constant = Bench(opt=opt, lr=lr)
        for mine, other in zip(state_variables(constant), state_variables(scheduled), strict=True):
            mine.assign(other)
        metrics = scheduled.update(gradients(1), step)
        assert_close(metrics["test_lr"], lr, f"learning rate at step {step}")
        assert "test_lr" not in constant.update(gradients(1), step), "a constant is no metric"
        for one, other in zip(constant.variables, scheduled.variables, strict=True):
            assert_close(one, other, f"{opt} at step {step}")


def state_variables(bench):
    slots = [slot for slots in bench.optimizer.slots for slot in slots]
    return *bench.variables, *slots, bench.optimizer.step


def state_of(bench):
    return [x.numpy().copy() for x in state_variables(bench)]


def test_loss_scaling_changes_no_update():
    plain, scaled = Bench("float32", wd=0.1), Bench("float32", scaled=True, wd=0.1)
    for i in range(3):
        plain.update(gradients(i))
        metrics = scaled.update(gradients(i))
    assert metrics["test_loss_scale"] == 2**15
    for one, other in zip(state_of(plain), state_of(scaled), strict=True):
        np.testing.assert_array_equal(one, other, "a power of two scales without rounding")


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_overflow_skips_update_and_decay_and_halves_the_scale(bad):
    bench = Bench("float32", scaled=True, wd=0.1)
    bench.update(gradients(0))
    before = state_of(bench)
    grads = gradients(1)
    grads[1][2] = bad
    metrics = bench.update(grads)
    assert metrics["test_finite"] == 0 and metrics["test_loss_scale"] == 2**15
    for one, other in zip(before, state_of(bench), strict=True):
        np.testing.assert_array_equal(one, other, "an overflow changed something")
    metrics = bench.update(gradients(2))
    assert metrics["test_finite"] == 1 and metrics["test_loss_scale"] == 2**14
    assert bench.optimizer.step.numpy() == 2, "skipped updates do not count in Adam's correction"


def test_the_scaled_loss_may_overflow_on_its_own():
    bench = Bench("float32", scaled=True, wd=0.1)
    metrics = bench.update([grad * 1e36 for grad in gradients(0)])
    assert metrics["test_finite"] == 0 and metrics["test_loss_scale"] == 2**15
    assert bench.optimizer.scaling.scale.numpy() == 2**14


def test_without_scaling_a_bad_gradient_changes_nothing_either():
    bench = Bench(wd=0.1)
    before = state_of(bench)
    assert bench.update([np.full(shape, np.nan) for shape in SHAPES])["test_finite"] == 0
    for one, other in zip(before, state_of(bench), strict=True):
        np.testing.assert_array_equal(one, other, "an update of NaN took place")


def test_the_scale_doubles_after_2000_finite_updates_in_a_row():
    scaling = Bench("float32", scaled=True).optimizer.scaling

    @tf.function
    def updates(count):
        for _ in tf.range(count):
            scaling.update(tf.constant(True))

    updates(1999)
    assert scaling.scale.numpy() == 2**15, "doubled early"
    scaling.update(tf.constant(False))
    updates(1999)
    assert scaling.scale.numpy() == 2**14, "an overflow must start the count anew"
    updates(1)
    assert scaling.scale.numpy() == 2**15
    for _ in range(20):
        scaling.update(tf.constant(False))
    assert scaling.scale.numpy() == 1, "it never falls below 1"


def test_variables_without_a_gradient_decay_too():
    bench = Bench(lr=0.0, wd=0.5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(bench.variables[0])
    bench.optimizer.minimize(tape, loss)
    assert_close(bench.variables[1], 0.5 * bench.values[1], "unconnected variables")
