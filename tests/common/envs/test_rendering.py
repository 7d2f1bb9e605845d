import os
import subprocess
import sys
from ctypes.util import find_library

import pytest
from env_contract import need

from dreamerv2.common.errors import UserError

DMC = need("mujoco", "dmc")  # importing dm_control itself would choose a rendering backend
pytestmark = DMC

DMC_SCRIPT = """
import os, types
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UserError
config = types.SimpleNamespace(render_size=(8, 8), action_repeat=1, time_limit=0, dmc_camera=-1)
try:
    env = make_env("dmc_cartpole_balance", config)
    print(os.environ["MUJOCO_GL"], sorted(env.reset()[0]))
except UserError as error:
    print("UserError:", error)
"""


def inherited():
    """Variables for a process that chooses its backend anew, whatever tests here have loaded."""
    chosen = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    path = os.pathsep.join(path for path in sys.path if path)
    return {k: v for k, v in os.environ.items() if k not in chosen} | {"PYTHONPATH": path}


def with_mujoco_gl(value, **environment):
    chosen = {} if value is None else {"MUJOCO_GL": value}
    command = [sys.executable, "-W", "ignore", "-c", DMC_SCRIPT]
    environment = {**inherited(), **environment, **chosen}
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def test_dmc_chooses_a_backend_where_none_is_set():
    assert with_mujoco_gl(None).split()[0] in ("egl", "osmesa")


def test_dmc_without_rendering_has_no_image():
    assert with_mujoco_gl("disabled") == "disabled ['position', 'velocity']\n"


def test_dmc_says_which_package_makes_a_chosen_backend_work():
    output = with_mujoco_gl("osmesa")
    if output.startswith("osmesa"):
        assert "image" in output  # OSMesa is installed here and was not overridden
    else:
        assert "install the Debian package libosmesa6, or unset MUJOCO_GL" in output


@pytest.mark.skipif("DISPLAY" in os.environ, reason="GLFW needs a display, and here is one")
def test_dmc_says_what_works_instead_of_a_window():
    said = with_mujoco_gl("glfw")
    assert "does not work here" in said and "set it to egl or osmesa, or unset MUJOCO_GL" in said


def test_dmc_takes_an_empty_choice_for_none():
    assert with_mujoco_gl("").split()[0] in ("egl", "osmesa")


@pytest.mark.parametrize("value", ["EGL", "Off"])
def test_dmc_names_the_backends_where_an_unknown_one_is_chosen(value):
    assert f"MUJOCO_GL is set to '{value}', but must be one of egl, osmesa" in with_mujoco_gl(value)


def test_dmc_says_which_packages_help_where_nothing_renders(monkeypatch):
    from dreamerv2.common.envs import rendering

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
    monkeypatch.setattr(rendering, "probe", lambda backend: (f"no lib{backend}", ()))
    with pytest.raises(UserError, match="libegl1 .* or libosmesa6 .*EGL: no libegl. OSMesa: no"):
        rendering.choose_backend()
    assert "MUJOCO_GL" not in os.environ


# Both contain an LLVM; XLA makes use of TensorFlow's, each rendered image of Mesa's.
BOTH_SCRIPT = """
import hashlib, sys, types
from dreamerv2.common.envs import make_env

def compute():
    import tensorflow as tf
    f = tf.function(lambda x: tf.linalg.matmul(x, x) + 1, jit_compile=True)
    assert f(tf.ones((8, 8))).numpy().sum() == 576

def render():
    config = types.SimpleNamespace(render_size=(64, 64), action_repeat=1, time_limit=0)
    config.dmc_camera = -1
    env = make_env("dmc_cartpole_balance", config)
    for seed in (0, 1):
        image = env.reset(seed=seed)[0]["image"]
        print(seed, image.std() > 0, hashlib.md5(image.tobytes()).hexdigest())
    env.close()

for job in sys.argv[1:]:
    {"compute": compute, "render": render}[job]()
"""


def in_one_process(backend, *jobs):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BOTH_SCRIPT, *jobs],
        env={**inherited(), "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("backend", ["egl", pytest.param("osmesa", marks=pytest.mark.slow)])
def test_rendering_and_tensorflow_share_a_process_whichever_comes_first(backend):
    """Mesa and TensorFlow used to call into each other's LLVM and crash the process."""
    alone = in_one_process(backend, "render")
    # OSMesa needs no driver: where it is installed, it must work.
    if "UserError" in alone.stderr and not (backend == "osmesa" and find_library("OSMesa")):
        pytest.skip(alone.stderr.splitlines()[-1])
    assert alone.returncode == 0 and alone.stdout.count("True") == 2, alone.stderr
    assert not alone.stderr, "the environment complains when Python ends"
    for jobs in (["compute", "render", "compute"], ["render", "compute", "render"]):
        both = in_one_process(backend, *jobs)
        assert both.returncode == 0, f"{' then '.join(jobs)} crashed:\n{both.stderr}"
        pictures = both.stdout.splitlines()
        assert set(pictures) == set(alone.stdout.splitlines()), "TensorFlow changed the pixels"


def test_a_worker_process_does_not_load_tensorflow_for_it(monkeypatch):
    from dreamerv2.common.envs import rendering
    from dreamerv2.common.envs.vector import worker

    loaded = []
    monkeypatch.setattr(rendering.ctypes, "CDLL", lambda path, flags: loaded.append(path))
    monkeypatch.setattr(worker, "serving", True)
    rendering.keep_apart(["driver"])
    assert loaded == ["driver"]
    monkeypatch.setattr(worker, "serving", False)
    rendering.keep_apart(["driver"])
    assert loaded[1] == "driver" and "libtensorflow" in loaded[-1], (
        "TensorFlow's library was not found"
    )
