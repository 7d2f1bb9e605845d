"""Runs the real command line: `python train.py ...` in a process of its own, or in this one."""

import os
import subprocess
import sys
from pathlib import Path

import train

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
# Networks so small that starting TensorFlow takes longer than learning.
TINY = [
    *("--rssm.hidden=16", "--rssm.deter=16", "--rssm.stoch=4", "--rssm.discrete=4"),
    *(r"--.*\.cnn_depth=2", r"--.*\.mlp_layers=16", r"--.*\.layers=1", r"--.*\.units=16"),
    *("--imag_horizon=4", "--disag_models=2", "--jit=False"),
]
# With these, any task ends in seconds; random CartPole is over within ten steps.
FLAGS = [
    *(*TINY, "--dataset.batch=4", "--dataset.length=5", "--replay.minlen=5", "--replay.maxlen=10"),
    *("--time_limit=30", "--prefill=40", "--pretrain=1", "--train_every=10", "--log_every=20"),
    *("--eval_every=40", "--steps=60"),
]


def start(*arguments, cwd, **environment) -> subprocess.Popen:
    """Start train.py with these arguments; its output can be read as text."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=120) -> subprocess.CompletedProcess:
    """Wait for the end of a process and return its status and output."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_here(*arguments) -> None:
    """Run the command line in this process, which spares the loading of TensorFlow."""
    train.main([str(argument) for argument in arguments])
