"""The backend that MuJoCo renders with, and peace between Mesa and TensorFlow in one process."""

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dreamerv2.common.envs.vector import worker
from dreamerv2.common.errors import UserError

PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}  # backend -> Debian package
# Values of MUJOCO_GL, as dm_control spells them.
NO_RENDERING = ("off", "disable", "disabled", "false", "0")
WINDOW = ("glfw", "on", "enable", "enabled", "true", "1")

# Prepares to render, then says which of Mesa's drivers that has brought into the process: the
# classic ones, the single one since Mesa 24, and OSMesa. Without /proc (not Linux) it names none.
_PROBE = r"""
import json, os, re, mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()
lines = list(open("/proc/self/maps")) if os.path.exists("/proc/self/maps") else []
files = {line.split(maxsplit=5)[-1].strip() for line in lines if "/" in line}
names = re.compile(r"(\w+_dri|libgallium.*|libOSMesa)\.so")
context.free()
print(json.dumps(sorted(f for f in files if names.match(os.path.basename(f)))))
"""


class Probe(NamedTuple):
    """What became of an attempt to render.

    ``problem`` is empty if it worked; ``drivers`` are the paths of Mesa's drivers that were used.
    """

    problem: str = ""
    drivers: tuple[str, ...] = ()


def choose_backend() -> bool:
    """Set MUJOCO_GL to what works here, unless it is set; False if rendering is switched off.

    Raises:
      UserError: the backend that is set is unknown or does not work, or neither EGL nor OSMesa
        does.
    """
    chosen = os.environ.get("MUJOCO_GL") or None  # empty is as good as unset
    if chosen in NO_RENDERING:
        return False
    loaded = sys.modules.get("dm_control._render")
    if loaded is not None:  # it chose already, and chooses only once
        keep_apart(probe(loaded.BACKEND).drivers)
    elif chosen is not None:
        _use_chosen(chosen)
    else:
        _use_first_that_works()
    return True


def _use_chosen(backend: str) -> None:
    known = (*PACKAGES, *WINDOW, *NO_RENDERING)
    if backend not in known:
        raise UserError(
            f"MUJOCO_GL is set to '{backend}', but must be one of {', '.join(known)}, in small "
            "letters, or unset."
        )
    problem, drivers = probe(backend)
    if problem:
        package = PACKAGES.get(backend)
        remedy = f"install the Debian package {package}" if package else "set it to egl or osmesa"
        raise UserError(
            f"MUJOCO_GL is set to '{backend}', which does not work here ({problem}); {remedy}, or "
            "unset MUJOCO_GL."
        )
    keep_apart(drivers)


def _use_first_that_works() -> None:
    problems = {}
    for backend in PACKAGES:
        problems[backend], drivers = probe(backend)
        if not problems[backend]:
            os.environ["MUJOCO_GL"] = backend
            return keep_apart(drivers)
    raise UserError(
        "MuJoCo can render neither through EGL nor through OSMesa; install the Debian package "
        f"libegl1 (GPU or Mesa) or libosmesa6 (CPU). EGL: {problems['egl']}. "
        f"OSMesa: {problems['osmesa']}."
    )


@functools.cache
def probe(backend: str) -> Probe:
    """Try a rendering backend in a process of its own, because one process can load only one."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": str(backend)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return Probe("it hangs")
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        return Probe(last)
    return Probe("", tuple(json.loads(result.stdout.splitlines()[-1])))


def keep_apart(drivers: Iterable[str]) -> None:
    """Load Mesa's drivers and TensorFlow such that neither calls into the other's LLVM.

    Both contain an LLVM, of different versions, with the same symbols, and both make theirs visible
    to the whole process. Whichever is loaded second then binds to the LLVM of the first (6,090
    symbols of TensorFlow 2.21 do) and crashes. RTLD_DEEPBIND has a library look for its symbols in
    itself and its dependencies first, RTLD_NOW has it look at once; and a library that is loaded
    already stays as it is bound when it is asked for again. So this comes before the first
    rendering.

    Args:
      drivers: paths of Mesa's drivers; nothing happens if there are none, as on a GPU.
    """
    flags = os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0)
    paths = list(drivers)
    if paths and not worker.serving:  # a worker needs no TensorFlow, whose libraries take 300 MB
        paths += _tensorflow_libraries()
    for path in paths:
        with contextlib.suppress(OSError):  # a library that cannot be loaded does no harm either
            ctypes.CDLL(path, flags)


def _tensorflow_libraries() -> list[str]:
    """Found without importing TensorFlow, which takes seconds."""
    spec = importlib.util.find_spec("tensorflow")
    folders = spec.submodule_search_locations or [] if spec else []
    return [str(path) for folder in folders for path in Path(folder).glob("libtensorflow_cc.so*")]
