"""Folders of finished runs for tests of results."""

import json

import numpy as np

from dreamerv2.common.config.config import Config

GAMES = ("atari_pong", "atari_breakout")


def write_run(folder, ys, metric="eval_return", config=None):
    """Write a run with a value every 1000 frames."""
    folder.mkdir(parents=True)
    lines = [{"step": 1000 * (i + 1), metric: float(y)} for i, y in enumerate(ys)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        Config(config).save(folder / "config.yaml")
    return folder


def write_logdir(folder):
    """Write 2 tasks x 2 methods x 2 seeds of 60 values."""
    for task in GAMES:
        for method, shift in (("a", 0), ("b", 9)):
            for seed in range(2):
                write_run(folder / task / method / str(seed), np.arange(60) + seed + shift)
    return folder
