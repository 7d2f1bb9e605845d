"""What every TensorFlow module here leans on: types, casts, seeds, schedules, devices."""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dreamerv2.common.config.values import parse_schedule
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn import cuda

Nest = Any  # a tensor or a (nested) dict, list or tuple of tensors

PRECISIONS = {"32": "float32", "16": "float16", "bfloat16": "bfloat16"}


# --- device and compute type -------------------------------------------------------------


def gpus() -> list:
    """Return the GPUs that TensorFlow will use."""
    return tf.config.get_visible_devices("GPU")


def set_up_devices() -> str:
    """Prepare the devices before first use and return a sentence on which will be used.

    That is the first GPU, whose memory is taken as needed, so that others can share the card.
    """
    cuda.preload()
    found = gpus()
    if not tf.config.list_physical_devices("GPU") and cuda.driver_has_gpus():
        return (
            "TensorFlow cannot use the GPU that NVIDIA's driver lists: computing on the CPU. With "
            "TF_CPP_MIN_LOG_LEVEL=0 it says which library is missing."
        )
    if not found:
        return "No GPU was found: computing on the CPU."
    # A library user's own code may have settled this already; then it stays as it is.
    with contextlib.suppress(RuntimeError, ValueError):
        tf.config.set_visible_devices(found[:1], "GPU")
        tf.config.experimental.set_memory_growth(found[0], True)
    if len(found) == 1:
        return "Using the GPU, with XLA."
    return f"Using the first of {len(found)} GPUs, with XLA; CUDA_VISIBLE_DEVICES chooses another."


def cpu_has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor multiplies bfloat16 faster than float32 (Linux; elsewhere: no).

    AMD's do with AVX512_BF16. Intel's do with AMX alone, see docs/performance.md.
    """
    try:
        with open(cpuinfo) as file:
            text = file.read()
    except OSError:
        return False
    wanted = "amx_bf16" if "GenuineIntel" in text else "avx512_bf16|amx_bf16"
    return bool(re.search(rf"\b({wanted})\b", text))


def compute_dtype(precision: str) -> tf.DType:
    """Return the type matrices are multiplied in for ``--precision auto|32|16|bfloat16``.

    auto: float16 on a GPU, bfloat16 on a CPU that is faster with it, else float32.
    """
    if precision == "auto":
        precision = "16" if gpus() else "bfloat16" if cpu_has_bfloat16() else "32"
    return tf.as_dtype(PRECISIONS[precision])


def wide(x: tf.Tensor) -> tf.Tensor:
    """Return x in at least float32: the type of norms, distributions, sums and losses."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 or not x.dtype.is_floating else x


# --- weights -----------------------------------------------------------------------------


