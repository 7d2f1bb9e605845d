"""Gradient steps: loss scaling, global-norm clipping, decoupled decay, then the optimizer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from dreamerv2.common.nn.schedules import schedule
from dreamerv2.common.nn.variables import Init

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
        init: names its variables; the loss is scaled if the compute type is float16.
        label: prefix of its metrics.
        variables: the weights it trains, all of one type.
        config: opt, lr (a number or a schedule), eps, clip (0: none), wd (0: none).
    """

    def __init__(self, init: Init, label: str, variables: Sequence[tf.Variable], config):
        super().__init__()
        self.label, self.config, self.weights = label, config, tuple(variables)
        path = init.path
        self.step = tf.Variable(0, name=f"{path}/step", dtype=tf.int64, trainable=False)
        self.scaling = LossScale(path) if init.dtype == tf.float16 else None
        self.slots = [
            [
                tf.Variable(tf.zeros_like(v), name=f"{path}/slot{i}/{v.name[:-2]}", trainable=False)
                for i in range(SLOTS[config.opt])
            ]
            for v in self.weights
        ]

    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor, step=0) -> dict[str, tf.Tensor]:
        """Update the variables by the gradient of a loss [] that `scale` returned under the tape.

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

    def _apply(self, grads: list[tf.Tensor], norm: tf.Tensor, lr: tf.Tensor | float) -> tf.Tensor:
        clip, decay = self.config.clip, self.config.wd
        if clip:
            factor = clip / tf.maximum(norm, clip)
            grads = [grad * factor for grad in grads]
        self.step.assign_add(1)
        if decay:
            for variable in self.weights:
                variable.assign(variable * tf.constant(1 - decay, variable.dtype))
        rule = self._rule(lr)
        for variable, grad, slots in zip(self.weights, grads, self.slots, strict=True):
            rule(variable.handle, *(slot.handle for slot in slots), grad)
        return tf.constant(True)

    def _rule(self, lr: tf.Tensor | float) -> Callable:
        """Return a function that takes one step: (variable, *slots, gradient) by their handles.

        TensorFlow's fused kernels make one pass over the memory instead of ten.
        """
        ops, dtype = tf.raw_ops, self.weights[0].dtype
        # Made once for all variables: made for each, they would take an eighth of a whole update.
        values = (lr, self.config.eps, BETA1, BETA2)
        lr, eps, beta1, beta2 = (tf.convert_to_tensor(value, dtype) for value in values)
        step = tf.cast(self.step, dtype)
        shared = {"lr": lr, "beta1": beta1, "beta2": beta2, "epsilon": eps}
        shared |= {"beta1_power": beta1**step}
        both = shared | {"beta2_power": beta2**step}
        velocity = {"lr": lr, "momentum": beta1}
        # Nadam is without Keras' schedule of the momentum.
        call, names, options = {
            "adam": (ops.ResourceApplyAdam, "var m v grad", both),
            "nadam": (ops.ResourceApplyAdam, "var m v grad", both | {"use_nesterov": True}),
            "adamax": (ops.ResourceApplyAdaMax, "var m v grad", shared),
            "sgd": (ops.ResourceApplyGradientDescent, "var delta", {"alpha": lr}),
            "momentum": (ops.ResourceApplyMomentum, "var accum grad", velocity),
        }[self.config.opt]
        return lambda *args: call(**dict(zip(names.split(), args, strict=True)), **options)
