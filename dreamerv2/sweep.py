"""Train many tasks and seeds, each by the ordinary training command; Ray places the runs.

    dreamerv2-sweep --logdir ~/logdir --tasks atari_pong atari_boxing --seeds 3 --configs atari

A run lies in LOGDIR/TASK/METHOD/SEED, with its output in output.log. The same command again skips
finished runs and continues the others. Flags that are not listed here go to each training.
"""

import argparse
import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dreamerv2 import validation
from dreamerv2.common import envs
from dreamerv2.common.config import flags, paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.yaml import read_yaml
from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.run.lock import MARKER, RunLock
from dreamerv2.common.run.signals import StopRequest
from dreamerv2.common.stdio import survive_closed_terminal

TRAINING = ["-m", "dreamerv2.train"]  # arguments of Python
GUARD = ["-c", "from dreamerv2 import sweep; sweep.guard()"]
GRACE = 20  # seconds to save in, before a training is killed
LEASE = 120  # seconds until a lost node has ended its processes, and a file system their locks


class Run:
    """One training: its directory, its command (arguments of Python) and its state."""

    def __init__(self, config: Config, command: list[str]):
        self.command, self.logdir = command, Path(config.logdir)
        self.name, self.output = "/".join(self.logdir.parts[-3:]), self.logdir / "output.log"
        self.repeat = config.action_repeat  # frames of an agent step
        self.frames = config.steps * self.repeat  # until the end
        self.state = "finished" if self.progress()["saved"] >= self.frames else "waiting"
        self.failures = 0  # starts in a row without progress
        self.frames_before = self.output_before = 0  # frames, bytes of output at the last start

    def progress(self) -> dict[str, float]:
        """Return the last value of each metric; `saved` is the step of the newest checkpoint."""
        last = {"step": 0}
        for line in last_lines(self.logdir / "metrics.jsonl"):
            with contextlib.suppress(ValueError):  # the first line is cut, the last one unfinished
                last |= json.loads(line)
        marks = (self.logdir / "checkpoints").glob("[0-9]*/complete.json")
        saved = max((int(mark.parent.name[:12]) for mark in marks), default=0) * self.repeat
        return {**last, "saved": saved, "step": max(last["step"], saved)}

    def has_output(self) -> bool:
        """Tell whether the training has started since its run was handed to Ray."""
        return self.output.stat().st_size > self.output_before

    def __str__(self) -> str:
        last = self.progress()
        fps, score = last.get("fps") or 0, last.get("train_return")
        left = f"{(self.frames - last['step']) / fps / 3600:.1f} h left" if fps else ""
        score = "-" if score is None else f"{score:.4g}"
        steps = f"{last['step']:>11,} of {self.frames:,}"
        return f"{self.name:36} {self.state:8} {steps} frames  return {score:8} {fps:.0f}/s  {left}"


