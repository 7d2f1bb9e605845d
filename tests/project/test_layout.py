"""The layout of DESIGN section 1, read from the files themselves."""

import ast
import json
import os
import subprocess
import sys

import pytest
from sources import (
    ROOT,
    TENSORFLOW,
    imported,
    modules,
    offences,
    project_imports,
    python_files,
    uses_tensorflow,
)

TOP_LEVEL = (
    "dreamerv2 common configs.yaml train.py plot.py Dockerfile scores tests setup.py README.md "
    "LICENSE .gitignore pyproject.toml benchmarks examples docs .ci/run"
).split()
LINKS = ["common", "configs.yaml", "train.py", "plot.py", "scores"]

# Who may import whom: only what stands on the same step or a lower one.
STEPS = [
    "plot",
    "common (numpy)",
    "common (TensorFlow)",
    "losses rssm rules",
    "world_model behavior",
    "exploration",
    "agent learner saved health",
    "evaluate dream",
    "train api sweep",
]
NUMPY_ONLY = [
    *(f"dreamerv2.common.{name}" for name in "config replay logger errors envs".split()),
    *(f"dreamerv2.common.config.{name}" for name in "flags paths".split()),
    *(f"dreamerv2.common.run.{name}" for name in "counter when driver checkpoint".split()),
    "dreamerv2.plot",
    "dreamerv2.api",
    "dreamerv2.train",
    "dreamerv2.sweep",
]
SUITE_PACKAGES = ["ale_py", "dm_control", "mujoco", "crafter", "minigrid"]


def step(name: str) -> int:
    """Return the step of STEPS that a module stands on."""
    if name.startswith("dreamerv2.common"):
        return 2 if uses_tensorflow(name) else 1
    short = name.removeprefix("dreamerv2.")
    found = [index for index, names in enumerate(STEPS) if short in names.split()]
    assert found, f"{name} has no place in the order of imports: give it one in STEPS"
    return found[0]


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_every_name_of_the_design_exists(name):
    assert (ROOT / name).exists(), f"the design promises {name} at the top level"


@pytest.mark.parametrize("name", LINKS)
def test_the_package_reaches_the_top_level_by_links(name):
    link = ROOT / "dreamerv2" / name
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: an unpacked archive may hold copies")
    assert os.path.islink(link), f"dreamerv2/{name} must be a symlink, not a second copy"
    assert os.readlink(link) == f"../{name}", "the link must be relative, to work in any clone"
    assert not os.path.islink(ROOT / name), f"{name} at the top level must be the real one"


def test_links_are_links_in_git_too():
    command = ["git", "ls-files", "--stage", "--", *(f"dreamerv2/{name}" for name in LINKS)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout, or nothing is committed yet")
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.stdout.splitlines()}
    assert modes == {f"dreamerv2/{name}": "120000" for name in LINKS}


def test_imports_run_one_way():
    edges = [(name, other) for name, path in modules().items() for other in project_imports(path)]
    assert len(edges) > 10, "hardly any import was found: this test reads the wrong files"
    upward = [
        f"{name} (step {step(name)}) imports {other} (step {step(other)})"
        for name, other in edges
        if name != "dreamerv2.plot" and step(other) > step(name)
    ]
    assert not upward, f"imports must run from a higher step of STEPS to a lower one: {upward}"


def test_nothing_imports_itself_in_a_circle():
    graph = {name: project_imports(path, False) for name, path in modules().items()}
    while leaves := [name for name, others in graph.items() if not others & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these modules import each other in a circle: {sorted(graph)}"


def test_plot_needs_only_the_numpy_part_of_the_toolbox():
    needed = project_imports(modules()["dreamerv2.plot"])
    wrong = [name for name in needed if step(name) != 1]
    assert not wrong, f"plot.py must stay free of the agent and of TensorFlow, but imports {wrong}"


def test_exploration_never_imports_the_agent():
    assert "dreamerv2.agent" not in project_imports(modules()["dreamerv2.exploration"])


def test_the_toolbox_knows_nothing_of_dreamerv2():
    for name, path in modules().items():
        if name.startswith("dreamerv2.common"):
            foreign = [o for o in project_imports(path) if not o.startswith("dreamerv2.common")]
            assert not foreign, f"{name} imports {foreign}: common/ knows nothing of the agent"


def test_the_toolbox_is_imported_by_its_full_name():
    def is_bad(node: ast.AST) -> bool:
        relative = isinstance(node, ast.ImportFrom) and node.level > 0
        return relative or any(name.split(".")[0] == "common" for name in imported(node))

    found = offences(python_files(), is_bad)
    assert not found, f"the import name is always dreamerv2.common, never relative: {found}"


def test_light_modules_import_without_tensorflow():
    program = f"""
import importlib, json, sys
heavy = {{}}
for name in {NUMPY_ONLY!r}:
    importlib.import_module(name)
    found = sorted({sorted(TENSORFLOW)!r} & sys.modules.keys())
    if found:
        heavy[name] = found
        break
suites = sorted(set({SUITE_PACKAGES!r}) & sys.modules.keys())
print(json.dumps([heavy, suites]))
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    heavy, suites = json.loads(ran.stdout.splitlines()[-1])
    assert not heavy, f"this module brings TensorFlow in: {heavy}"
    assert not suites, f"a suite must be imported only when it is asked for, not {suites}"
