"""The sweep on Ray itself: two nodes on this machine, and trainings that are killed.

Most trainings have an agent that costs nothing, see tests/support/light_sweep.py.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
import reliable
from commandline import FLAGS
from reliable import check_episodes, check_metrics, checkpoints, start, steps_on_disk
from sources import ROOT

from dreamerv2 import plot

SEARCHED = [ROOT, ROOT / "tests" / "support", os.environ.get("PYTHONPATH", "")]
REAL = ["-c", "from dreamerv2.sweep import main; main()"]
LIGHT = [str(ROOT / "tests" / "support" / "light_sweep.py")]
SHORT = [*reliable.SHORT[2:], "--log_every=200", "--eval_every=1e5", "--checkpoint_every=500"]
TASKS = ["--tasks", "gym_CartPole-v1", "gym_Acrobot-v1"]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(map(str, SEARCHED)), "EPISODE": "20 60"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A file that gets a byte for each step that a light training takes."""
    (path := tmp_path_factory.mktemp("box") / "box").touch()
    return path


@pytest.fixture(scope="module")
def cluster(box):
    """A Ray cluster of one node with one core; nodes can be added."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="the extra sweep is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "BLACK_BOX": str(box)}.items():
            patch.setenv(name, value)
        made = utilities.Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        made.shutdown()


@pytest.fixture
def second(cluster):
    """A second node of the cluster."""
    node = cluster.add_node(num_cpus=1)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture
def drive(tmp_path):
    """Starts a driver, and kills it when the test is over."""
    started = []

    def begin(program, *arguments, **environment) -> subprocess.Popen:
        command = [*program, "--logdir", tmp_path / "runs", *arguments]
        started.append(start(*command, log=tmp_path / "driver.log", **ENVIRONMENT, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def finish(process, tmp_path, timeout=150) -> tuple[int, str]:
    """Wait for the end of a driver; return its exit status and its output."""
    return process.wait(timeout), (tmp_path / "driver.log").read_text()


def outputs(tmp_path) -> dict[str, str]:
    """Return the output of each run: TASK/METHOD/SEED -> text."""
    paths = sorted(tmp_path.glob("runs/*/*/*/output.log"))
    return {str(path.parent.relative_to(tmp_path / "runs")): path.read_text() for path in paths}


def wait_for(condition, process, tmp_path, timeout=60) -> None:
    """Wait until a condition holds, while the driver is alive."""
    deadline = time.monotonic() + timeout
    while not condition():
        said = (tmp_path / "driver.log").read_text()
        assert process.poll() is None, f"the driver has ended:\n{said[-2000:]}"
        assert time.monotonic() < deadline, f"it takes too long:\n{said}\n{outputs(tmp_path)}"
        time.sleep(0.1)


def learning(tmp_path, count):
    """Return a condition: so many trainings are learning."""
    return lambda: sum("fake_loss" in text for text in outputs(tmp_path).values()) >= count


def trainings(tmp_path, raylet: int | None = None) -> list[int]:
    """Return the ids of the processes that train below a directory, on one node or on all."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            here = any(word.startswith(f"--logdir={tmp_path}") for word in words)
            if here and not any("sweep.guard()" in word for word in words):
                found.append((process.pid, process.environ().get("RAY_RAYLET_PID")))
    return [pid for pid, node in found if raylet is None or node == str(raylet)]


def test_tiny_models_finish_and_are_plotted(cluster, second, drive, tmp_path):
    more = [*TASKS, "--seeds", 2, "--configs", "small", "--address", cluster.address]
    status, table = finish(drive(REAL, *more, *FLAGS), tmp_path, 200)
    assert status == 0 and len(re.findall(r"^\S+ +finished .* 60 of 60", table, re.M)) >= 4, table
    texts = outputs(tmp_path)
    assert all("Done: 60 agent steps" in text for text in texts.values()) and len(texts) == 4
    plot.main(["--indir", str(tmp_path / "runs"), "--outdir", str(tmp_path / "plots")])
    assert (tmp_path / "plots" / "curves.png").stat().st_size > 1000
    drawn = json.loads((tmp_path / "plots" / "runs.json").read_text())
    seeds = [(run["task"], run["seed"]) for run in drawn]
    assert sorted(seeds) == sorted((task, seed) for task in TASKS[1:] for seed in ("0", "1"))

    status, again = finish(drive(REAL, *more, *FLAGS), tmp_path, 30)
    assert status == 0 and outputs(tmp_path) == texts, "the same command has started something"


