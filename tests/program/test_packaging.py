"""setup.py declares all packages; wheel, source distribution and editable installation run them.

The slow tests build in a copy of the checkout and install into small virtual environments that
borrow the dependencies of this one, so nothing is downloaded.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools
from sources import ROOT, imports, modules

PACKAGED = ["dreamerv2", "common", "scores", "configs.yaml", "train.py", "plot.py"]
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dreamerv2" / "__init__.py").read_text())[1]
BUILDING = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"]


@pytest.fixture
def declared(monkeypatch) -> dict:
    """Return the arguments with which setup.py calls setuptools.setup."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def requirements(declared: dict) -> list[str]:
    """Return all requirements, extras included, without their conditions."""
    extras = [need for needs in declared["extras_require"].values() for need in needs]
    return [need.split(";")[0].strip() for need in [*declared["install_requires"], *extras]]


def test_every_folder_with_source_is_a_package(declared):
    folders = {path.parent.relative_to(ROOT) for path in modules().values()} - {Path()}
    packages = {".".join(folder.parts) for folder in folders}
    packages = {name if name.startswith("dreamerv2") else f"dreamerv2.{name}" for name in packages}
    assert sorted(declared["packages"]) == sorted(packages)


def test_version_and_extras(declared):
    assert declared["version"] == VERSION
    extras = {"gpu", "dmc", "crafter", "minigrid", "video", "sweep", "test", "all"}
    assert set(declared["extras_require"]) == extras


def test_the_image_installs_extras_that_exist(declared):
    text = (ROOT / "Dockerfile").read_text()
    installed = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)[1].split(",")
    without_gpu = re.search(r"--build-arg EXTRAS=(\S+)", text)[1].split(",")
    assert set(installed) - {"gpu"} == set(without_gpu) <= set(declared["extras_require"])


def test_every_dependency_is_bounded(declared):
    needs = requirements(declared)
    assert len(needs) > 10
    unbounded = [n for n in needs if ("<" not in n or ">=" not in n) and "setuptools" not in n]
    assert not unbounded, f"a future release of these may break an installation: {unbounded}"


def test_every_imported_package_is_declared(declared):
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    known = {plain(re.match(r"[\w.-]+", need)[0]) for need in requirements(declared)}
    owners = packages_distributions()
    undeclared = {}
    for name, path in modules().items():
        for package in {found.split(".")[0] for found in imports(path)}:
            owner = {plain(each) for each in owners.get(package, [])}
            if owner - {"dreamerv2"} and not owner & known:
                undeclared.setdefault(package, []).append(name)
    assert not undeclared, f"imported but not in setup.py: {undeclared}"


def run(*command, cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout's own import path; return what it printed."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    command = [str(part) for part in command]
    ran = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def copy_checkout(target: Path) -> Path:
    """Copy the files that the builders read, links as links."""
    target.mkdir()
    for name in [*PACKAGED, *BUILDING]:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, target / name)
    (target / "tests").mkdir()
    (target / "tests" / "test_nothing.py").write_text("")
    return target


def expected_files() -> set[str]:
    """Return the names of the package's files in an archive, read from the checkout."""
    found = set()
    for folder, _, names in os.walk(ROOT / "dreamerv2", followlinks=True):
        inside = Path(folder).relative_to(ROOT)
        if "__pycache__" not in inside.parts:
            found |= {str(inside / name) for name in names if not name.endswith(".pyc")}
    return {name for name in found if not re.search(r"/\.", name)}


def small_venv(folder: Path) -> Path:
    """Make a virtual environment that imports this one's packages; return its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python


def install(python: Path, *what, cwd: Path) -> None:
    """Install into the environment of `python`, without a network and without dependencies."""
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, *options, "--ignore-installed", *what, cwd=cwd)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Build a wheel straight from a checkout, a source distribution, and a wheel from that."""
    base = tmp_path_factory.mktemp("built")
    checkout = copy_checkout(base / "checkout")
    build = [sys.executable, "-m", "build", "--no-isolation"]
    run(*build, "--wheel", "--outdir", base / "direct", cwd=checkout)
    shutil.rmtree(checkout / "build")
    # Without a choice, `build` makes the sdist and then the wheel from the unpacked sdist.
    run(*build, "--outdir", base / "through_sdist", cwd=checkout)
    return {
        "checkout": checkout,
        "wheel": next((base / "direct").glob("*.whl")),
        "sdist": next((base / "through_sdist").glob("*.tar.gz")),
        "wheel_of_sdist": next((base / "through_sdist").glob("*.whl")),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist"])
def test_a_wheel_holds_the_real_files_version_and_license(built, kind):
    with zipfile.ZipFile(built[kind]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    about = {name for name in files if name.startswith(f"dreamerv2-{VERSION}.dist-info/")}
    assert f"dreamerv2-{VERSION}.dist-info/licenses/LICENSE" in about
    assert set(files) - about == expected_files(), "a wheel holds the files of the checkout"
    for name in ["common/__init__.py", "configs.yaml", "train.py", "plot.py"]:
        content = (ROOT / name).read_bytes()
        assert files[f"dreamerv2/{name}"] == content, f"{name} is not what its link points to"
    assert any(name.startswith("dreamerv2/scores/") for name in files), "the scores are missing"


@pytest.mark.slow
def test_a_source_distribution_holds_files_not_links(built):
    with tarfile.open(built["sdist"]) as archive:
        members = archive.getmembers()
    assert not [m.name for m in members if m.issym() or m.islnk()], "a link may dangle elsewhere"
    names = {m.name.split("/", 1)[1] for m in members if m.isfile()}
    assert expected_files() <= names, f"missing: {sorted(expected_files() - names)}"
    assert "LICENSE" in names, "the license is missing"
    assert not [name for name in names if name.startswith(("common/", "tests/"))]


@pytest.mark.slow
def test_an_installed_wheel_runs_from_another_directory(built, tmp_path):
    python = small_venv(tmp_path / "venv")
    install(python, built["wheel"], cwd=tmp_path)
    program = (
        "from dreamerv2.common.config import paths;"
        "print(paths.__file__, 'atari' in paths.load_configs())"
    )
    file, has_configs = run(python, "-c", program, cwd=tmp_path).split()
    assert Path(file).is_relative_to(tmp_path / "venv"), f"imported {file}, not the wheel"
    assert has_configs == "True", "configs.yaml was not found inside the installed package"
    for command in ([python, "-m", "dreamerv2.train"], [python.parent / "dreamerv2"]):
        assert "--logdir" in run(*command, "--help", cwd=tmp_path)
    assert "--indir" in run(python.parent / "dreamerv2-plot", "--help", cwd=tmp_path)
    sweep = [python.parent / "dreamerv2-sweep", "--logdir", tmp_path / "runs", "--dry_run"]
    assert run(*sweep, "--tasks", "atari26", cwd=tmp_path).count("atari_") >= 26


@pytest.mark.slow
def test_an_editable_installation_imports_the_checkout_and_nothing_else(built, tmp_path):
    python = small_venv(tmp_path / "venv")
    install(python, "-e", built["checkout"], cwd=tmp_path)
    program = "import dreamerv2.common.errors as errors; print(errors.__file__)"
    file = run(python, "-c", program, cwd=tmp_path).strip()
    assert Path(file).resolve() == built["checkout"] / "common" / "errors.py"
    program = "from importlib.util import find_spec; print(find_spec('common'), find_spec('train'))"
    found = run(python, "-c", program, cwd=tmp_path).strip()
    assert found == "None None", "top-level files of the checkout became importable modules"
