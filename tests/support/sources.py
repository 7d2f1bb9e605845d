"""The project's own source, read for the tests of its layout and its conventions."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW = {"tensorflow", "tensorflow_probability", "tf_keras", "keras"}


@cache
def project_files() -> tuple[Path, ...]:
    """Return every file that is, or may become, part of the project, links not followed."""
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


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST) -> str:
    """Return file:line of a node, for messages."""
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def module_name(path: Path) -> str:
    """Return the name that a production file is imported by."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "dreamerv2" else ["dreamerv2", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Return module name -> file of all production code."""
    return {module_name(path): path for path in production_files()}


def imported(node: ast.AST) -> set[str]:
    """Return what one import statement names (`from a import b` may mean the module a.b or a)."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in modules() else node.module for name in names}
    return set()


def is_late(node: ast.AST) -> bool:
    """Tell whether what stands inside a node does not run when the module is imported."""
    checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    return checking or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def imports(path: Path, also_late: bool = True) -> set[str]:
    """Return what a file imports, with or without the imports made inside functions."""
    waiting, found = [parse(path)], set()
    while waiting:
        node = waiting.pop()
        found |= imported(node)
        waiting += [n for n in ast.iter_child_nodes(node) if also_late or not is_late(n)]
    return found


def project_imports(path: Path, also_late: bool = True) -> set[str]:
    """Return the modules of this project that a file imports."""
    return imports(path, also_late) & set(modules()) - {module_name(path), "dreamerv2"}


@cache
def uses_tensorflow(name: str) -> bool:
    """Tell whether importing a module brings TensorFlow in, directly or through another one."""
    waiting, seen, outside = [name], set(), set()
    while waiting:
        path = modules()[waiting.pop()]
        seen.add(module_name(path))
        outside |= {found.split(".")[0] for found in imports(path, also_late=False)}
        waiting += project_imports(path, also_late=False) - seen
    return bool(outside & TENSORFLOW)


def offences(files: list[Path], is_bad) -> list[str]:
    """Return file:line of every node that `is_bad(node)` says yes to."""
    return [where(path, node) for path in files for node in ast.walk(parse(path)) if is_bad(node)]


def is_call(node: ast.AST, *names: str) -> bool:
    """Tell whether a node calls one of these (dotted) names."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names