def last_lines(path: Path, begin: int = 0) -> list[str]:
    """Return the last lines of a file, none from before byte `begin`."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(begin, path.stat().st_size - 2**16))  # bytes, enough for the last lines
        return file.read().decode(errors="replace").splitlines()


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into the flags of the sweep and those of each training."""
    parser = argparse.ArgumentParser("dreamerv2-sweep", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--logdir", default="", help="directory of all runs, shared by all nodes (required)")
    flag("--tasks", nargs="+", default=[], help="names, or the lists atari55, atari26 and dmc20")
    flag("--seeds", nargs="+", default=["1"], help="how many (5: 0 to 4), or which ones (3 7)")
    flag("--method", help="folder below each task (default: the names of --configs)")
    flag("--cpus", type=float, default=1, help="cores of each run (default: 1)")
    flag("--gpus", type=float, help="GPUs of each run, such as 0.5 (default: 1 if there is any)")
    flag("--address", help="auto or HOST:PORT of a Ray cluster (default: this machine alone)")
    flag("--retries", type=int, default=3, help="new starts without progress (default: 3)")
    flag("--dry_run", action="store_true", help="print the runs and their commands, start nothing")
    return parser.parse_known_args(argv)


def plan(options: argparse.Namespace, passed: list[str]) -> list[Run]:
    """Return the runs, seed by seed; UserError if a flag or value is not possible."""
    if not (options.logdir and options.tasks):
        example = "--logdir ~/logdir --tasks atari_pong atari_boxing"
        raise UserError(f"A sweep needs a directory and tasks, such as {example}.")
    given = dict(flags.split(passed))
    if own := given.keys() & {"task", "seed", "mode", "checkpoint"}:
        raise UserError(f"--{min(own)} is not for a sweep, which trains all --tasks and --seeds.")
    config, runs = flags.parse(passed, paths.load_configs()), []
    method = options.method or "_".join(given.get("configs", ["defaults"]))
    tasks, seeds = expand_tasks(options.tasks, config), expand_seeds(options.seeds)
    root = str(Path(options.logdir).expanduser().absolute())
    for seed, task in ((seed, task) for seed in seeds for task in tasks):
        logdir = "/".join([root, *(x.replace("/", "_") for x in (task, method, str(seed)))])
        own = {"logdir": logdir, "task": task, "seed": seed}
        # The last flags count: a regular expression among the others may match these.
        command = [*TRAINING, *passed, *(f"--{key}={value}" for key, value in own.items())]
        runs.append(Run(validation.validate(config.update(own)), command))
    return runs


def expand_seeds(words: list[str]) -> list[int]:
    """Return the seeds: a single number says how many, several numbers say which ones."""
    if words == ["0"] or not all(word.isdecimal() for word in words):
        raise UserError(f"--seeds {' '.join(words)} is not possible: say how many, or which ones.")
    return list(range(int(words[0])) if len(words) == 1 else dict.fromkeys(map(int, words)))


def expand_tasks(names: list[str], config: Config) -> list[str]:
    """Replace lists by their tasks; check other tasks by making their environment once."""
    lists = read_yaml(paths.package_root() / "scores" / "task_lists.yaml")
    tasks = [*dict.fromkeys(task for name in names for task in lists.get(name, [name]))]
    for task in set(tasks).difference(*lists.values()):
        if "_" not in task:
            raise UserError(f"'{task}' is neither a task nor a list.{nearest(task, lists)}")
        envs.make_env(task, config).close()
    return tasks


def supervise(logdir: Path, command: list[str], lost_hosts: list[str]) -> int | None:
    """Train, in a worker of Ray; return the exit status, None if the guard was lost.

    Ray may kill a worker at any time, and its children too. The guard is no child of the worker,
    and notices by a pipe that the worker is gone, so that the training can save.
    """
    wait_for_lock(logdir, lost_hosts)
    command = [sys.executable, *GUARD, str(logdir), sys.executable, *command]
    guarded = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with contextlib.suppress(KeyboardInterrupt):  # from ray.cancel
        while not select.select([guarded.stdout], [], [], 0.5)[0]:
            pass  # Python notices an interrupt between two calls only
    guarded.stdin.close()
    return int(status) if (status := guarded.stdout.read()) else None


def wait_for_lock(logdir: Path, lost_hosts: list[str]) -> None:
    """Wait until no process trains in the directory; UserError if a process still does.

    A file system with locks drops those of a lost node after a while. On one without, a marker
    stays, and the lock file names the host of its process, which has ended if Ray has lost it.
    """
    for _ in range(LEASE):
        with contextlib.suppress(UserError):
            return RunLock(logdir).release()
        time.sleep(1)
    if any(f'"host": "{host}"' in (logdir / "run.lock").read_text() for host in lost_hosts):
        (logdir / MARKER).unlink(missing_ok=True)
    RunLock(logdir).release()


def guard() -> None:
    """Run the command in sys.argv until it ends, or standard input does: then let it save."""
    if os.fork():
        os._exit(0)  # Ray kills children of a worker
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray blocks SIGINT
    logdir, *command = sys.argv[1:]
    with open(Path(logdir) / "output.log", "ab", buffering=0) as output:
        output.write(f"[{socket.gethostname()}] {shlex.join(command)}\n".encode())
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        training = subprocess.Popen(command, **streams, start_new_session=True)
    while training.poll() is None and not select.select([0], [], [], 0.2)[0]:
        pass
    training.terminate()
    try:
        training.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(training.pid, signal.SIGKILL)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, str(training.wait()).encode())


