"""The README says nothing that is not so: its commands are run, its links and tables are true."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT
from tiny import FLAGS

from benchmarks.__main__ import parser as benchmarks_parser
from dreamerv2 import plot, rules, sweep
from dreamerv2.common.config import flags, paths
from dreamerv2.common.config.config import Config

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = paths.load_configs()
# Who runs the commands that test_the_commands_run_as_written does not: the first words of a
# command -> file, and a function or a line in it.
RUN_ELSEWHERE = {
    "pip install -e .": (
        "tests/program/test_packaging.py",
        "test_an_editable_installation_imports",
    ),
    "pip install -e .[test]": (".ci/run", "pip install -e '.[test]' && pytest"),
    "pip install -e .[all]": (".ci/run", "pip install --quiet --disable-pip-version-check -e"),
    "pytest": (".ci/run", "pip install -e '.[test]' && pytest"),
    "tensorboard --logdir": ("tests/program/test_tensorboard_page.py", '"--logdir"'),
    "dreamerv2-sweep": ("tests/program/test_sweep_on_ray.py", "from dreamerv2.sweep import main"),
    "python -m benchmarks": ("tests/program/test_benchmarks.py", '"-m", "benchmarks"'),
}
LEARNING = ("python train.py", "python examples/")  # they take the knobs as flags


def blocks(language: str) -> list[str]:
    """Return the contents of the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[str]:
    """Return the README's shell commands in their order, those joined by && one by one."""
    return [one for block in blocks("bash") for one in re.split(r" && |\n", block.strip())]


def elsewhere(command: str) -> tuple[str, str] | None:
    """Return the file and the place in it that run a command."""
    words = " ".join(shlex.split(command))
    known = [start for start in RUN_ELSEWHERE if words == start or words.startswith(f"{start} ")]
    return RUN_ELSEWHERE[max(known, key=len)] if known else None


def need(task: str, config: Config) -> str | None:
    """Return the package that a command lacks here, or None."""
    suites = {"dmc": "dm_control", "crafter": "crafter", "minigrid": "minigrid"}
    package = suites.get(task or config.task.split("_")[0])
    return package if package and importlib.util.find_spec(package) is None else None


def test_the_readme_has_its_two_commands_and_each_kind_of_use():
    assert README.count("configs atari debug --task atari_pong\n```") == 1
    found = "\n".join(commands())
    for use in ("--mode eval", "--mode dream", "plot.py", "tensorboard", "pytest", "examples/"):
        assert use in found, f"nothing shows how to use {use}"
    languages = re.findall(r"^```(.*)$", README, re.M)[::2]
    assert all(languages), "a block without a language: is it a command, to be run by a test?"


@pytest.mark.parametrize("command", commands())
def test_every_command_is_accepted_and_run_by_something(command, capsys):
    program, *arguments = shlex.split(command)
    if command.startswith(LEARNING):
        if "--help" not in arguments:
            rules.validate(flags.parse(arguments[1:], CONFIGS))
        return  # test_the_commands_run_as_written runs it
    if command.startswith("python plot.py"):
        plot.parse_args(arguments[1:])
        return
    assert elsewhere(command), f"no test runs '{command}'"
    if command.startswith("pip install"):
        extras = set(re.findall(r"\[(\w+)\]", command))
        assert all(f'"{extra}": ' in (ROOT / "setup.py").read_text() for extra in extras)
    if command.startswith("dreamerv2-sweep"):
        assert len(sweep.plan(*sweep.parse(arguments))) > 1
    if command.startswith("python -m benchmarks"):
        benchmarks_parser().parse_args(arguments[2:])


@pytest.mark.parametrize("start", RUN_ELSEWHERE)
def test_what_runs_a_command_exists(start):
    file, place = RUN_ELSEWHERE[start]
    assert place in (ROOT / file).read_text(), f"{file} runs '{start}' no more"
    assert any(elsewhere(command) == (file, place) for command in commands()), (
        f"the README does not say '{start}' any more"
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def execute(command: str, home: Path, folder: Path = ROOT) -> str:
    """Run a shell command of a user whose home directory is `home`; return what it printed."""
    interpreter = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environ = {**os.environ, **interpreter, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command, shell=True, cwd=folder, env=environ, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if not elsewhere(c)])
def test_the_commands_run_as_written(command, home):
    """In their order, in one home: what is evaluated was trained by a command further up.

    Flags at the end make a training tiny; nothing else about it is changed.
    """
    arguments = shlex.split(command)[2:]
    if command.startswith(LEARNING) and "--help" not in arguments:
        suite = "minigrid" if "minigrid" in command else ""
        if missing := need(suite, flags.parse(arguments, CONFIGS)):
            pytest.skip(f"the package {missing} is not installed")
        # A run that is evaluated brings its tiny config along.
        extra = ["--eval_eps=1"] if "--mode" in arguments else FLAGS
        command = f"{command} {shlex.join(extra)}"
    assert execute(command, home)


@pytest.mark.slow
def test_the_program_runs_as_written(home):
    (program,) = blocks("python")
    (home / "mine.py").write_text(program)
    small = [*FLAGS, "--replay.minlen=5", "--dataset.length=5"]  # random CartPole is over soon
    printed = execute(f"python mine.py {shlex.join(small)}", home, folder=home)
    assert "Done: 60 agent steps" in printed
    assert "mine" in [path.name for path in (home / "logdir").iterdir()]


def test_the_program_is_python():
    for program in blocks("python"):
        ast.parse(program)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing, f"the README links to what is not there: {missing}"


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs").glob("*.[gps][inv][fg]")}
    assert sizes and max(sizes.values()) < 300_000, f"bytes of the pictures: {sizes}"


def test_every_config_is_described_and_the_numbers_are_its_own():
    described = re.findall(r"^\| (`[^|]+) \|([^\n]+)\|$", README.split("### Configs")[1], re.M)
    rows = {name: cells.split(" | ") for names, cells in described for name in names.split(", ")}
    missing = [name for name in CONFIGS if name != "defaults" and f"`{name}`" not in rows]
    assert not missing, f"the README lacks the configs {missing}"
    for name in ("atari", "atari_paper", "dmc_vision", "dmc_proprio", "crafter"):
        config = flags.choose(CONFIGS, [name])
        batch = f"{config.dataset.batch} x {config.dataset.length}"
        numbers = [str(config.action_repeat), str(config.train_every), batch]
        numbers.append(f"{config.steps // 10**6} million")
        assert [cell.strip() for cell in rows[f"`{name}`"][1:]] == numbers, f"{name} is otherwise"


def test_the_paper_and_the_release_differ_as_the_table_says():
    release, paper = (flags.choose(CONFIGS, [name]) for name in ("atari", "atari_paper"))
    section = README.split("### Paper and release")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \| (\S+) \|", section, re.M)
    assert {key: (a, b) for key, a, b in rows} == {
        key: (str(value), str(paper[key]))
        for key, value in release.flat.items()
        if value != paper[key]
    }


def test_knobs_and_options_in_the_text_exist():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    known = set(Config(CONFIGS["defaults"]).flat) | {"help", "configs"}
    known.add("quick")  # of the benchmarks
    known |= set(vars(sweep.parse([])[0]))
    unknown = set(re.findall(r"`[^`\n]*?--([a-z_]\w*(?:\.\w+)*)", prose)) - known
    assert not unknown, f"there are no such flags: {unknown}"
