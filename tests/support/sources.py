"""The project's own source, read for the tests of its layout and its conventions."""

import ast
import os
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW = {"tensorflow", "tensorflow_probability", "tf_keras", "keras"}


def output_of(*command, cwd: Path = ROOT, **environment) -> str:
    """Run a command, which must end with status 0; return what it printed."""
    command = [str(part) for part in command]
    environ = os.environ | {name: str(value) for name, value in environment.items()}
    ran = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert not ran.returncode, f"{command}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


@cache
def project_files() -> tuple[Path, ...]:
    """Return every file that git tracks or may track, without following links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def python_files() -> list[Path]:
    """Return every Python file of the project."""
    return [path for path in project_files() if path.suffix == ".py"]


def production_files() -> list[Path]:
    """Return the Python files that are installed: train.py, plot.py, common/ and dreamerv2/."""
    tops = {"train.py", "plot.py", "common", "dreamerv2"}
    return [path for path in python_files() if path.relative_to(ROOT).parts[0] in tops]


def files_of_tests() -> list[Path]:
    """Return the Python files under tests/."""
    return [path for path in python_files() if path.relative_to(ROOT).parts[0] == "tests"]


def count_lines(files: list[Path]) -> int:
    """Return the number of lines of all files together."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    """Return the import name of a production file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "dreamerv2" else ["dreamerv2", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Return module name -> file of all production code."""
    return {module_name(path): path for path in production_files()}


def imported(node: ast.AST) -> set[str]:
    """Return the names in one import statement (`from a import b` may mean the module a.b or a)."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in modules() else node.module for name in names}
    return set()


def imports(path: Path) -> set[str]:
    """Return all imports of a file, including those in functions and under TYPE_CHECKING."""
    return set().union(*(imported(node) for node in ast.walk(parse(path))))


def project_imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports, itself and the root left out."""
    return imports(path) & set(modules()) - {module_name(path), "dreamerv2"}


def lines_with(pattern: re.Pattern, files: Iterable[Path]) -> list[str]:
    """Return file:line of every line of a text file in which a pattern occurs."""
    binary = {".png", ".gif", ".npz", ".pdf"}
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path.suffix not in binary
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def offences(files: list[Path], is_bad) -> list[str]:
    """Return file:line of every node for which `is_bad(node)` is true."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(parse(path))
        if is_bad(node)
    ]


def is_call(node: ast.AST, *names: str) -> bool:
    """Return whether a node calls one of these (dotted) names."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names
