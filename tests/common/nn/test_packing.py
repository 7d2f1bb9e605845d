import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.common.nn.dispatch import Scalars, pack, unpack


def arrays(rng):
    numbers = rng.integers(0, 100, (2, 6))
    return {
        "image": rng.integers(0, 256, (2, 4, 4, 3), np.uint8),
        "turned": rng.integers(0, 256, (4, 2), np.uint8).T,  # not contiguous
        "flag": np.array([True, False]),
        "small": numbers.astype(np.int8) - 50,
        "half": numbers.astype(np.float16),
        "single": rng.random((2, 5), np.float32)[:, ::2],
        "double": rng.random(2),
        "count": numbers - 50,
        "number": np.float32(np.nan),
        "none": np.zeros((2, 0), np.float32),
    }


WAYS = {
    "eager": lambda f: f,
    "graph": tf.function,
    "XLA": lambda f: tf.function(f, jit_compile=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_packed_comes_out_as_it_was(way):
    rng = np.random.default_rng(0)
    before = arrays(rng), {"image": rng.random(3)}, {}
    buffer, layout = pack(*before)
    assert buffer.dtype == np.uint8 and buffer.ndim == 1
    after = WAYS[way](lambda x: unpack(x, layout))(tf.constant(buffer))
    assert [list(group) for group in after] == [list(group) for group in before]
    for one, other in zip(before, after, strict=True):
        for key, value in one.items():
            got = other[key].numpy()
            assert got.dtype == value.dtype and got.shape == value.shape, key
            assert np.array_equal(got, value, equal_nan=value.dtype.kind == "f"), key


def test_layouts_tell_shapes_and_types_apart():
    same = [pack({"x": np.zeros((2, 3), np.float32)})[1] for _ in range(2)]
    assert len(set(same)) == 1, "one layout, one traced graph"
    others = [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32)]
    assert len({same[0], *(pack({"x": x})[1] for x in others)}) == 3


def test_numbers_are_read_from_the_device_once_and_not_before_they_are_asked_for():
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