class Init:
    """Makes the variables of one part of a model: Glorot-uniform kernels, constant vectors.

    Values come from a NumPy generator, so they depend on the seed alone and not on the device.

    Args:
        rng: source of the initial values.
        dtype: compute type of the layers. Variables are float64 if it is, else float32.
        path: prefix of the variables' names, such as ``world_model/rssm``.
    """

    def __init__(self, rng: np.random.Generator, dtype: Any = tf.float32, path: str = ""):
        self.rng = rng
        self.dtype = tf.as_dtype(dtype)
        self.store = tf.float64 if self.dtype == tf.float64 else tf.float32
        self.path = path

    def __truediv__(self, name: str) -> "Init":
        return Init(self.rng, self.dtype, f"{self.path}/{name}" if self.path else name)

    def wide(self) -> "Init":
        """The same with at least float32 as the compute type."""
        return Init(self.rng, self.store, self.path)

    def glorot(self, shape: tuple[int, ...], name: str = "kernel") -> tf.Variable:
        """Uniform in +-sqrt(6 / (fan_in + fan_out)); leading dimensions are kernel windows."""
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        return self._variable(self.rng.uniform(-limit, limit, shape), name)

    def fill(self, shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
        return self._variable(np.full(shape, value), name)

    def _variable(self, value: np.ndarray, name: str) -> tf.Variable:
        value = value.astype(self.store.as_numpy_dtype)
        return tf.Variable(value, name=f"{self.path}/{name}")


def named_variables(module: tf.Module) -> dict[str, tf.Variable]:
    """Return every variable of the module under its path name, sorted by name.

    Raises:
        UserError: two have one name, so that a checkpoint would lack one of them.
    """
    variables = sorted(module.variables, key=lambda v: v.name)
    names = [v.name.removesuffix(":0") for v in variables]
    for name, following in itertools.pairwise(names):
        if name == following:
            raise UserError(f"Two variables are called '{name}': rename what has that name.")
    return dict(zip(names, variables, strict=True))


_casts = threading.local()


@contextlib.contextmanager
def cast_once(*modules: tf.Module, dtype: tf.DType) -> Iterator[None]:
    """Within the block, ``weight`` hands out one low-precision copy of each variable.

    Without it a loop over time casts every weight at every step.
    """
    outer = getattr(_casts, "table", {})
    if dtype.size < 4:
        variables = [v for module in modules for v in module.variables]
        _casts.table = {**outer, **{v.ref(): tf.cast(v, dtype) for v in variables}}
    try:
        yield
    finally:
        _casts.table = outer


class LowPrecisionCopies:
    """Copies of some modules' weights in the compute type, kept from one call to the next.

    A policy step multiplies each weight with one or a few rows: casting them would take longer
    than the step itself. Call `refresh` after every update of the weights; within `in_use`,
    `weight` hands out the copies. They are no part of any tf.Module, so no checkpoint holds them.
    """

    def __init__(self, *modules: tf.Module, dtype: tf.DType):
        weights = {v.ref(): v for module in modules for v in module.trainable_variables}
        self._weights = list(weights.values()) if dtype.size < 4 else []
        self._copies = [tf.Variable(tf.cast(v, dtype), trainable=False) for v in self._weights]

    def refresh(self) -> None:
        for copy, variable in zip(self._copies, self._weights):
            copy.assign(tf.cast(variable, copy.dtype))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        outer = getattr(_casts, "table", {})
        _casts.table = {
            variable.ref(): tf.convert_to_tensor(copy)
            for copy, variable in zip(self._copies, self._weights)
        }
        try:
            yield
        finally:
            _casts.table = outer


def weight(variable: tf.Variable, dtype: tf.DType) -> tf.Tensor:
    """Return the variable's value in the compute type."""
    table = getattr(_casts, "table", {})
    if variable.dtype == dtype:
        return tf.convert_to_tensor(variable)
    return table[variable.ref()] if variable.ref() in table else tf.cast(variable, dtype)


@contextlib.contextmanager
def recording(module: tf.Module) -> Iterator[tf.GradientTape]:
    """A tape of only what depends on the module's trainable variables.

    A plain tape would also walk backwards through every network that was merely read.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(module.trainable_variables)
        yield tape


# --- randomness --------------------------------------------------------------------------


def fold(seed: tf.Tensor, index: int) -> tf.Tensor:
    """Return the seed of one part of a step: int32 [2] -> int32 [2], not negative."""
    # XLA and TensorFlow make different numbers of a negative seed.
    return tf.bitwise.bitwise_and(tf.random.experimental.stateless_fold_in(seed, index), 2**31 - 1)


def uniform(shape, seed: tf.Tensor, index: int) -> tf.Tensor:
    """Return stateless float32 noise in [0, 1) for one use of a step's seed.

    Args:
        shape: shape of the result.
        seed: int32 [2], (stream, counter).
        index: which use of this seed it is; every use needs its own.
    """
    # Philox by name: the automatic choice differs between devices. And floats from its bits by
    # hand: XLA makes other ones of the same bits, a compiled update would draw other noise.
    bits = tf.random.stateless_uniform(
        shape, fold(seed, index), None, None, dtype=tf.uint32, alg="philox"
    )
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24


# --- schedules ---------------------------------------------------------------------------

SCHEDULES = {
    "linear": lambda step, a, b, n: a + (b - a) * tf.clip_by_value(step / n, 0, 1),
    "warmup": lambda step, n, v: v * tf.clip_by_value(step / n, 0, 1),
    "exp": lambda step, a, b, half: b + (a - b) * 0.5 ** (step / half),
    "horizon": lambda step, a, b, n: 1 - 1 / (a + (b - a) * tf.clip_by_value(step / n, 0, 1)),
}


def schedule(spec: float | str, step: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Return the value of a number or schedule string at an agent step.

    linear(a,b,n): from a to b in n steps. warmup(n,v): from 0 to v in n steps. exp(a,b,half): from
    a towards b, half of the way every `half` steps. horizon(a,b,n): 1 - 1/h, h linear from a to b.
    """
    step = tf.cast(step, dtype)
    if "(" not in str(spec):
        return tf.constant(float(spec), dtype)
    name, arguments = parse_schedule(spec)
    return SCHEDULES[name](step, *arguments)
