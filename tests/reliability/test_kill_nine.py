"""kill -9 at any moment: the same command continues, and nothing but the row in flight is lost."""

import os
import random
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from reliable import (
    LIGHT,
    REAL,
    SHORT,
    TINY,
    check_episodes,
    check_metrics,
    checkpoints,
    number,
    run,
    start,
    steps_on_disk,
    wait_for,
)

from dreamerv2.common.logger.jsonl import JSONLOutput

EVERY = 50  # agent steps between checkpoints
TRAIN_EVERY = 5  # and between updates
# What a write looks like while it is under way: a kill as soon as one is seen falls into it.
WRITES = {
    "checkpoint": "checkpoints/.saving-*",
    "episode": "train_episodes/*.npz.tmp",
    "ledger": "train_episodes/pruned.json.tmp",
}


class Killer:
    """Starts the same command again and again and kills it; keeps the books about each life.

    Args:
        folder: holds the run directory and what the processes said.
        command: script and flags.
        envs: environments that step together.
    """

    def __init__(self, folder: Path, command: list, envs: int, **environment):
        self.folder, self.logdir, self.command, self.envs = folder, folder / "run", command, envs
        self.box, self.log = folder / "box", folder / "log"
        self.environment = {"BLACK_BOX": str(self.box), **environment}
        self.random = random.Random(0)
        self.counted = self.lost = self.worst = 0
        self.caught = dict.fromkeys(WRITES, 0)
        self.ages: list[int] = []

    def live(self, moment: str | float) -> None:
        """Start the command and kill it after so many seconds, or in the midst of a write."""
        log = self.log
        process = start(*self.command, "--logdir", self.logdir, log=log, **self.environment)
        try:
            self._wait(process, moment)
        finally:
            process.kill()
            process.wait()
        said = log.read_text()
        assert process.returncode == -9, f"the run ended by itself:\n{said[-3000:]}"
        self._check_life(said, self.logdir)

    def _wait(self, process, moment) -> None:
        if moment not in WRITES:
            time.sleep(moment)
            return
        time.sleep(self.random.uniform(0.8, 2))
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline and process.poll() is None:
            if any(self.logdir.glob(WRITES[moment])):
                process.kill()
                process.wait()
                self.caught[moment] += any(self.logdir.glob(WRITES[moment]))
                return

    def _check_life(self, said: str, logdir: Path) -> None:
        """Compare what a life began with to all that was ever done, and what it left behind."""
        begun = number(said, "Continuing from agent step ")
        if begun is not None:
            self._check_start(begun, said)
        self.taken = self.box.stat().st_size if self.box.exists() else 0
        shown = [int(step) for step in re.findall(r"^\[(\d+)\]", said, re.M)]
        self.shown = max([*shown, self.counted])
        if (logdir / "metrics.jsonl").exists():
            copy = self.folder / "copy"
            copy.mkdir(exist_ok=True)
            shutil.copy(logdir / "metrics.jsonl", copy)
            JSONLOutput(copy).close()  # what the next start does first
            check_metrics(copy / "metrics.jsonl")

    def _check_start(self, begun: int, said: str) -> None:
        assert begun >= self.counted, f"the counter ran backwards, from {self.counted} to {begun}"
        assert begun >= self.shown, f"step {self.shown} was shown, then it went on from {begun}"
        assert begun <= self.taken, f"{begun} counted, but only {self.taken} steps were taken"
        lost = self.taken - begun
        self.worst = max(self.worst, lost - self.lost)
        assert lost - self.lost <= self.envs, f"{lost - self.lost} steps of one life were lost"
        self.counted, self.lost = begun, lost
        learned = number(said, "Weights of step ")
        if learned is not None:
            self.ages.append(begun - learned)
            # Both intervals end with a row of all environments, and one more row may be stored.
            oldest = EVERY + TRAIN_EVERY + 3 * self.envs
            assert begun - learned <= oldest, "weights older than one interval"

    counted = shown = taken = 0


def check_end(killer: Killer) -> str:
    """Run the same command to an end a little later; check all that is on disk."""
    steps = killer.taken + 300
    ending = ["--logdir", killer.logdir, "--steps", steps]
    status, said = run(*killer.command, *ending, log=killer.log, **killer.environment)
    assert status == 0 and "Done: " in said, said[-3000:]
    killer._check_life(said, killer.logdir)
    assert check_metrics(killer.logdir / "metrics.jsonl") > 10
    assert checkpoints(killer.logdir)[-1] == steps_on_disk(killer.logdir) >= steps
    left = [path.name for path in killer.logdir.rglob("*") if path.name.startswith(".saving")]
    left += [path.name for path in killer.logdir.glob("*_episodes/*") if path.suffix != ".npz"]
    assert set(left) <= {"pruned.json"}, f"remains of killed writes: {left}"
    return said


