"""kill -9 at any moment: the same command continues, and nothing but the row in flight is lost."""

import contextlib
import random
import re
import shutil
import time
from pathlib import Path

import pytest
from commandline import TINY
from reliable import (
    LIGHT,
    REAL,
    SHORT,
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
# Files that exist while a write is under way: a kill as soon as one is seen interrupts the write.
WRITES = {
    "checkpoint": "checkpoints/.saving-*",
    "episode": "train_episodes/*.npz.tmp",
    "ledger": "train_episodes/pruned.json.tmp",
}


@contextlib.contextmanager
def killed(command, log, **environment):
    """Start a command, and kill it when the block ends."""
    with start(*command, log=log, **environment) as process:
        try:
            yield process
        finally:
            process.kill()


class Killer:
    """Starts the same command again and again, kills it, and compares each life with the last.

    Attributes: `counted` and `lost` (agent steps at the last start), `shown` and `taken` (by the
    last life), `caught` (kills in a write, by kind), `ages` (of the weights at each start).
    """

    def __init__(self, folder: Path, command: list, envs: int, **environment):
        self.folder, self.logdir, self.log = folder, folder / "run", folder / "log"
        self.command = [*command, "--logdir", self.logdir]
        self.envs, self.box = envs, folder / "box"
        self.environment = {"BLACK_BOX": str(self.box), **environment}
        self.random = random.Random(0)
        self.counted = self.lost = self.shown = self.taken = 0
        self.caught = dict.fromkeys(WRITES, 0)
        self.ages: list[int] = []

    def live(self, moment: str | float) -> None:
        """Start the command and kill it after so many seconds, or in the midst of a write."""
        with killed(self.command, self.log, **self.environment) as process:
            self._wait(process, moment)
        if moment in WRITES:
            self.caught[moment] += any(self.logdir.glob(WRITES[moment]))
        said = self.log.read_text()
        assert process.returncode == -9, f"the run ended by itself:\n{said[-3000:]}"
        self.check_life(said)

    def _wait(self, process, moment) -> None:
        if moment not in WRITES:
            time.sleep(moment)
            return
        time.sleep(self.random.uniform(0.8, 2))
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline and process.poll() is None:
            if any(self.logdir.glob(WRITES[moment])):
                return

    def check_life(self, said: str) -> None:
        """Compare the start of a life with the steps taken before it, and check its metrics."""
        if (started := number(said, "Continuing from agent step ")) is not None:
            self._check_start(started, said)
        self.taken = self.box.stat().st_size if self.box.exists() else 0
        self.shown = max([*map(int, re.findall(r"^\[(\d+)\]", said, re.M)), self.counted])
        if (self.logdir / "metrics.jsonl").exists():
            copy = self.folder / "copy"
            copy.mkdir(exist_ok=True)
            shutil.copy(self.logdir / "metrics.jsonl", copy)
            JSONLOutput(copy).close()  # the repair at the next start
            check_metrics(copy / "metrics.jsonl")

    def _check_start(self, started: int, said: str) -> None:
        assert started >= self.counted, f"the counter ran back from {self.counted} to {started}"
        assert started >= self.shown, f"step {self.shown} was shown, then it started at {started}"
        assert started <= self.taken, f"{started} counted, but {self.taken} steps were taken"
        lost = self.taken - started
        assert lost - self.lost <= self.envs, f"{lost - self.lost} steps of one life were lost"
        self.counted, self.lost = started, lost
        if (learned := number(said, "Weights of step ")) is not None:
            self.ages.append(started - learned)
            # Both intervals end with a row of all environments, and one more row may be stored.
            oldest = EVERY + TRAIN_EVERY + 3 * self.envs
            assert started - learned <= oldest, "weights older than one interval"


def check_end(killer: Killer) -> str:
    """Run the same command to an end a little later; check all that is on disk."""
    steps = killer.taken + 300
    status, said = run(*killer.command, "--steps", steps, log=killer.log, **killer.environment)
    assert status == 0 and "Done: " in said, said[-3000:]
    killer.check_life(said)
    assert check_metrics(killer.logdir / "metrics.jsonl") > 10
    assert checkpoints(killer.logdir)[-1] == steps_on_disk(killer.logdir) >= steps
    left = [path.name for path in killer.logdir.rglob("*") if path.name.startswith(".saving")]
    left += [path.name for path in killer.logdir.glob("*_episodes/*") if path.suffix != ".npz"]
    assert set(left) <= {"pruned.json"}, f"remains of killed writes: {left}"
    return said


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
    for index in range(25):  # each kind of write in turn, then a moment from the first import on
        killer.live(list(WRITES)[index % len(WRITES)])
        killer.live(killer.random.uniform(0.1, 2.5))
    check_end(killer)
    check_episodes(killer.logdir)
    print(f"{killer.taken} steps, {killer.lost} lost; weights at most {max(killer.ages)} steps old")
    assert killer.lost <= 50 * envs
    assert killer.caught["checkpoint"] >= 3 and killer.caught["episode"] >= 3, killer.caught
    assert len(killer.ages) > 20 and killer.taken > 2000, "it never got far enough to be tested"
    if capacity:
        assert (killer.logdir / "train_episodes/pruned.json").exists(), "nothing was pruned"


@pytest.mark.slow
def test_kills_of_the_real_agent_are_continued_by_the_same_command(tmp_path):
    command = [REAL, *SHORT, *TINY, "--logdir", tmp_path / "run"]
    log, before = tmp_path / "log", 0
    for life in range(5):
        with killed(command, log) as process:
            wait_for(process, log, "Training: ", count=2)
            time.sleep(random.Random(life).uniform(0, 4))
        said = log.read_text()
        started = number(said, "Continuing from agent step ")
        assert (started is None) == (life == 0), said[-2000:]
        assert (started or 0) >= before, "the counter ran backwards"
        before = max([0, started or 0, *map(int, re.findall(r"^\[(\d+)\]", said, re.M))])
    status, said = run(*command, "--steps", before + 100, log=log)
    assert status == 0 and "Done: " in said, said[-3000:]
    assert check_metrics(tmp_path / "run/metrics.jsonl") > 5
    assert checkpoints(tmp_path / "run")[-1] == before + 100


@pytest.mark.slow
def test_an_interval_in_seconds_bounds_the_age_of_a_checkpoint(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run/checkpoints"
    command = [LIGHT, *SHORT, "--logdir", tmp_path / "run", "--checkpoint_every", "1s"]
    for wait in (5.2, 7.1):
        with killed(command, log) as process:
            wait_for(process, log, "fake_loss")
            time.sleep(wait)
        saved = max(path.stat().st_mtime for path in folder.glob("[0-9]*/complete.json"))
        # The machine may be busy; without an interval the age would be all of the waiting time.
        assert time.time() - saved < 4, "the newest checkpoint is older than its interval"
    versions = checkpoints(tmp_path / "run")
    assert len(versions) == 2 and versions[0] < versions[1]
