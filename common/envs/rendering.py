"""The backend that MuJoCo renders with, and Mesa beside TensorFlow in one process."""

import contextlib
import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dreamerv2.common.errors import UserError

PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}  # backend -> Debian package
# Values of MUJOCO_GL, as dm_control spells them.
NO_RENDERING = ("off", "disable", "disabled", "false", "0")
KNOWN = (*PACKAGES, "glfw", "on", "enable", "enabled", "true", "1", *NO_RENDERING)

_PROBE = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()
context.free()
"""


def choose_backend() -> bool:
    """Set MUJOCO_GL to a backend that works here, unless it is set; False if it says 'off'."""
    chosen = os.environ.get("MUJOCO_GL") or None  # an empty value counts as unset
    if chosen in NO_RENDERING:
        return False
    if "dm_control._render" not in sys.modules:  # dm_control chooses once, when it is imported
        if chosen in (None, "egl"):
            _check_device()
        if chosen is None:
            _use_first_that_works()
        else:
            _use_chosen(chosen)
    prepare_rendering()
    return True


def _check_device() -> None:
    """Refuse an exported device that EGL does not have, which would look like missing EGL."""
    device = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    problem = probe("egl") if device is not None else ""
    if "DEVICE_ID" in problem or "invalid literal" in problem:
        raise UserError(
            f"MUJOCO_EGL_DEVICE_ID is set to '{device}', which is no device here ({problem}); set "
            "it to the number of a GPU, or unset it."
        )


def _use_chosen(backend: str) -> None:
    if backend not in KNOWN:
        raise UserError(
            f"MUJOCO_GL is set to '{backend}', but must be one of {', '.join(KNOWN)}, in small "
            "letters, or unset."
        )
    problem = probe(backend)
    if problem:
        package = PACKAGES.get(backend)
        remedy = f"install the Debian package {package}" if package else "set it to egl or osmesa"
        raise UserError(
            f"MUJOCO_GL is set to '{backend}', which does not work here ({problem}); {remedy}, or "
            "unset MUJOCO_GL."
        )
    os.environ.update(_variables(backend))


def _use_first_that_works() -> None:
    problems = {}
    preferred = os.environ.get("PYOPENGL_PLATFORM")
    for backend in sorted(PACKAGES, key=lambda name: name != preferred):
        problems[backend] = probe(backend)
        if not problems[backend]:
            return os.environ.update(_variables(backend))
    raise UserError(
        "MuJoCo can render neither through EGL nor through OSMesa; install the Debian package "
        f"libegl1 (GPU or Mesa) or libosmesa6 (CPU). EGL: {problems['egl']}. "
        f"OSMesa: {problems['osmesa']}."
    )


def _variables(backend: str) -> dict[str, str]:
    """Return the environment variables of a backend; MuJoCo refuses another PyOpenGL platform."""
    variables = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    return variables if backend in PACKAGES else {"MUJOCO_GL": backend}


@functools.cache
def probe(backend: str) -> str:
    """Return the problem of a backend, or "". A process can load one backend, so start another."""
    command, env = [sys.executable, "-c", _PROBE], {**os.environ, **_variables(backend)}
    try:
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "it hangs"
    if result.returncode:
        return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    return ""


def check_display(render_mode: str | None) -> None:
    """Refuse a window of MuJoCo without a display, which would abort the process."""
    if render_mode == "human" and not has_display():
        raise UserError(
            "The environment's render_mode is 'human', but there is no display (DISPLAY is not "
            "set); make it with render_mode 'rgb_array' or without one."
        )


def has_display() -> bool:
    """Return True if MuJoCo may open a window."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def choose_without_display() -> None:
    """Choose a backend for environments that render by MuJoCo themselves, before they do.

    Without a display MuJoCo fails at its default, GLFW, and then crashes with any other backend.
    """
    chosen = os.environ.get("MUJOCO_GL") or has_display()
    if not chosen and importlib.util.find_spec("mujoco"):
        with contextlib.suppress(UserError):  # not every environment renders
            choose_backend()


def keep_apart() -> None:
    """Load Mesa and TensorFlow such that neither calls into the other's LLVM.

    Both contain an LLVM, of different versions, with the same symbols, and both make theirs visible
    to the whole process. The library that is loaded second binds to the LLVM of the first (6,090
    symbols of TensorFlow 2.21 do) and crashes. RTLD_DEEPBIND makes a library search its symbols in
    itself and its dependencies first, RTLD_NOW makes it search at once; a library that is loaded
    already keeps its bindings when it is opened again. So this must be called before the import of
    TensorFlow, and ``load_mesa`` before the first rendering in a process that may import
    TensorFlow by itself. Without Mesa (as with a GPU's own driver) nothing is loaded.
    """
    if load_mesa():
        _load(_tensorflow_libraries())


def prepare_rendering() -> None:
    """Load Mesa safely, if the process has imported TensorFlow already."""
    if "tensorflow" in sys.modules:
        load_mesa()


@functools.cache
def load_mesa() -> bool:
    """Load Mesa as ``keep_apart`` needs it, in 0.06 s; False if it is not installed."""
    drivers = _mesa_drivers()
    _load(drivers)
    return bool(drivers)


def _load(paths: Iterable[str]) -> None:
    if "malloc" in os.environ.get("LD_PRELOAD", ""):
        return  # RTLD_DEEPBIND would bind to the C library's malloc and mix two allocators
    for path in paths:
        with contextlib.suppress(OSError):  # a library that cannot be loaded does no harm either
            ctypes.CDLL(path, os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0))


def _mesa_drivers() -> list[str]:
    """Return the installed drivers: classic, the single one since Mesa 24.2, and OSMesa."""
    folders = [Path(sys.prefix, "lib"), *map(Path, ("/usr/lib64", "/usr/lib", "/usr/local/lib"))]
    folders += sorted(Path("/usr/lib").glob("*-linux-gnu*"))
    patterns = ("dri/swrast_dri.so", "libgallium-*.so", "libOSMesa.so.*")
    found = [path for folder in folders for pattern in patterns for path in folder.glob(pattern)]
    for folder in filter(None, os.environ.get("LIBGL_DRIVERS_PATH", "").split(os.pathsep)):
        found += Path(folder).glob("swrast_dri.so")
    return sorted({str(path.resolve()) for path in found})


def _tensorflow_libraries() -> list[str]:
    """Find TensorFlow's libraries without importing TensorFlow, which takes seconds."""
    spec = importlib.util.find_spec("tensorflow")
    folders = spec.submodule_search_locations or [] if spec else []
    return [str(path) for folder in folders for path in Path(folder).glob("libtensorflow_cc.so*")]
