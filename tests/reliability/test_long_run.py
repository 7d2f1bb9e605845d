"""200,000 environment steps of the real agent: memory stays flat, nothing leaks."""

import contextlib
import re
import time

import numpy as np
import psutil
import pytest
from commandline import TINY
from reliable import REAL, ROOT, check_metrics, start

STEPS = 200_000
# An environment that costs nothing: what is measured is the loop.
MODULE = """
import gymnasium, numpy as np

class Trivial(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.state = 0, self.np_random.normal(size=8).astype(np.float32)
        return self.state, {}
    def step(self, action):
        self.count += 1
        self.state = np.roll(self.state, int(action))
        return self.state, float(self.state[0]), self.count == 200, False, {}

gymnasium.register("trivial-v0", Trivial)
"""


def measure(process: psutil.Process) -> dict[str, int]:
    """Return memory (bytes), open files, threads and children of a process."""
    memory = process.memory_info()
    return {
        "memory": memory.rss,
        "anonymous": memory.rss - memory.shared,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children()),
    }


def steps_so_far(logdir) -> int:
    """The last step in the metrics."""
    found = re.findall(rb'^\{"step": (\d+)', (logdir / "metrics.jsonl").read_bytes(), re.M)
    return int(found[-1]) if found else 0


@pytest.mark.slow
def test_memory_is_flat_and_nothing_leaks_in_200000_steps(tmp_path):
    (tmp_path / "trivial_env.py").write_text(MODULE)
    logdir, log = tmp_path / "run", tmp_path / "log"
    command = [*TINY, "--jit", "True", "--task", "gym_trivial_env:trivial-v0", "--envs", "20"]
    command += ["--logdir", logdir, "--steps", STEPS, "--prefill", "2000", "--precision", "32"]
    command += ["--train_every", "500", "--log_every", "2000", "--eval_every", "20000"]
    command += ["--eval_eps", "2", "--checkpoint_every", "5000", "--replay.capacity", "30000"]
    command += ["--dataset.batch", "4", "--dataset.length", "10", "--replay.minlen", "10"]
    command += ["--replay.maxlen", "20"]
    process = start(REAL, *command, log=log, PYTHONPATH=f"{tmp_path}:{ROOT}")
    seen: list[tuple[int, dict]] = []
    try:
        while process.poll() is None:
            time.sleep(0.05)  # a fast machine takes two seconds for a tenth of the steps
            if (logdir / "metrics.jsonl").exists():
                with contextlib.suppress(psutil.NoSuchProcess):
                    seen.append((steps_so_far(logdir), measure(psutil.Process(process.pid))))
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert process.returncode == 0 and "Done: 200,000" in said, said[-3000:]
    check(seen)
    assert check_metrics(logdir / "metrics.jsonl") > 500


def check(seen) -> None:
    """Compare the middle of the run with its end."""
    middle = [held for step, held in seen if STEPS * 0.5 <= step < STEPS * 0.65]
    end = [held for step, held in seen if STEPS * 0.85 <= step < STEPS]
    assert middle and end, "the run was not measured in its middle and at its end"
    for name in seen[0][1]:
        # In the median: files that are just being written come and go.
        before, after = (np.median([held[name] for held in part]) for part in (middle, end))
        print(f"{name}: {before:,.0f}, then {after:,.0f}")
        limit = 1.05 if name in ("memory", "anonymous") else 1
        assert after <= limit * before, f"{name} grew from {before:,.0f} to {after:,.0f}"
