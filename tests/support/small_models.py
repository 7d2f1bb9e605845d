"""Small models with random weights everywhere, batches for them, and how close is close.

A float64 result must equal its oracle to 1e-9 (relative to the largest entry, where that exceeds
1). A float32 result must lie within BOUND32 of it in norm: |x - y| <= 1e-5 * max(|y|, 1), which
leaves float32's 6e-8 room for sums over some thousand terms.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dreamerv2.behavior import ActorCritic
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.nn.variables import Init, named_variables
from dreamerv2.world_model import WorldModel

BOUND64, BOUND32 = 1e-9, 1e-5
SHAPES = {"image": (12, 12, 1), "wide": (12, 12, 2), "position": (3,), "speed": ()}
VECTORS = {"position": (3,), "speed": ()}
SMALL = {
    "precision": "32",
    "dataset": {"batch": 3, "length": 5},
    "rssm": {"hidden": 7, "deter": 6, "stoch": 3, "discrete": 4},
    "encoder": {"cnn_depth": 2, "cnn_kernels": [4, 4], "mlp_layers": [6, 5]},
    "decoder": {"cnn_depth": 2, "cnn_kernels": [5, 4], "mlp_layers": [6, 5]},
    r".*\.layers": 2,
    r".*\.units": 8,
    "imag_horizon": 4,
    "disag_models": 3,
}
LAYER_NORM = {r".*\.norm": "layer"}
GAUSSIAN = {"rssm.discrete": 0}


def in_types(variants, *also_float32):
    """Parametrize by (variant, dtype): every variant in float64, a few in float32 as well."""
    pairs = [(variant, "float64") for variant in variants]
    pairs += [(variant, "float32") for variant in also_float32]
    return pytest.mark.parametrize(("variant", "dtype"), pairs)


def small_config(*changes):
    """The defaults at a size that runs in milliseconds, then the changes."""
    config = Config(paths.load_configs()["defaults"]).update(SMALL)
    return functools.reduce(lambda config, change: config.update(change), changes, config)


def make_batch(shapes=SHAPES, batch=3, length=5, actions=3, discrete=True, seed=0):
    """A raw batch as the replay gives it, with resets and terminals inside the sequences."""
    rng = np.random.default_rng(seed)
    size = (batch, length)
    data = {}
    for key, shape in shapes.items():
        pixels = rng.integers(0, 256, (*size, *shape), dtype=np.uint8)
        numbers = rng.normal(size=(*size, *shape)).astype(np.float32)
        data[key] = pixels if len(shape) == 3 else numbers
    onehot = np.eye(actions, dtype=np.float32)[rng.integers(0, actions, size)]
    plain = rng.uniform(-1, 1, (*size, actions)).astype(np.float32)
    data["action"] = onehot if discrete else plain
    data["reward"] = rng.normal(size=size, scale=2).astype(np.float32)
    data["is_first"] = rng.uniform(size=size) < 0.3
    data["is_terminal"] = rng.uniform(size=size) < 0.3
    data["is_last"] = data["is_terminal"]
    return data


def tensors_of(arrays):
    """The same batch as tensors."""
    return {key: tf.convert_to_tensor(value) for key, value in arrays.items()}


def randomize(module, rng, scale=0.3):
    """Move every weight off its initial value, so that no bias is zero and no scale is one."""
    for variable in module.trainable_variables:
        move = rng.normal(size=variable.shape, scale=scale)
        variable.assign_add(tf.cast(move, variable.dtype))


def make_model(config, dtype="float64", shapes=SHAPES, actions=3, seed=0):
    """A world model with random weights."""
    init = Init(np.random.default_rng(seed), dtype)
    model = WorldModel(init / "world_model", shapes, actions, config)
    randomize(model, np.random.default_rng(seed + 1))
    return model


def make_behavior(config, model, discrete=True, seed=10):
    """An actor-critic with random weights, all three networks different."""
    init = Init(np.random.default_rng(seed), model.dtype)
    behavior = ActorCritic(init / "task", config, model, discrete)
    randomize(behavior, np.random.default_rng(seed + 1))
    return behavior


def weights_of(*modules):
    """Values of all variables by name, in float64."""
    pairs = (pair for module in modules for pair in named_variables(module).items())
    return {name: variable.numpy().astype(np.float64) for name, variable in pairs}


def random_start(model, batch=3, seed=5):
    """A state that is not zero, with a valid stochastic part."""
    rng = np.random.default_rng(seed)
    start = model.rssm.initial(batch)
    values = {key: rng.normal(size=value.shape) for key, value in start.items()}
    return {key: tf.cast(values[key], start[key].dtype) for key in start}


def numpy_of(nest):
    """Arrays in float64 (flags stay flags) of a nest of tensors."""

    def convert(x):
        x = np.asarray(x)
        return x if x.dtype == bool else x.astype(np.float64)

    return tf.nest.map_structure(convert, nest)


def flat(nest):
    """[B, T, ...] -> [B*T, ...] for every tensor of a nest."""
    return tf.nest.map_structure(lambda x: tf.reshape(x, (-1, *x.shape[2:])), nest)


def assert_close(actual, expected, promise, factor=1.0):
    """Compare a tensor with its oracle, to the bound of the tensor's type (times a factor)."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{promise}: {actual.shape} is not {expected.shape}"
    assert actual.dtype in (np.float64, np.float32), f"{promise}: computed in {actual.dtype}"
    assert np.isfinite(actual).all(), f"{promise}: not finite"
    error = np.abs(actual.astype(np.float64) - expected)
    if actual.dtype == np.float64:
        bound = BOUND64 * factor * max(1, np.abs(expected).max(initial=0))
        assert error.max(initial=0) <= bound, f"{promise}: off by {error.max()}"
    else:
        bound = BOUND32 * factor * max(1, np.linalg.norm(expected))
        assert np.linalg.norm(error) <= bound, f"{promise}: off by {np.linalg.norm(error)} in norm"
