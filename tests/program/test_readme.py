"""README and docs/ are true: their commands run, their links, names and tables are correct."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from commandline import FLAGS
from sources import ROOT, output_of

from benchmarks.__main__ import TOPICS
from benchmarks.__main__ import parser as benchmarks_parser
from dreamerv2 import plot, sweep, validation
from dreamerv2.common.config import flags, paths
from dreamerv2.common.config.config import Config

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = paths.load_configs()
DOCUMENTS = {"README.md": README} | {
    f"docs/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")
}
# Commands that other tests run: an editable installation, all tests, a sweep, the benchmarks.
RUN_ELSEWHERE = ("pip install -e ", "pytest", "dreamerv2-sweep", "python -m benchmarks")
TRAINING = ("python train.py", "python examples/")  # every option is a flag
TOOLS = ("tensorboard",)  # console commands of dependencies


def blocks(language: str) -> list[str]:
    """Return the contents of the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[str]:
    """Return the README's shell commands in order, split at &&."""
    return [line for block in blocks("bash") for line in re.split(r" && |\n", block.strip())]


def test_the_readme_has_its_two_commands_and_each_kind_of_use():
    assert README.count("configs atari debug --task atari_pong\n```") == 1
    found = "\n".join(commands())
    for use in ("--mode eval", "--mode dream", "plot.py", "tensorboard", "pytest", "examples/"):
        assert use in found, f"no command shows how to use {use}"
    languages = re.findall(r"^```(.*)$", README, re.M)[::2]
    assert all(languages), "a block without a language: is it a command for a test to run?"


@pytest.mark.parametrize("command", commands())
def test_every_command_is_accepted_and_run_by_a_test(command):
    program, *arguments = shlex.split(command)
    if command.startswith(TRAINING):  # test_the_commands_run_as_written runs it
        if "--help" not in arguments:
            validation.validate(flags.parse(arguments[1:], CONFIGS))
    elif command.startswith("python plot.py"):
        plot.parse_args(arguments[1:])
    elif program in TOOLS:
        installed = shutil.which(program, path=Path(sys.executable).parent)
        assert installed, f"no dependency installs the command {program}"
    elif command.startswith("pip install"):
        extras = set(re.findall(r"\[(\w+)\]", command))
        assert all(f'"{extra}": ' in (ROOT / "setup.py").read_text() for extra in extras)
    elif command.startswith("dreamerv2-sweep"):
        assert len(sweep.plan(*sweep.parse(arguments))) > 1
    elif command.startswith("python -m benchmarks"):
        benchmarks_parser().parse_args(arguments[2:])
    else:
        assert program == "pytest", f"no test runs '{command}'"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def execute(command: str, home: Path, folder: Path = ROOT) -> str:
    """Run a shell command of a user whose home directory is `home`; return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return output_of("sh", "-c", command, cwd=folder, PATH=path, HOME=home, PYTHONPATH=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [line for line in commands() if not line.startswith((*RUN_ELSEWHERE, *TOOLS))]
)
def test_the_commands_run_as_written(command, home):
    """In order, in one home directory: an earlier command trains the run that is evaluated.

    Flags at the end make the training tiny; the rest of the command is unchanged.
    """
    _, program, *arguments = shlex.split(command)
    if command.startswith(TRAINING) and "--help" not in arguments:
        uses = f"{program} {flags.parse(arguments, CONFIGS).task}"
        packages = {"dmc_": "dm_control", "crafter": "crafter", "minigrid": "minigrid"}
        for suite, package in packages.items():
            if suite in uses:
                pytest.importorskip(package, reason=f"{package} is not installed")
        # An evaluation reads the tiny config of its run.
        extra = ["--eval_eps=1"] if "--mode" in arguments else FLAGS
        command = f"{command} {shlex.join(extra)}"
    assert execute(command, home)


@pytest.mark.slow
def test_the_program_runs_as_written(home):
    (program,) = blocks("python")
    (home / "mine.py").write_text(program)
    printed = execute(f"python mine.py {shlex.join(FLAGS)}", home, folder=home)
    assert "Done: 60 agent steps" in printed
    assert "mine" in [path.name for path in (home / "logdir").iterdir()]


def test_every_document_is_linked_from_the_readme():
    missing = [name for name in DOCUMENTS if name != "README.md" and f"]({name})" not in README]
    assert not missing, f"the README links to every page of docs/, but not to {missing}"


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
        assert [cell.strip() for cell in rows[f"`{name}`"][1:]] == numbers


def test_the_paper_and_the_release_differ_as_the_table_says():
    release, paper = (flags.choose(CONFIGS, [name]) for name in ("atari", "atari_paper"))
    section = DOCUMENTS["docs/method.md"].split("## Values: paper and release")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \| (\S+) \|", section, re.M)
    assert {key: (a, b) for key, a, b in rows} == {
        key: (str(value), str(paper[key]))
        for key, value in release.flat.items()
        if value != paper[key]
    }


def test_every_detail_of_the_method_names_code_that_exists():
    details = DOCUMENTS["docs/method.md"].split("\n### ")[1:]
    assert len(details) > 20
    missing = [detail.splitlines()[0] for detail in details if not re.search("Code:\n? ?`", detail)]
    assert not missing, f"docs/method.md names no file for {missing}"
    references = r"`(\w+/[\w/]+\.py)`(?: \(((?:`\w+`(?:,\s)?)+)\))?"  # `file` (`name`, `name`)
    for file, names in re.findall(references, DOCUMENTS["docs/method.md"]):
        found = re.findall(r"\b(?:def|class) (\w+)\b", (ROOT / file).read_text())
        missing = set(re.findall(r"`(\w+)`", names)) - set(found)
        assert not missing, f"docs/method.md names {missing} in {file}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_files_and_options_in_the_text_exist(name):
    links = re.findall(r"\]\(([^):]+)\)", DOCUMENTS[name])
    paths = re.findall(r"`((?:common|dreamerv2|tests|examples|scores)/[\w./]*)`", DOCUMENTS[name])
    files = [(ROOT / name).parent / link for link in links] + [ROOT / path for path in paths]
    missing = [str(path) for path in files if not path.exists()]
    assert not missing, f"{name} names missing files: {missing}"
    prose = re.sub(r"^```.*?^```$", "", DOCUMENTS[name], flags=re.M | re.S)
    known = set(Config(CONFIGS["defaults"]).flat) | {"help", "configs"}
    known |= {"quick", "only", "export", "json"}  # of the benchmarks
    known |= set(vars(sweep.parse([])[0]))
    unknown = set(re.findall(r"`[^`\n]*?--([a-z_]\w*(?:\.\w+)*)", prose)) - known
    assert not unknown, f"{name} names unknown flags: {unknown}"


def test_the_benchmarks_in_the_text_are_accepted():
    found = re.findall(r"`python -m (benchmarks [^`]*|benchmarks)`", "\n".join(DOCUMENTS.values()))
    assert len(found) > 5
    for command in found:
        arguments = benchmarks_parser().parse_args(shlex.split(command)[1:])
        assert set(arguments.only) <= set(TOPICS), f"`python -m {command}` names no benchmark"
