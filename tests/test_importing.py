"""What comes into the process with TensorFlow."""

import json
import os
import subprocess
import sys

import pytest
from sources import ROOT

from dreamerv2.common.importing import importing_tensorflow

AGENT = """
import json, sys
from dreamerv2.common.importing import importing_tensorflow
with importing_tensorflow():
    import dreamerv2.agent
print(json.dumps([name for name in ("keras", "keras.src", "matplotlib") if name in sys.modules]))
"""
AFTERWARDS = """
from tensorflow.keras.layers import Dense
import keras
import tensorflow as tf
import tensorflow.compat.v2 as tf2
print(Dense.__module__, keras.layers.Dense is tf.keras.layers.Dense is Dense)
print(tf.optimizers.Adam is keras.optimizers.Adam, tf2.keras.layers.Dense is Dense)
"""
CHOICES = ("TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS")  # which the tests may have made


def run(program):
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran


def test_the_agent_leaves_keras_out_and_users_can_import_it_afterwards():
    ran = run(AGENT + AFTERWARDS)
    loaded, layers, optimizers = ran.stdout.splitlines()
    assert json.loads(loaded) == [], "these take a second to import, and nothing needs them"
    assert layers == "keras.src.layers.core.dense True", "tensorflow.keras is Keras 3"
    assert optimizers == "True True"
    assert "oneDNN" not in ran.stderr, "TensorFlow's remarks are held back"


def test_after_a_failure_keras_can_be_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras.src", raising=False)
    with pytest.raises(ZeroDivisionError), importing_tensorflow():
        assert sys.modules["keras.src"] is None
        raise ZeroDivisionError
    assert "keras.src" not in sys.modules


def test_keras_that_a_user_has_imported_already_stays():
    before = "import keras; layer = keras.layers.Dense(1)\n"
    after = "import keras; print(type(layer) is keras.layers.Dense)"
    loaded, same = run(before + AGENT + after).stdout.splitlines()
    assert "keras.src" in json.loads(loaded)
    assert same == "True"
