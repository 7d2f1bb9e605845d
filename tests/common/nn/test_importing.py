"""What comes into the process with TensorFlow."""

import json
import os
import subprocess
import sys

import pytest
from sources import ROOT

from dreamerv2.common.nn.importing import importing_tensorflow

AGENT = """
import json, sys
from dreamerv2.common.nn.importing import importing_tensorflow
with importing_tensorflow():
    import dreamerv2.agent
names = ("keras", "keras.src", "matplotlib", "pandas")
print(json.dumps([name for name in names if name in sys.modules]))
"""
AFTERWARDS = """
from tensorflow.keras.layers import Dense
import keras
import tensorflow as tf
import tensorflow.compat.v2 as tf2
print(Dense.__module__, keras.layers.Dense is tf.keras.layers.Dense is Dense)
import pandas
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


def test_the_agent_leaves_keras_and_pandas_out_and_users_can_import_them_afterwards():
    ran = run(AGENT + AFTERWARDS)
    loaded, layers, optimizers = ran.stdout.splitlines()
    assert json.loads(loaded) == [], "these take long to import, and nothing needs them"
    assert layers == "keras.src.layers.core.dense True", "tensorflow.keras is Keras 3"
    assert optimizers == "True True"
    assert "oneDNN" not in ran.stderr, "TensorFlow's remarks are held back"


@pytest.mark.parametrize("name", ["keras.src", "pandas"])
def test_after_a_failure_all_can_be_imported(name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ZeroDivisionError), importing_tensorflow():
        assert sys.modules[name] is None
        raise ZeroDivisionError
    assert name not in sys.modules


def test_what_a_user_has_imported_already_stays():
    before = "import keras, pandas; layer, frame = keras.layers.Dense(1), pandas.DataFrame()\n"
    after = "import keras, pandas\n"
    after += "print(type(layer) is keras.layers.Dense and type(frame) is pandas.DataFrame)"
    loaded, same = run(before + AGENT + after).stdout.splitlines()
    assert {"keras.src", "pandas"} <= set(json.loads(loaded))
    assert same == "True"