class Driver:
    """Hands runs to Ray, again if a process or its node is lost."""

    def __init__(self, options: argparse.Namespace):
        try:
            import ray  # only now: --help, --dry_run and a finished sweep do not need it

            address = options.address or "local"
            if ":" in address:  # Ray itself would wait for minutes
                socket.create_connection(address.rsplit(":", 1), timeout=10).close()
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except ImportError as error:
            raise UserError("Install the package ray: pip install 'dreamerv2[sweep]'.") from error
        except Exception as error:  # Ray raises plain exceptions, too
            raise UserError(f"No Ray answers at --address {address} ({error}).") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = options.gpus if options.gpus is not None else int(any("GPU" in n for n in nodes))
        needs = {"CPU": options.cpus, "GPU": gpus}
        if not any(all(n.get(k, 0) >= need >= 0 for k, need in needs.items()) for n in nodes):
            raise UserError(f"No node has {options.cpus:g} cores and {gpus:g} GPUs for a run.")
        remote = ray.remote(num_cpus=options.cpus, num_gpus=gpus, max_retries=0)
        self._ray, self._retries, self._supervise = ray, options.retries, remote(supervise)
        self._going: dict[object, Run] = {}

    def train(self, runs: list[Run]) -> None:
        """Train all runs to their end; at a signal, let all of them save."""
        due = 0.0
        with StopRequest() as stop:
            for run in runs:
                self._start(run)
            while self._going and not stop:
                for future in self._ray.wait([*self._going], timeout=1)[0]:
                    self._end(future)
                if time.monotonic() > due:
                    due = time.monotonic() + (5 if sys.stdout.isatty() else 60)
                    going = [run for run in self._going.values() if run.has_output()]
                    show([f"{len(going)} of {len(self._going)} runs have a place.", *going])
            for future in self._going:
                self._ray.cancel(future)
            self._ray.wait([*self._going], num_returns=len(self._going), timeout=GRACE + 10)
        for run in self._going.values():
            run.state = "finished" if run.progress()["saved"] >= run.frames else "stopped"

    def _start(self, run: Run) -> None:
        run.logdir.mkdir(parents=True, exist_ok=True)
        run.output.touch()
        run.frames_before, run.output_before = run.progress()["step"], run.output.stat().st_size
        hosts = {(node["NodeManagerHostname"], node["Alive"]) for node in self._ray.nodes()}
        lost = [host for host, alive in hosts if not alive and (host, True) not in hosts]
        self._going[self._supervise.remote(run.logdir, run.command, lost)] = run
        run.state = "running"

    def _end(self, future: object) -> None:
        """Record the end of a training, or hand it to Ray again."""
        run = self._going.pop(future)
        try:
            status = self._ray.get(future)
        except self._ray.exceptions.RayError as error:  # the worker or its node is lost
            status = 2 if isinstance(error, UserError) else None
            with run.output.open("a") as output:
                output.write(f"{error}\n")
        last = run.progress()
        run.failures = 0 if last["step"] > run.frames_before else run.failures + 1
        if last["saved"] >= run.frames:
            run.state = "finished"
        elif status == 2 or run.failures > self._retries:  # 2: a mistake
            run.state = "failed"
        else:
            self._start(run)
        show([f"{run}  {'lost' if status is None else f'exit status {status}'}"], stay=True)


def show(lines: list, stay: bool = False) -> None:
    """Print lines; on a terminal the next call overwrites them unless they `stay`."""
    text = [str(line) for line in lines]
    if not sys.stdout.isatty():
        return print(*text, sep="\n", flush=True)
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    text = text if stay else [line[: columns - 1] for line in text[: rows - 1]]
    back = "" if stay else f"\033[{len(text)}F"
    print("\033[J" + "\n".join(text), end=f"\n{back}", flush=True)


def sweep(options: argparse.Namespace, passed: list[str]) -> int | None:
    """Train the runs that are not finished; return the exit status."""
    runs = plan(options, passed)
    if options.dry_run:
        return show([f"{r.name} ({r.state}): python {shlex.join(r.command)}" for r in runs], True)
    waiting = [run for run in runs if run.state == "waiting"]
    if waiting:
        Driver(options).train(waiting)
    show(runs, stay=True)
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        said = last_lines(run.output, run.output_before)[-10:]
        print(f"\n{run.name} failed. The end of {run.output}:", *said, sep="\n  ", flush=True)
    return int(bool(failed))


@survive_closed_terminal()
def main(argv: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2."""
    try:
        sys.exit(sweep(*parse(argv)))
    except (UserError, OSError, KeyboardInterrupt) as error:
        print(f"Error: {error or 'stopped at once.'}", file=sys.stderr, flush=True)
        sys.exit(2)
