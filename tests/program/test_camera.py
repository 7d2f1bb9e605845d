"""An evaluation prints its scores whatever render() returns; a failed video is one sentence."""

import functools
import gc

import gymnasium
import numpy as np
import pytest
from PIL import Image

from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import vectorize
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.run.driver import Driver, RandomPolicy
from dreamerv2.evaluate import Camera, Results, Run


def fail():
    raise RuntimeError("no display\nand more")


RENDERED = {
    "raises": lambda t: fail(),
    "list": lambda t: [np.zeros((40, 50, 3), np.uint8)],
    "sizes": lambda t: np.zeros((40 + t, 50, 3), np.uint8),
    "gray": lambda t: np.full((40, 50), 200, np.uint8),
    "large float": lambda t: np.full((40, 50, 3), 200.0),
    "transparent": lambda t: np.full((40, 50, 4), 200, np.uint8),
}


class Rendered(gymnasium.Env):
    """Episodes of four steps with a reward of 1 each."""

    observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1, 1, (1,), np.float32)})
    action_space = OneHotSpace(2)
    render_mode = "rgb_array"

    def __init__(self, kind, seed=0):
        self.kind = kind

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {"x": np.zeros(1, np.float32)}, {}

    def step(self, action):
        self.t += 1
        return {"x": np.zeros(1, np.float32)}, 1.0, self.t == 4, False, {}

    def render(self):
        return RENDERED[self.kind](self.t)


def evaluate(kind, logdir, parallel="none"):
    """Play two episodes as --mode eval does, without an agent."""
    config = Config({"env_timeout": 60.0, "env_restarts": 0, "precision": 32})
    envs = vectorize([functools.partial(Rendered, kind)], parallel, config)
    run = Run(logdir, "gym_X", 4)
    results, camera = Results(run, 0), Camera(envs, run)
    try:
        driver = Driver(envs, on_step=[results, camera])
        driver(RandomPolicy(envs.single_action_space, 0), episodes=2)
    finally:
        camera.close()
        envs.close()
    results.conclude()
    gc.collect()  # An open video would complain now.


@pytest.mark.parametrize(
    "kind, parallel, reason",
    [
        ("raises", "none", "render() raised RuntimeError: no display"),
        ("raises", "process", "render() raised RuntimeError: no display"),
        ("list", "none", "render() returned no image [H, W, 3], but list [1, 40, 50, 3] of uint8."),
        ("sizes", "none", "frames [58, 50, 3] and [57, 50, 3] do not fit in a video"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_failed_video_is_one_sentence_and_costs_no_score(kind, parallel, reason, tmp_path, capsys):
    evaluate(kind, tmp_path, parallel)
    printed, errors = capsys.readouterr()
    assert printed.count("There are no more videos: ") == 1 and reason + "\n" in printed
    assert "Episode 2: return 4, length 4" in printed and "mean 4.00" in printed
    assert not [*(tmp_path / "videos").iterdir()] and "Traceback" not in printed + errors


@pytest.mark.parametrize("kind", ["gray", "large float", "transparent"])
def test_other_kinds_of_images_are_filmed(kind, tmp_path):
    evaluate(kind, tmp_path)
    with Image.open(tmp_path / "videos" / "eval_000000000004_1.gif") as gif:
        assert gif.size == (50, 57) and gif.convert("RGB").getpixel((20, 20)) == (200, 200, 200)


def test_error_of_a_video_does_not_hide_the_error_before_it(tmp_path, monkeypatch, capsys):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreamerv2.evaluate.Film.close", full)
    monkeypatch.setattr(Rendered, "step", lambda self, action: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate("gray", tmp_path)
    assert "There are no more videos: [Errno 28] No space left" in capsys.readouterr().out
