"""setup.py declares all packages; wheel, source distribution and editable installation run them.

The slow tests build in a copy of the checkout and install into small virtual environments that
borrow the dependencies of this one, so nothing is downloaded.
"""

import functools
import os
import re
import runpy
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools
from sources import ROOT, imports, modules, output_of

VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dreamerv2/__init__.py").read_text())[1]
# The files that the builders read.
READ = "dreamerv2 common scores configs.yaml train.py plot.py".split()
READ += "setup.py pyproject.toml MANIFEST.in LICENSE README.md".split()
run = functools.partial(output_of, PYTHONPATH="")  # without the checkout's own import path


@pytest.fixture
def declared(monkeypatch) -> dict:
    """Return the arguments with which setup.py calls setuptools.setup."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


@pytest.fixture
def needs(declared) -> list[str]:
    """Return all requirements, extras included, without their conditions."""
    extras = [need for needs in declared["extras_require"].values() for need in needs]
    return [need.split(";")[0].strip() for need in [*declared["install_requires"], *extras]]


def test_every_folder_with_source_is_a_package(declared):
    folders = {path.parent.relative_to(ROOT) for path in modules().values()} - {Path()}
    packages = {".".join(folder.parts) for folder in folders}
    packages = {name if name.startswith("dreamerv2") else f"dreamerv2.{name}" for name in packages}
    assert sorted(declared["packages"]) == sorted(packages)


def test_the_image_installs_extras_that_exist(declared):
    text = (ROOT / "Dockerfile").read_text()
    installed = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)[1].split(",")
    without_gpu = re.search(r"--build-arg EXTRAS=(\S+)", text)[1].split(",")
    assert set(installed) - {"gpu"} == set(without_gpu) <= set(declared["extras_require"])


def test_every_dependency_is_bounded(needs):
    assert len(needs) > 10
    unbounded = [n for n in needs if ("<" not in n or ">=" not in n) and "setuptools" not in n]
    assert not unbounded, f"a future release of these may break an installation: {unbounded}"


def test_every_imported_package_is_declared(needs):
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    known = {plain(re.match(r"[\w.-]+", need)[0]) for need in needs}
    owners = packages_distributions()
    packages = {name.split(".")[0] for path in modules().values() for name in imports(path)}
    names = {package: {plain(name) for name in owners.get(package, [])} for package in packages}
    undeclared = [p for p in packages if names[p] - {"dreamerv2"} and not names[p] & known]
    assert not undeclared, f"imported but not in setup.py: {undeclared}"


def copy_checkout(target: Path) -> Path:
    """Copy the files that the builders read, links as links."""
    (target / "tests").mkdir(parents=True)
    (target / "tests/test_nothing.py").write_text("")
    run("cp", "-a", *READ, target)
    return target


def expected_files() -> set[str]:
    """Return the names of the package's files in an archive, read from the checkout."""
    found = set()
    for folder, _, names in os.walk(ROOT / "dreamerv2", followlinks=True):
        found |= {str(Path(folder, name).relative_to(ROOT)) for name in names}
    return {name for name in found if not re.search(r"/\.|__pycache__", name)}


def small_venv(folder: Path) -> Path:
    """Make a virtual environment that imports this one's packages; return its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "bin/python"


def install(python: Path, *what, cwd: Path) -> None:
    """Install into the environment of `python`, without a network and without dependencies."""
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=cwd)


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
    found = {"wheel": "direct/*.whl", "sdist": "through_sdist/*.tar.gz"}
    found["wheel_of_sdist"] = "through_sdist/*.whl"
    return {kind: next(base.glob(pattern)) for kind, pattern in found.items()}


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
    program = "from dreamerv2.common.config import paths; print(paths.__file__)"
    file = run(python, "-c", program, cwd=tmp_path).strip()
    assert Path(file).is_relative_to(tmp_path / "venv"), f"imported {file}, not the wheel"
    for command in ([python, "-m", "dreamerv2.train"], [python.parent / "dreamerv2"]):
        assert "--logdir" in run(*command, "--help", cwd=tmp_path)
    assert "--indir" in run(python.parent / "dreamerv2-plot", "--help", cwd=tmp_path)
    sweep = [python.parent / "dreamerv2-sweep", "--logdir", tmp_path / "runs", "--dry_run"]
    assert run(*sweep, "--tasks", "atari26", cwd=tmp_path).count("atari_") >= 26


@pytest.mark.slow
def test_an_editable_installation_imports_the_checkout_and_nothing_else(tmp_path):
    python = small_venv(tmp_path / "venv")
    checkout = copy_checkout(tmp_path / "checkout")
    install(python, "-e", checkout, cwd=tmp_path)
    program = "import dreamerv2.common.errors as errors; print(errors.__file__)\n"
    program += "from importlib.util import find_spec as find; print(find('common'), find('train'))"
    file, found = run(python, "-c", program, cwd=tmp_path).splitlines()
    assert Path(file).resolve() == checkout / "common/errors.py"
    assert found == "None None", "top-level files of the checkout became importable modules"
