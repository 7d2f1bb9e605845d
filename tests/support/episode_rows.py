"""Rows of experience whose values name their origin, for the tests of the replay."""

import contextlib
import itertools
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from dreamerv2.common.replay.replay import Replay

SEARCHED = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
NAME = "20210102T030405-"  # of an episode; 32 hex digits follow


def make_row(episode, t, last=-1, terminal=True):
    """Return row t of an episode whose last row is `last`; every value names episode and t."""
    return {
        "image": np.full((2, 2, 1), (7 * episode + t) % 256, np.uint8),
        "action": np.array([episode, t], np.float32),
        "reward": np.float64(100 * episode + t),
        "is_first": t == 0,
        "is_last": t == last,
        "is_terminal": t == last and terminal,
        "log_extra": np.int64(t),
    }


def add_rows(replay, episode, rows, worker=0):
    """Begin an episode and leave it unfinished."""
    for t in range(rows):
        replay.add_step(make_row(episode, t), worker)


def add_episode(replay, episode, steps, worker=0, **kwargs):
    """Add a whole episode of that many steps."""
    for t in range(steps + 1):
        replay.add_step(make_row(episode, t, steps, **kwargs), worker)


def make_arrays(episode, steps):
    """Return a whole episode as arrays [steps+1, ...]."""
    rows = [make_row(episode, t, steps) for t in range(steps + 1)]
    arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return {**arrays, "reward": arrays["reward"].astype(np.float32)}


def check_rows(batch):
    """Assert that all keys of every row are of one time step; return the episodes [B, T]."""
    episode, t = batch["action"][..., 0], batch["action"][..., 1]
    np.testing.assert_array_equal(batch["reward"], 100 * episode + t)
    np.testing.assert_array_equal(batch["image"][..., 1, 1, 0], (7 * episode + t) % 256)
    return episode


def fill(directory, lengths=(30, 12, 47), **options):
    """Return a replay with episodes 0, 1, ... of those steps."""
    replay = Replay(directory, **options)
    for episode, steps in enumerate(lengths):
        add_episode(replay, episode, steps)
    return replay


def places(batch):
    """Return (episode, t) of every row of a batch, as a nested list."""
    return batch["action"].astype(int).tolist()


def take(dataset, count):
    """Return the places of the next batches."""
    return [places(next(dataset)) for _ in range(count)]


def sequences(batches, row):
    """Cut the concatenated rows of one stream where is_first says a sequence begins."""
    action = np.concatenate([batch["action"][row] for batch in batches]).astype(int)
    first = np.concatenate([batch["is_first"][row] for batch in batches])
    starts = [*np.flatnonzero(first), len(first)]
    assert starts[0] == 0, "the first row of a stream begins no sequence"
    return [action[a:b] for a, b in itertools.pairwise(starts)]


def start_python(code, *args):
    """Start a Python process that can import this module; its output is a pipe."""
    command, env = [sys.executable, "-c", code, *map(str, args)], {"PYTHONPATH": SEARCHED}
    return subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def file_size_limit(size):
    """Limit how large this process may make a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
