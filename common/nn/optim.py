"""Gradient steps: loss scaling, global-norm clipping, decoupled decay, then the optimizer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from dreamerv2.common.nn.schedules import schedule

Number = tf.Tensor | float
BETA1, BETA2 = 0.9, 0.999
SLOTS = {"adam": 2, "nadam": 2, "adamax": 2, "sgd": 0, "momentum": 1}


@contextlib.contextmanager
def recording(module: tf.Module) -> Iterator[tf.GradientTape]:
    """Record what depends on the module's trainable variables, and nothing else.

    A plain tape would also walk backwards through every network that was merely read.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(module.trainable_variables)
        yield tape


class LossScale(tf.Module):
    """Dynamic loss scale for float16: the gradients' small values must not round to zero.

    Starts at 2^15, doubles after 2000 finite updates in a row and halves on overflow.
    """

    def __init__(self, path: str):
        super().__init__()
        self.scale = tf.Variable(2.0**15, name=f"{path}/loss_scale", trainable=False)
        # Not int32: such variables stay on the host, where a function compiled for a GPU has none.
        zero = tf.zeros([], tf.int64)
        self.finite = tf.Variable(zero, name=f"{path}/loss_scale_finite", trainable=False)

    def update(self, finite: tf.Tensor) -> None:
        """Adapt the scale after an update; finite is a bool []."""
        zero = tf.zeros([], tf.int64)
        streak = tf.where(finite, self.finite + 1, zero)
        grow = streak >= 2000
        factor = tf.where(finite, tf.where(grow, 2.0, 1.0), 0.5)
        self.scale.assign(tf.clip_by_value(self.scale * factor, 1.0, 2.0**40))
        self.finite.assign(tf.where(grow, zero, streak))


class Optimizer(tf.Module):
    """One optimizer for one set of variables.

    The order of an update: gradients of the scaled loss, unscaled; clipped to a global norm;
    every variable times (1 - wd), whatever the learning rate; then the step. An update that
    is not finite changes nothing but the loss scale.

    Adam: step = lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), Keras' epsilon-hat.

    Args:
        path: prefix of the names of its own variables.
        label: prefix of its metrics.
        variables: the weights it trains, all of one type.
        config: opt, lr (a number or a schedule), eps, clip (0: none), wd (0: none).
        scaled: whether to scale the loss, for float16.
    """

    def __init__(
        self, path: str, label: str, variables: Sequence[tf.Variable], config, scaled: bool
    ):
        super().__init__()
        self.label, self.config, self.weights = label, config, tuple(variables)
        self.step = tf.Variable(0, name=f"{path}/step", dtype=tf.int64, trainable=False)
        self.scaling = LossScale(path) if scaled else None
        self.slots = [
            [
                tf.Variable(tf.zeros_like(v), name=f"{path}/slot{i}/{v.name[:-2]}", trainable=False)
                for i in range(SLOTS[config.opt])
            ]
            for v in self.weights
        ]

    def minimize(
        self, tape: tf.GradientTape, loss: tf.Tensor, step: tf.Tensor | int = 0
    ) -> dict[str, tf.Tensor]:
        """Update the variables. Call `scale` on the loss inside the tape first.

        Args:
            tape: recorded from the variables to the loss.
            loss: [] as given by `scale`.
            step: agent steps so far, for a schedule of the learning rate.

        Returns: {label}_loss, {label}_grad_norm, with scaling {label}_loss_scale, with a schedule
            {label}_lr, and {label}_finite, 1.0 if the update took place.
        """
        grads = tape.gradient(loss, self.weights, unconnected_gradients="zero")
        grads = [tf.convert_to_tensor(grad) for grad in grads]
        if self.scaling:
            scale = tf.convert_to_tensor(self.scaling.scale)
            loss, grads = loss / scale, [grad / scale for grad in grads]
        norm = tf.linalg.global_norm(grads)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        metrics = {
            f"{self.label}_loss": loss,
            f"{self.label}_grad_norm": norm,
            f"{self.label}_finite": tf.cast(finite, tf.float32),
        }
        if self.scaling:
            metrics[f"{self.label}_loss_scale"] = scale
            self.scaling.update(finite)
        lr = self.config.lr
        if isinstance(lr, str):
            lr = metrics[f"{self.label}_lr"] = schedule(lr, step, self.weights[0].dtype)
        tf.cond(finite, lambda: self._apply(grads, norm, lr), lambda: tf.constant(False))
        return metrics

    def scale(self, loss: tf.Tensor) -> tf.Tensor:
        """Return the loss to differentiate."""
        return loss * self.scaling.scale if self.scaling else loss

    def _apply(self, grads: list[tf.Tensor], norm: tf.Tensor, lr: Number) -> tf.Tensor:
        clip, decay = self.config.clip, self.config.wd
        if clip:
            factor = clip / tf.maximum(norm, clip)
            grads = [grad * factor for grad in grads]
        self.step.assign_add(1)
        if decay:
            kept = self._number(1 - decay)
            for variable in self.weights:
                variable.assign(variable * kept)
        rule = getattr(self, f"_{self.config.opt}")(lr)
        for variable, grad, slots in zip(self.weights, grads, self.slots, strict=True):
            rule(variable, grad, *slots)
        return tf.constant(True)

    # --- rules: each returns a function that changes a variable by its gradient and slots ---

    def _number(self, value: Number) -> tf.Tensor:
        return tf.convert_to_tensor(value, self.weights[0].dtype)

    def _power(self, beta: float) -> tf.Tensor:
        return self._number(beta) ** tf.cast(self.step, self.weights[0].dtype)

    def _adam(self, lr: Number, nesterov: bool = False) -> Callable:
        # Made once for all variables: made for each, they would take an eighth of a whole update.
        shared = {
            "beta1_power": self._power(BETA1),
            "beta2_power": self._power(BETA2),
            "lr": self._number(lr),
            "beta1": self._number(BETA1),
            "beta2": self._number(BETA2),
            "epsilon": self._number(self.config.eps),
        }

        def rule(variable, grad, m, v):
            # The fused kernel: one pass over the memory instead of ten.
            handles = {"var": variable.handle, "m": m.handle, "v": v.handle}
            tf.raw_ops.ResourceApplyAdam(**handles, **shared, grad=grad, use_nesterov=nesterov)

        return rule

    def _nadam(self, lr: Number) -> Callable:
        # TensorFlow's own Nesterov step for Adam, without Keras' schedule of the momentum.
        return self._adam(lr, nesterov=True)

    def _adamax(self, lr: Number) -> Callable:
        rate = lr / (1 - self._power(BETA1))

        def rule(variable, grad, m, v):
            m.assign(BETA1 * m + (1 - BETA1) * grad)
            v.assign(tf.maximum(BETA2 * v, tf.abs(grad)))
            variable.assign_sub(rate * m / (v + self.config.eps))

        return rule

    def _sgd(self, lr: Number) -> Callable:
        def rule(variable, grad):
            variable.assign_sub(lr * grad)

        return rule

    def _momentum(self, lr: Number) -> Callable:
        def rule(variable, grad, velocity):
            velocity.assign(BETA1 * velocity + grad)
            variable.assign_sub(lr * velocity)

        return rule
