"""The rendering backend of MuJoCo, and Mesa beside TensorFlow in one process."""

import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import gymnasium
import pytest
from env_contract import env_config, need

from dreamerv2.common.envs import gym, rendering
from dreamerv2.common.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
pytestmark = need("mujoco", "dmc")  # importing dm_control itself would choose a rendering backend


@pytest.fixture
def choose(monkeypatch):
    """Call choose_backend with these environment variables, as before dm_control is imported."""

    def call(**variables):
        monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
        for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
            monkeypatch.setenv(name, variables.get(name, ""))
            if name not in variables:
                monkeypatch.delenv(name)
        rendering.choose_backend()
        return os.environ["MUJOCO_GL"]

    return call


@pytest.mark.parametrize(
    "variables", [{}, {"MUJOCO_GL": ""}, {"PYOPENGL_PLATFORM": "glx"}, {"PYOPENGL_PLATFORM": "x"}]
)
def test_a_backend_that_works_is_chosen_where_none_is_set(choose, variables):
    chosen = choose(**variables)
    assert chosen in ("egl", "osmesa") and os.environ["PYOPENGL_PLATFORM"] == chosen
    assert choose(**{**variables, "MUJOCO_GL": chosen}) == chosen


def test_a_chosen_backend_works_or_its_package_is_named(choose):
    if find_library("OSMesa"):
        assert choose(MUJOCO_GL="osmesa") == "osmesa"
    else:
        with pytest.raises(UserError, match="the Debian package libosmesa6, or unset MUJOCO_GL"):
            choose(MUJOCO_GL="osmesa")


@pytest.mark.skipif("DISPLAY" in os.environ, reason="GLFW needs a display, and here is one")
def test_a_window_without_a_display_is_refused(choose):
    with pytest.raises(UserError, match="does not work here .*set it to egl or osmesa, or unset"):
        choose(MUJOCO_GL="glfw")


@pytest.mark.parametrize("value", ["EGL", "Off"])
def test_an_unknown_backend_is_refused_and_the_known_ones_named(choose, value):
    with pytest.raises(UserError, match=f"set to '{value}', but must be one of egl, osmesa"):
        choose(MUJOCO_GL=value)


def test_the_packages_are_named_where_nothing_renders(choose, monkeypatch):
    monkeypatch.setattr(rendering, "probe", lambda backend: f"no lib{backend}")
    with pytest.raises(UserError, match="libegl1 .* or libosmesa6 .*EGL: no libegl. OSMesa: no"):
        choose()
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.skipif(not find_library("EGL"), reason="EGL alone has devices")
@pytest.mark.parametrize("variables", [{"MUJOCO_EGL_DEVICE_ID": "99"}, {"MUJOCO_GL": "egl"}])
def test_an_exported_device_that_does_not_exist_is_named(choose, variables):
    device = variables.setdefault("MUJOCO_EGL_DEVICE_ID", "cuda:0")
    rendering.probe.cache_clear()
    try:
        with pytest.raises(UserError, match=f"DEVICE_ID is set to '{device}', .*, or unset it"):
            choose(**variables)
    finally:
        rendering.probe.cache_clear()


CHEETAH = """
import gymnasium

def make():
    env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", width=64, height=64)
    return gymnasium.wrappers.AddRenderObservation(env)

gymnasium.register("Pixels-v0", make)
"""


def test_gymnasium_renders_by_mujoco_without_a_display_or_variables(tmp_path, python, monkeypatch):
    if rendering.probe("egl"):
        pytest.skip("EGL does not work here")
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "own_cheetah.py").write_text(CHEETAH)
    code = SCRIPT + "show(make_env('gym_own_cheetah:Pixels-v0', config))"
    said, problems = python("-c", code, cwd=tmp_path).communicate()
    assert said.startswith("True"), problems[-2000:]


def test_a_mujoco_window_without_a_display_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    env = gymnasium.make("HalfCheetah-v5", render_mode="human")
    with pytest.raises(UserError, match="render_mode is 'human', but there is no display"):
        gym.wrap(env, env_config())


# Both contain an LLVM; XLA makes use of TensorFlow's, each rendered image of Mesa's.
SCRIPT = """
import hashlib, sys, types
from dreamerv2.common.envs import gym, make_env, rendering

config = types.SimpleNamespace(render_size=(64, 64), action_repeat=1, time_limit=0, dmc_camera=-1)

def compute():
    import tensorflow as tf
    f = tf.function(lambda x: tf.linalg.matmul(x, x) + 1, jit_compile=True)
    assert f(tf.ones((8, 8))).numpy().sum() == 576

def render():  # a suite of ours
    env = make_env("dmc_cartpole_balance", config)
    show(env)
    env.close()

def own():  # an environment that renders behind our back
    import own_pixels
    env = gym.wrap(own_pixels.Pixels(), config)
    show(env)
    env.close()

def show(env):
    image = env.reset()[0]["image"]
    print(image.std() > 0, hashlib.md5(image.tobytes()).hexdigest(), flush=True)

jobs = {"compute": compute, "render": render, "own": own, "keep_apart": rendering.keep_apart}
jobs["api"] = lambda: __import__("dreamerv2.api")
for job in sys.argv[1:]:
    jobs[job]()
"""


# train.make_agent calls keep_apart before it imports TensorFlow; dreamerv2.api loads Mesa.
ORDERS = [
    ["compute", "api", "own", "render", "compute"],
    ["api", "compute", "own", "render", "compute"],
    ["render", "own", "keep_apart", "compute"],
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_rendering_and_tensorflow_share_a_process_whichever_comes_first(backend, python):
    """Mesa and TensorFlow used to call into each other's LLVM and crash the process."""
    if rendering.probe(backend):
        assert not (backend == "osmesa" and find_library("OSMesa")), "OSMesa needs no driver"
        pytest.skip(f"{backend} does not work here")
    pictures = []
    for jobs in ORDERS:
        process = python("-c", SCRIPT, *jobs, "own", MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend)
        said, problems = process.communicate()
        assert process.returncode == 0, f"{' then '.join(jobs)} crashed:\n{problems}"
        pictures.append(said.splitlines())
        assert len(pictures[-1]) == 3 and pictures[-1][0].startswith("True")
        assert "Exception ignored" not in problems, "the environment complains when Python ends"
    assert len(set(map(frozenset, pictures))) == 1, "TensorFlow changed the pixels"


def test_dmc_without_rendering_has_no_image(python):
    code = SCRIPT + "\nprint(sorted(make_env('dmc_cartpole_balance', config).reset()[0]))"
    said, problems = python("-c", code, MUJOCO_GL="disabled").communicate()
    assert said == "['position', 'velocity']\n", problems


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["none", "process"])
def test_the_command_trains_on_an_environment_that_renders_through_mesa(tmp_path, parallel):
    flags = "--task gym_own_pixels:Pixels-v0 --configs small --jit False --time_limit 20 --prefill"
    ran = subprocess.run(
        [sys.executable, ROOT / "train.py", "--logdir", tmp_path / "run", *flags.split(), "60"]
        + ["--steps", "70", "--envs_parallel", parallel],
        env={**os.environ, "MUJOCO_GL": "egl", "PYTHONPATH": f"{ROOT}:{ROOT}/tests/support"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0 and "Done: 70" in ran.stdout, ran.stderr[-2000:]