def moments(count: int, seed: int) -> list:
    """When to die: half of the times at random, from the first import on, half in a write."""
    rng = np.random.default_rng(seed)
    return [
        float(rng.uniform(0.1, 2.5)) if index % 2 else list(WRITES)[index // 2 % len(WRITES)]
        for index in range(count)
    ]


def light(folder, envs: int, capacity: int) -> Killer:
    command = [LIGHT, *SHORT, "--envs", envs, "--replay.capacity", capacity]
    # On a fast disk a write is over before it is seen: here each one can be killed in its midst.
    return Killer(folder, command, envs, PRECIOUS="500000", SLOW_DISK="0.02")


def test_a_few_kills_lose_no_more_than_the_row_in_flight(tmp_path):
    killer = light(tmp_path, envs=3, capacity=300)
    for moment in ("episode", "checkpoint"):
        killer.live(moment)
    said = check_end(killer)
    check_episodes(killer.logdir)
    assert number(said, "Continuing from agent step ") == killer.counted > 60


@pytest.mark.slow
@pytest.mark.parametrize("envs, capacity", [(1, 0), (3, 400)])
def test_fifty_kills_in_a_row_lose_no_more_than_the_row_in_flight(tmp_path, envs, capacity):
    killer = light(tmp_path, envs, capacity)
    for moment in moments(50, seed=envs):
        killer.live(moment)
    check_end(killer)
    check_episodes(killer.logdir)
    print(f"{killer.taken} steps, {killer.lost} lost in all, at most {killer.worst} by one kill;")
    print(f"killed in writes: {killer.caught}; weights at most {max(killer.ages)} steps old")
    assert killer.lost <= 50 * envs
    assert killer.caught["checkpoint"] >= 3 and killer.caught["episode"] >= 3, killer.caught
    assert len(killer.ages) > 20 and killer.taken > 2000, "it never got far enough to be tested"
    if capacity:
        assert (killer.logdir / "train_episodes/pruned.json").exists(), "nothing was pruned"


@pytest.mark.slow
def test_kills_of_the_real_agent_are_continued_by_the_same_command(tmp_path):
    command = [REAL, *SHORT, *TINY, "--logdir", tmp_path / "run"]
    rng, log, before = np.random.default_rng(0), tmp_path / "log", 0
    for life in range(5):
        process = start(*command, log=log)
        try:
            wait_for(process, log, "Training: ", count=2)
            time.sleep(rng.uniform(0, 4))
        finally:
            process.kill()
            process.wait()
        said = log.read_text()
        begun = number(said, "Continuing from agent step ")
        assert (begun is None) == (life == 0), said[-2000:]
        assert (begun or 0) >= before, "the counter ran backwards"
        before = max([0, begun or 0, *map(int, re.findall(r"^\[(\d+)\]", said, re.M))])
    status, said = run(*command, "--steps", before + 100, log=log)
    assert status == 0 and "Done: " in said, said[-3000:]
    assert check_metrics(tmp_path / "run/metrics.jsonl") > 5
    assert checkpoints(tmp_path / "run")[-1] == before + 100
    assert os.path.getsize(tmp_path / "run/config.yaml")


@pytest.mark.slow
def test_an_interval_in_seconds_bounds_the_age_of_a_checkpoint(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run/checkpoints"
    command = [LIGHT, *SHORT, "--logdir", tmp_path / "run", "--checkpoint_every", "1s"]
    for wait in (5.2, 7.1):
        process = start(*command, log=log)
        try:
            wait_for(process, log, "fake_loss")
            time.sleep(wait)
        finally:
            process.kill()
            process.wait()
        saved = max(path.stat().st_mtime for path in folder.glob("[0-9]*/complete.json"))
        # The machine may be busy; without an interval the age would be all of the waiting time.
        assert time.time() - saved < 4, "the newest checkpoint is older than its interval"
    versions = checkpoints(tmp_path / "run")
    assert len(versions) == 2 and versions[0] < versions[1]
