import pytest
import tensorflow as tf
from small_models import assert_close

from dreamerv2.common.config import values
from dreamerv2.common.nn.schedules import SCHEDULES, schedule

STEPS = (0, 1, 999, 1000, 5_000, 10_000, 30_000, 50_000_000)


def clip(x):
    return min(max(x, 0.0), 1.0)


CASES = {
    "0.003": lambda step: 0.003,
    "1e-4": lambda step: 1e-4,
    "linear(1,0,1e4)": lambda step: 1 - clip(step / 1e4),
    "linear(0.5, 2, 1000)": lambda step: 0.5 + 1.5 * clip(step / 1000),
    " linear(-1,-3,1e4) ": lambda step: -1 - 2 * clip(step / 1e4),
    "linear (1,0,1e4)": lambda step: 1 - clip(step / 1e4),
    "delayed(1,0.2,2e3,1e4)": lambda step: 1 - 0.8 * clip((step - 2e3) / 1e4),
    "warmup(1e4,0.3)": lambda step: 0.3 * clip(step / 1e4),
    "exp(1,0.1,1000)": lambda step: 0.1 + 0.9 * 2.0 ** (-step / 1000),
    "exp(0, 2, 5e3)": lambda step: 2 - 2 * 2.0 ** (-step / 5e3),
    "horizon(10,100,1e4)": lambda step: 1 - 1 / (10 + 90 * clip(step / 1e4)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spec", CASES)
def test_schedules(spec, dtype):
    for step in STEPS:
        actual = schedule(spec, tf.constant(step, tf.int64), tf.as_dtype(dtype))
        assert_close(actual, CASES[spec](step), f"{spec} at {step}")


def test_the_config_accepts_exactly_the_schedules_that_exist():
    assert set(values.SCHEDULES) == set(SCHEDULES)
    for name, (count, duration) in values.SCHEDULES.items():
        numbers = ["2"] * count
        numbers[duration] = "100"
        spec = f"{name}({','.join(numbers)})"
        assert values.parse_schedule(spec)[0] == name
        assert_close(schedule(spec, tf.constant(100)), 0.5 if name == "horizon" else 2, spec)
