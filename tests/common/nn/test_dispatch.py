"""A compiled call equals the plain call, and compiles once for each kind of arguments."""

import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.common.nn.dispatch import Compiled, Scalars

WAYS = {"eager": {"jit": False}, "graph": {"jit": True}, "XLA": {"jit": True, "xla": True}}


def arrays(rng):
    numbers = rng.integers(0, 100, (2, 6))
    return {
        "image": rng.integers(0, 256, (2, 4, 4, 3), np.uint8),
        "transposed": rng.integers(0, 256, (4, 2), np.uint8).T,  # not contiguous
        "flag": np.array([True, False]),
        "small": numbers.astype(np.int8) - 50,
        "half": numbers.astype(np.float16),
        "single": rng.random((2, 5), np.float32)[:, ::2],
        "double": rng.random(2),
        "count": numbers - 50,
        "scalar": np.array(np.nan, np.float32),
        "empty": np.zeros((2, 0), np.float32),
    }


@pytest.mark.parametrize("way", WAYS)
def test_arguments_reach_the_function_unchanged(way):
    rng = np.random.default_rng(0)
    given = arrays(rng), {"state": tf.constant([1.5, 2.5]), "image": rng.random(3)}
    got = Compiled(lambda one, two: (one, two), **WAYS[way])(*given)
    for before, after in zip(given, got, strict=True):
        assert before.keys() == after.keys()
        for key in before:
            value, found = np.asarray(before[key]), after[key].numpy()
            assert found.dtype == value.dtype and found.shape == value.shape, key
            assert np.array_equal(found, value, equal_nan=value.dtype.kind == "f"), key


def test_one_graph_for_each_kind_of_arguments_and_each_option():
    function = Compiled(lambda data, scale: {k: x * scale for k, x in data.items()}, jit=True)
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for x in (ones, zeros):
        np.testing.assert_array_equal(function({"x": x}, scale=2)["x"], 2 * x)
    assert len(function.graphs) == 1
    others = [{"x": ones.T}, {"x": ones.astype(np.float64)}, {"y": ones}, {"x": tf.constant(ones)}]
    for count, other in enumerate(others, 2):
        (found,) = function(other, scale=2).values()
        assert found.shape == next(iter(other.values())).shape and len(function.graphs) == count
    assert np.all(function({"x": ones}, scale=3)["x"] == 3) and len(function.graphs) == 6


def test_scalars_are_copied_to_the_host_once_and_on_first_access():
    class Values:
        reads = 0

        def numpy(self):
            self.reads += 1
            return np.array([1.5, 2.5], np.float32)

    values = Values()
    scalars = Scalars(("one", "two"), values)
    assert list(scalars) == ["one", "two"] and "three" not in scalars and values.reads == 0
    assert dict(scalars) == {"one": 1.5, "two": 2.5} and values.reads == 1
    with pytest.raises(KeyError, match="three"):
        scalars["three"]
