"""Devices, as far as they can be tested without a GPU."""

import _ctypes
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from dreamerv2.common.nn import device, precision

NO_GPU = "No GPU was found: computing on the CPU."


def test_cusolver_is_loaded_from_its_package(tmp_path, monkeypatch):
    library = tmp_path / "nvidia" / "cusolver" / "lib" / "libcusolver.so.11"
    library.parent.mkdir(parents=True)
    shutil.copy(_ctypes.__file__, library)  # any library will do
    (library.parent / "libcusolver.so.12").write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    device.preload_cusolver()
    loaded = Path("/proc/self/maps").read_text()
    assert str(library) in loaded, "TensorFlow 2.21 would use no GPU"


def test_a_gpu_that_only_the_driver_lists_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "gpus", list)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(device, "NVIDIA_DRIVER", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.set_up_devices() == NO_GPU
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    message = device.set_up_devices()
    assert "cannot use the GPU" in message and "TF_CPP_MIN_LOG_LEVEL=0" in message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.set_up_devices() == NO_GPU, "the GPU is hidden"


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_the_set_up_of_a_library_user_is_kept(monkeypatch, error):
    """After the first operation, or with virtual devices, TensorFlow refuses these calls."""

    def refuse(*args):
        raise error("too late")

    monkeypatch.setattr(device, "gpus", lambda: ["a", "b"])
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    assert "the first of 2 GPUs" in device.set_up_devices()


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("AuthenticAMD", "fma avx2", False),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", True),
        ("GenuineIntel", "avx2 avx512f avx512_bf16", False),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", True),
    ],
)
def test_bfloat16_is_for_processors_that_are_faster_with_it(vendor, flags, fast, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n")
    assert device.cpu_has_bfloat16(cpuinfo) == fast


def test_automatic_precision_fits_the_device(monkeypatch, tmp_path):
    assert not device.cpu_has_bfloat16(tmp_path / "absent")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    for fast, dtype in ((False, tf.float32), (True, tf.bfloat16)):
        monkeypatch.setattr(device, "cpu_has_bfloat16", lambda fast=fast: fast)
        assert precision.compute_dtype("auto") == dtype
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert precision.compute_dtype("auto") == tf.float16