def test_a_lost_node_costs_no_more_than_the_row_in_flight(cluster, second, drive, tmp_path, box):
    before, steps = box.stat().st_size, 6000
    more = [*TASKS, "--seeds", 2, "--steps", steps, "--address", cluster.address]
    process = drive(LIGHT, *more, *SHORT)
    wait_for(learning(tmp_path, 2), process, tmp_path)
    raylet = second.all_processes["raylet"][0].process.pid
    (victim,) = trainings(tmp_path, raylet)
    os.kill(victim, signal.SIGKILL)  # as the machine would take it along
    cluster.remove_node(second, allow_graceful=False)
    status, said = finish(process, tmp_path)
    assert status == 0 and len(re.findall(r"^\S+ +finished ", said, re.M)) >= 4, said
    texts = outputs(tmp_path)
    assert [text.count("Continuing from") for text in texts.values()].count(1) == 1, texts
    for name in texts:
        check_episodes(tmp_path / "runs" / name)
        assert check_metrics(tmp_path / "runs" / name / "metrics.jsonl") > 10
        assert checkpoints(tmp_path / "runs" / name)[-1] == steps
        assert steps_on_disk(tmp_path / "runs" / name) == steps
    lost = box.stat().st_size - before - 4 * steps
    assert 0 <= lost <= 2, f"{lost} steps were taken twice"


def test_a_killed_driver_leaves_no_training_behind(cluster, second, drive, tmp_path):
    more = [*TASKS, "--steps", "1e8", "--address", cluster.address, *SHORT]
    process = drive(LIGHT, *more)
    wait_for(learning(tmp_path, 2), process, tmp_path)
    assert len(trainings(tmp_path)) == 2
    process.kill()
    deadline = time.monotonic() + 30
    while trainings(tmp_path):
        assert time.monotonic() < deadline, "a training outlives its driver by 30 s"
        time.sleep(0.2)
    assert all("all saved" in text for text in outputs(tmp_path).values())

    process = drive(LIGHT, *more)
    continued = "Continuing from agent step"
    wait_for(lambda: all(continued in t for t in outputs(tmp_path).values()), process, tmp_path)
    wait_for(lambda: len(trainings(tmp_path)) == 2, process, tmp_path)
    process.terminate()
    status, table = finish(process, tmp_path, 40)
    assert status == 0 and len(re.findall(r"^\S+ +stopped ", table, re.M)) == 2, table
    assert not trainings(tmp_path)


def test_failures_are_reported_and_the_others_finish(drive, tmp_path):
    pytest.importorskip("ray", reason="the extra sweep is not installed")
    tasks = ["--tasks", "gym_CartPole-v1", "gym_odd_envs:Broken-v0", "gym_MountainCar-v0"]
    more = [*tasks, "--retries", 1, "--steps", 300, *SHORT]
    status, table = finish(drive(LIGHT, *more, OWN_TASK="1"), tmp_path)
    assert status == 1, table
    states = dict(re.findall(r"^(gym_[^/]+)/\S+ +(\w+) .*/s +.*$", table, re.M))
    assert states == dict(zip(tasks[1:], ("finished", "failed", "failed"))), table
    ends = table.partition("failed. The end of")[2]
    assert "The car has left the track." in ends and "NaN" in ends, table
    starts = {name.split("/")[0]: text.count("[") for name, text in outputs(tmp_path).items()}
    assert starts["gym_MountainCar-v0"] == 2, "a crash is tried again as often as --retries says"
    text = outputs(tmp_path)["gym_odd_envs:Broken-v0/defaults/0"]
    assert text.count("light_sweep.py --") == 1, "a mistake of the user is not tried again"
