"""Conventions of the code that ruff does not check: constructs, sizes, and words."""

import ast
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from sources import (
    ROOT,
    count_lines,
    files_of_tests,
    imported,
    is_call,
    lines_with,
    offences,
    parse,
    production_files,
    project_files,
    python_files,
)

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


def test_no_import_trick():
    def is_bad(node: ast.AST) -> bool:
        assigned = isinstance(node, ast.Assign) and any(
            ast.unparse(target).startswith("sys.modules[") for target in node.targets
        )
        return assigned or is_call(node, "os.dup2", "sys.modules.update", "sys.modules.setdefault")

    files = [path for path in python_files() if path not in files_of_tests()]
    found = offences(files, is_bad)
    assert not found, f"sys.modules is edited or a file descriptor redirected at {found}"


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
    assert not found, f"every consumer has its own random stream, none is global: {found}"


def test_no_machine_is_named():
    # Written in pieces, so that this file does not name them either.
    folders = "|".join(["tmp", "root", "work", "home", "Users"])
    hosts = "|".join(["py" + "pi", "python" + "hosted", "debian", "npm" + "js"])
    machine = re.compile(rf"(?<![\w.~$}})-])/(?:{folders})/[\w.]+|(?:{hosts})\.(?:org|com)\b")
    found = lines_with(machine, [path for path in project_files() if path != Path(__file__)])
    assert not found, f"paths or hosts of one machine mean nothing on another: {found}"


def test_no_source_file_is_long():
    long = [path.name for path in production_files() if count_lines([path]) > 300]
    assert not long, f"over 300 lines, so each probably has a second topic: {long}"


def test_functions_are_short():
    lengths = [
        node.end_lineno - node.lineno + 1
        for path in production_files()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(lengths) < 12, "functions should fit on a screen, most on half of one"


def test_source_and_tests_stay_small():
    source, tests = count_lines(production_files()), count_lines(files_of_tests())
    assert source <= 11_700, f"the source has {source} lines"
    assert tests <= 14_500, f"the tests have {tests} lines"


def test_the_source_names_things_instead_of_explaining_with_what():
    found = lines_with(re.compile(r"\bwhat\b", re.IGNORECASE), production_files())
    assert len(found) < 40, f"name the thing, with a noun: {found}"


def test_the_words_are_option_flag_and_hyperparameter():
    found = lines_with(re.compile("kno" + "b", re.IGNORECASE), project_files())
    assert not found, f"'option' in code, 'flag' on the command line, 'hyperparameter': {found}"


@pytest.mark.skipif(not shutil.which("ruff", path=Path(sys.executable).parent), reason="no ruff")
@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
