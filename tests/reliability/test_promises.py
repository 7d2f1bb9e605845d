"""docs/reliability.md names tests that exist."""

import ast
import re

import pytest
from reliable import ROOT

TABLE = (ROOT / "docs/reliability.md").read_text()


def test_every_promise_is_in_the_table():
    assert re.findall(r"^\| (\d+) \|", TABLE, re.M) == [str(item) for item in range(1, 12)]


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/.]+::\w+)`", TABLE))))
def test_a_test_that_is_named_exists(named):
    path, _, name = named.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in names, f"docs/reliability.md names {named}, which does not exist"
