"""TensorFlow multiplies with oneDNN on every x86 processor, unless the user says otherwise."""

import platform
import sys

import pytest
from sources import output_of

CONVOLUTION = """
import dreamerv2.common.nn.layers, tensorflow as tf
tf.function(tf.nn.conv2d)(tf.ones((1, 4, 4, 8)), tf.ones((2, 2, 8, 8)), 1, "VALID")
"""
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.skipif(not X86, reason="oneDNN is for x86 processors")
@pytest.mark.parametrize("chosen", ["", pytest.param("0", marks=pytest.mark.slow)])
def test_convolutions_are_those_of_onednn_unless_chosen_otherwise(chosen, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)  # of the tests themselves
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a GPU would do the convolution
    user = {"TF_ENABLE_ONEDNN_OPTS": chosen} if chosen else {}
    printed = output_of(sys.executable, "-c", CONVOLUTION, ONEDNN_VERBOSE=1, **user)
    assert ("exec,cpu,convolution" in printed) == (chosen != "0"), printed[-500:]
