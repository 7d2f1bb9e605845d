"""What can be told of GPUs without one: the libraries TensorFlow misses, and what is said."""

import _ctypes
import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from sources import ROOT

from dreamerv2.common.nn import cuda, tfutils

LOADED = """
from dreamerv2.common.nn import cuda
cuda.preload()
print(open("/proc/self/maps").read())
"""


def test_cusolver_is_loaded_from_its_package_if_it_is_there(tmp_path):
    library = tmp_path / "nvidia" / "cusolver" / "lib" / "libcusolver.so.11"
    library.parent.mkdir(parents=True)
    shutil.copy(_ctypes.__file__, library)  # any library will do
    (library.parent / "libcusolver.so.12").write_bytes(b"damaged")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", LOADED]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert str(library) in ran.stdout, "TensorFlow 2.21 would use no GPU"


def test_a_gpu_that_only_the_driver_sees_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(tfutils, "gpus", list)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(cuda, "DRIVER", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert tfutils.set_up_devices() == "No GPU was found: computing on the CPU."
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    said = tfutils.set_up_devices()
    assert "cannot use the GPU" in said and "TF_CPP_MIN_LOG_LEVEL=0" in said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert tfutils.set_up_devices() == "No GPU was found: computing on the CPU.", "it is hidden"


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_what_a_library_user_has_settled_stays(monkeypatch, error):
    """After the first operation, or with virtual devices, TensorFlow refuses these calls."""

    def refuse(*args):
        raise error("too late")

    monkeypatch.setattr(tfutils, "gpus", lambda: ["a", "b"])
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    assert "the first of 2 GPUs" in tfutils.set_up_devices()


def test_hidden_gpus_do_not_count(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["hidden"])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    assert tfutils.gpus() == []


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
    (tmp_path / "cpuinfo").write_text(
        f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n"
    )
    assert tfutils.cpu_has_bfloat16(tmp_path / "cpuinfo") == fast


def test_without_cpuinfo_precision_is_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(tfutils, "gpus", list)
    assert not tfutils.cpu_has_bfloat16(tmp_path / "absent")
    monkeypatch.setattr(tfutils, "cpu_has_bfloat16", lambda: False)
    assert tfutils.compute_dtype("auto") == tf.float32
    monkeypatch.setattr(tfutils, "cpu_has_bfloat16", lambda: True)
    assert tfutils.compute_dtype("auto") == tf.bfloat16


@pytest.mark.parametrize(("level", "shown"), [("0", True), ("1", False)])
def test_log_level_zero_holds_nothing_back(level, shown):
    script = "import os\nfrom dreamerv2.common.hush import hushed\nwith hushed(): os.write(2, b'x')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": level}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert (ran.stderr == b"x") == shown
