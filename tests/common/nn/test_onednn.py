"""TensorFlow multiplies with oneDNN on every x86 processor, unless the user says otherwise."""

import os
import platform
import subprocess
import sys

import pytest
from sources import ROOT

CONVOLUTION = """
import dreamerv2.common.nn.layers, tensorflow as tf
tf.function(tf.nn.conv2d)(tf.ones((1, 4, 4, 8)), tf.ones((2, 2, 8, 8)), 1, "VALID")
"""
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.skipif(not X86, reason="oneDNN is for x86 processors")
@pytest.mark.parametrize(("chosen", "used"), [(None, True), ("0", False)])
def test_convolutions_are_those_of_onednn(chosen, used):
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": str(ROOT)}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # a GPU would do the convolution
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)  # of the tests themselves
    environment |= {"TF_ENABLE_ONEDNN_OPTS": chosen} if chosen else {}
    command = [sys.executable, "-c", CONVOLUTION]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = "exec,cpu,convolution" in ran.stdout
    assert found == used, f"TF_ENABLE_ONEDNN_OPTS={chosen}: {ran.stdout[-500:]}"
