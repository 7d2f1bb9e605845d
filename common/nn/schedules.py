"""Options that change with the agent step: linear, delayed, warmup, exp and horizon."""

import tensorflow as tf

from dreamerv2.common.config.values import parse_schedule


def _progress(step: tf.Tensor, duration: float) -> tf.Tensor:
    return tf.clip_by_value(step / duration, 0, 1)


SCHEDULES = {
    "linear": lambda step, a, b, n: a + (b - a) * _progress(step, n),
    "delayed": lambda step, a, b, start, n: a + (b - a) * _progress(step - start, n),
    "warmup": lambda step, n, v: v * _progress(step, n),
    "exp": lambda step, a, b, half: b + (a - b) * 0.5 ** (step / half),
    "horizon": lambda step, a, b, n: 1 - 1 / (a + (b - a) * _progress(step, n)),
}


def schedule(spec: float | str, step: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Return the value of a number or schedule string at an agent step.

    linear(a,b,n): from a to b in n steps. delayed(a,b,start,n): the same from step `start` on.
    warmup(n,v): from 0 to v in n steps. exp(a,b,half): from a towards b, half of the way every
    `half` steps. horizon(a,b,n): 1 - 1/h, h linear from a to b.
    """
    if "(" not in str(spec):
        return tf.constant(float(spec), dtype)
    name, arguments = parse_schedule(spec)
    return SCHEDULES[name](tf.cast(step, dtype), *arguments)
