"""What no file of this project does, and how its files read."""

import ast
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sources import ROOT, imported, is_call, offences, production_files, project_files, python_files

PICKLES = {"pickle", "dill", "joblib", "marshal", "shelve"}


def test_no_file_edits_sys_path():
    def is_bad(node: ast.AST) -> bool:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        assigned = isinstance(node, (ast.Assign, ast.AugAssign)) and any(
            ast.unparse(target).startswith("sys.path") for target in targets
        )
        edits = [f"sys.path.{name}" for name in ("append", "insert", "extend", "remove", "pop")]
        return assigned or is_call(node, *edits, "site.addsitedir")

    assert not offences(python_files(), is_bad), "sys.path is edited"


def test_no_file_evaluates_text():
    found = offences(python_files(), lambda node: is_call(node, "eval", "exec"))
    assert not found, f"eval or exec at {found}"


def test_no_star_imports():
    def is_bad(node: ast.AST) -> bool:
        return isinstance(node, ast.ImportFrom) and node.names[0].name == "*"

    assert not offences(python_files(), is_bad), "a star import hides where a name comes from"


def test_no_pickles():
    def is_bad(node: ast.AST) -> bool:
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            return not (isinstance(node.value, ast.Constant) and node.value.value is False)
        return any(name.split(".")[0] in PICKLES for name in imported(node))

    found = offences(production_files(), is_bad)
    assert not found, f"a pickle runs whatever code a file holds: {found}"


def test_no_global_random_state():
    seeds = ["np.random.seed", "numpy.random.seed", "random.seed", "tf.random.set_seed"]
    found = offences(production_files(), lambda node: is_call(node, *seeds))
    assert not found, f"every consumer has a stream of its own, none is global: {found}"


def test_no_exception_vanishes():
    def is_bad(node: ast.AST) -> bool:
        if not isinstance(node, ast.ExceptHandler):
            return False
        kind = ast.unparse(node.type) if node.type else ""
        silent = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
        return kind in ("", "Exception", "BaseException") and silent

    found = offences(python_files(), is_bad)
    assert not found, f"an exception of any kind is swallowed in silence at {found}"


def test_no_machine_is_named():
    # Written in pieces, so that this file does not name them either.
    folders = "|".join(["tmp", "root", "work", "home", "Users"])
    hosts = "|".join(["py" + "pi", "python" + "hosted", "debian", "npm" + "js"])
    machine = re.compile(rf"(?<![\w.~$}})-])/(?:{folders})/[\w.]+|(?:{hosts})\.(?:org|com)\b")
    found = []
    for path in project_files():
        if path.suffix in {".png", ".gif", ".npz", ".pdf"} or path.name == Path(__file__).name:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := machine.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} {match[0]}")
    assert not found, f"paths or hosts of one machine mean nothing on another: {found}"


def test_a_file_has_one_topic():
    lengths = {path: len(path.read_text().splitlines()) for path in production_files()}
    long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 300}
    if long:
        warnings.warn(f"over 300 lines, which second topic do they hold? {long}", stacklevel=1)
    assert max(lengths.values()) <= 600, f"a file of over 600 lines holds several topics: {long}"


@pytest.mark.skipif(not shutil.which("ruff", path=Path(sys.executable).parent), reason="no ruff")
@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
