"""The layout of DESIGN section 1, read from the files themselves."""

import ast
import graphlib
import os
import subprocess
import sys

import pytest
from sources import (
    ROOT,
    TENSORFLOW,
    imported,
    imports,
    modules,
    offences,
    project_files,
    project_imports,
    python_files,
)

TOP_LEVEL = set(
    "dreamerv2 common configs.yaml train.py plot.py Dockerfile scores tests setup.py README.md "
    "LICENSE .gitignore pyproject.toml benchmarks examples docs .ci".split()
)
LINKS = ["common", "configs.yaml", "train.py", "plot.py", "scores"]

# Folders and files of common/, then files of dreamerv2/. Each imports its own line or lines above.
STEPS = [
    "common.errors common.files common.npz common.seeding common.stdio",
    "common.config common.video",
    "common.nn common.envs common.replay common.results",
    "common.run",
    "common.logger",
    "diagnostics losses rssm validation",
    "world_model behavior",
    "exploration",
    "agent",
    "learner",
    "rundir",
    "runner",
    "dream evaluate plot",
    "train",
    "api sweep",
]
# On one line of STEPS, but they may not import each other.
SIBLINGS = {"common.nn", "common.envs", "common.replay", "common.results"}
WITH_TENSORFLOW = {
    f"dreamerv2.{name}"
    for name in "agent behavior dream exploration losses rssm world_model".split()
}
WITHOUT_TENSORFLOW = [
    *(f"dreamerv2.common.{name}" for name in "config envs replay run logger results".split()),
    *(f"dreamerv2.common.run.{name}" for name in "driver when checkpoint".split()),
    *(f"dreamerv2.{name}" for name in "plot api train sweep".split()),
]
SUITE_PACKAGES = {"ale_py", "dm_control", "mujoco", "crafter", "minigrid"}


def part(name: str) -> str:
    """Return the word of STEPS that a module belongs to: common.FOLDER, or the agent's file."""
    words = name.removeprefix("dreamerv2.").split(".")
    return ".".join(words[:2]) if words[0] == "common" else words[0]


def step(name: str) -> int:
    """Return the line of STEPS that a module stands on."""
    found = [index for index, names in enumerate(STEPS) if part(name) in names.split()]
    assert found, f"{name} has no place in the order of imports: give it one in STEPS"
    return found[0]


def edges() -> list[tuple[str, str]]:
    """Return (importer, imported) of all modules but the two packages' own `__init__`."""
    roots = {"dreamerv2", "dreamerv2.common"}
    return [
        (name, other)
        for name, path in modules().items()
        for other in project_imports(path) - roots
        if name not in roots
    ]


def test_every_name_of_the_design_exists():
    assert not TOP_LEVEL - set(os.listdir(ROOT))


@pytest.mark.parametrize("name", LINKS)
def test_the_package_reaches_the_top_level_by_links(name):
    command = ["git", "ls-files", "--stage", "--", f"dreamerv2/{name}"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout: an unpacked archive may hold copies")
    assert listed.stdout.startswith("120000 "), "git must hold a symlink, not a second copy"
    assert os.readlink(ROOT / "dreamerv2" / name) == f"../{name}", "relative, for any clone"
    assert not os.path.islink(ROOT / name), f"{name} at the top level must be the real one"


def test_imports_run_one_way():
    found = edges()
    assert len(found) > 100, "hardly any import was found: this test reads the wrong files"
    upward = [f"{name} imports {other}" for name, other in found if step(other) > step(name)]
    assert not upward, f"imports must run from a later line of STEPS to an earlier one: {upward}"


def test_siblings_do_not_import_each_other():
    sideways = [
        f"{name} imports {other}"
        for name, other in edges()
        if {part(name), part(other)} <= SIBLINGS and part(name) != part(other)
    ]
    assert not sideways, f"these folders must not depend on each other: {sideways}"


def test_no_circle_of_imports():
    order = graphlib.TopologicalSorter()
    for name, other in edges():  # late imports included
        order.add(name, other)
    order.prepare()  # raises CycleError, which names the circle


def test_tensorflow_is_imported_in_nn_and_the_agent_only():
    users = {
        name
        for name, path in modules().items()
        if {found.split(".")[0] for found in imports(path)} & TENSORFLOW
    }
    assert len(users) > 10, "hardly any use of TensorFlow was found: this test reads wrong files"
    wrong = {name for name in users if part(name) != "common.nn"} - WITH_TENSORFLOW
    assert not wrong, f"TensorFlow belongs under common/nn/ and in the agent's files: {wrong}"


def test_few_files_lie_beside_the_folders_of_common():
    files = [
        path.name
        for path in project_files()
        if path.parent == ROOT / "common" and path.name != "__init__.py"
    ]
    assert len(files) <= 7, f"give each of these a folder: {sorted(files)}"


def test_the_toolbox_and_plot_know_nothing_of_the_agent():
    for name, path in modules().items():
        if name.startswith(("dreamerv2.common", "dreamerv2.plot")):
            foreign = [o for o in project_imports(path) if not o.startswith("dreamerv2.common")]
            assert not foreign, f"{name} imports {foreign}"


def test_the_toolbox_is_imported_by_its_full_name():
    def is_bad(node: ast.AST) -> bool:
        relative = isinstance(node, ast.ImportFrom) and node.level > 0
        return relative or any(name.split(".")[0] == "common" for name in imported(node))

    found = offences(python_files(), is_bad)
    assert not found, f"the import name is always dreamerv2.common, never relative: {found}"


def test_modules_without_tensorflow_import_without_it():
    program = f"""
import importlib, sys
for name in {WITHOUT_TENSORFLOW!r}:
    importlib.import_module(name)
    found = {TENSORFLOW | SUITE_PACKAGES!r} & sys.modules.keys()
    assert not found, f"{{name}} imports {{found}}; a suite is for its own tasks only"
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
