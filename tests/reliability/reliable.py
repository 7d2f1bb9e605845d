"""Runs in processes of their own, and readers of their files that need none of our code."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIGHT, REAL = HERE / "light_run.py", ROOT / "train.py"
SHORT = [
    *("--task", "gym_CartPole-v1", "--prefill", "60", "--log_every", "20", "--eval_every", "200"),
    *("--train_every", "5", "--checkpoint_every", "50", "--replay.minlen", "8"),
    *("--replay.maxlen", "16", "--dataset.batch", "4", "--dataset.length", "8"),
]


def start(script, *arguments, log, file_size=None, **environment) -> subprocess.Popen:
    """Start a script whose output goes to the file `log` and whose files have limited sizes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=limit if file_size else None,
        )


def run(script, *arguments, log, timeout=120, **more) -> tuple[int, str]:
    """Run a script to its end; return its exit status and its output."""
    process = start(script, *arguments, log=log, **more)
    try:
        return process.wait(timeout), Path(log).read_text()
    finally:
        process.kill()
        process.wait()


def run_light(*arguments, log, status=0, **more) -> str:
    """Run the light agent with short intervals to its end with a status; return the output."""
    ended, said = run(LIGHT, *SHORT, *arguments, log=log, **more)
    assert ended == status and "Traceback" not in said, said[-3000:]
    return said


def wait_for(process, log, text, timeout=60, count=1) -> str:
    """Wait until a text is so many times in the output of a process; return the output."""
    deadline = time.monotonic() + timeout
    while (said := Path(log).read_text()).count(text) < count:
        assert process.poll() is None, f"it ended without saying '{text}':\n{said[-3000:]}"
        assert time.monotonic() < deadline, f"it never said '{text}':\n{said[-3000:]}"
        time.sleep(0.02)
    return said


def number(said: str, pattern: str) -> int | None:
    """Return the last number after a pattern, if any: `Continuing from agent step 1,234`."""
    found = re.findall(pattern + r"([\d,]+)", said)
    return int(found[-1].replace(",", "")) if found else None


def checkpoints(logdir) -> list[int]:
    """Return the steps of the whole checkpoints."""
    folder = Path(logdir) / "checkpoints"
    return sorted(int(path.parent.name[:12]) for path in folder.glob("[0-9]*/complete.json"))


def read_checkpoint(logdir) -> tuple[int, dict, dict]:
    """Return (agent step, arrays, state) of the newest checkpoint, read without our own code."""
    newest = max((logdir / "checkpoints").iterdir())
    with np.load(newest / "variables.npz") as arrays:
        return int(newest.name[:12]), dict(arrays), json.loads((newest / "state.json").read_text())


def episodes(logdir, name="train_episodes") -> list[dict[str, np.ndarray]]:
    """Return the arrays of all stored episodes, oldest first."""
    paths = sorted((Path(logdir) / name).glob("*.npz"))
    return [dict(np.load(path, allow_pickle=False)) for path in paths]


def steps_on_disk(logdir) -> int:
    """Return the agent steps of the training replay: of its files, and the pruned ones."""
    folder = Path(logdir) / "train_episodes"
    ledger = folder / "pruned.json"
    pruned = json.loads(ledger.read_text())["steps"] if ledger.exists() else 0
    return pruned + sum(int(path.stem.rpartition("-")[2]) for path in folder.glob("*.npz"))


def check_metrics(path) -> int:
    """Assert that every line is whole and each metric's steps increase; return the line count."""
    last: dict[str, int] = {}
    data = Path(path).read_bytes()
    assert not data or data.endswith(b"\n"), "the last line is half a line"
    for line in data.splitlines():
        entry = json.loads(line)
        for name in entry.keys() - {"step"}:
            assert entry["step"] > last.get(name, -1), f"{name} runs backwards at {entry['step']}"
            last[name] = entry["step"]
    return len(data.splitlines())


def check_episodes(logdir) -> None:
    """Assert that stored episodes hold one environment's episode each, without gaps."""
    for episode in episodes(logdir):
        place, rows = episode["place"], len(episode["reward"])
        assert len(set(place[:, 0])) == 1, "two episodes were mixed"
        np.testing.assert_array_equal(place[:, 1], np.arange(rows), "rows were lost or repeated")
        assert episode["is_last"].tolist() == [False] * (rows - 1) + [True]
        assert episode["is_first"].tolist() == [True] + [False] * (rows - 1)


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [child.pid for child in psutil.Process(pid).children()]


def alive(pid: float) -> bool:
    """Return whether a process runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    return False
