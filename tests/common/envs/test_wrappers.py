import numpy as np
import pytest
from env_contract import env_config
from env_fakes import GOOD, VECTOR, Counting, Scripted
from gymnasium.spaces import Box, Dict

from dreamerv2.common.envs import wrappers
from dreamerv2.common.envs.wrappers import AreaResize


def test_action_repeat_adds_rewards_and_stops_at_the_end():
    env = wrappers.ActionRepeat(Counting((3,)), 2)
    env.reset()
    obs, reward, terminated, _, _ = env.step(None)
    assert obs["step"] == [2] and reward == 1 + 2 and not terminated
    obs, reward, terminated, _, _ = env.step(None)
    assert obs["step"] == [3] and reward == 3 and terminated


def test_images_of_any_size_and_number_are_resized():
    shapes = {"front": (30, 40, 3), "depth": (8, 8, 1), "right": (10, 12, 3)}
    space = Dict({**VECTOR, **{key: Box(0, 255, shapes[key], np.uint8) for key in shapes}})
    obs = {**GOOD, **{key: np.full(shape, 7, np.uint8) for key, shape in shapes.items()}}
    env = wrappers.standardize(Scripted(space, obs), env_config(render_size=(10, 12)))
    result = env.reset()[0]
    resized = {"front": (10, 12, 3), "depth": (10, 12, 1), "right": (10, 12, 3)}
    assert {key: value.shape for key, value in result.items()} == {"x": (2,), **resized}
    assert all((result[key] == 7).all() for key in shapes)
    assert result["right"] is obs["right"], "an image that fits was copied"
    assert all(env.observation_space[k].shape == v.shape for k, v in result.items())


def area_mean(image, size):
    """Every output pixel by its definition, in float64: loops over the covered source pixels."""
    height, width = image.shape[:2]
    result = np.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        top, bottom = y * height / size[0], (y + 1) * height / size[0]
        for x in range(size[1]):
            left, right = x * width / size[1], (x + 1) * width / size[1]
            for i in range(int(top), min(height, int(np.ceil(bottom)))):
                for j in range(int(left), min(width, int(np.ceil(right)))):
                    share = (min(bottom, i + 1) - max(top, i)) * (min(right, j + 1) - max(left, j))
                    result[y, x] += share * image[i, j]
    return result / (height * width / (size[0] * size[1]))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((210, 160, 1), (64, 64)),
        ((210, 160, 3), (64, 64)),
        ((250, 160, 1), (64, 64)),
        ((56, 56, 3), (64, 64)),
        ((10, 30, 2), (7, 5)),
        ((64, 48, 1), (96, 80)),
        ((5, 5, 4), (5, 3)),
        ((1, 1, 1), (3, 2)),
    ],
)
def test_equals_the_mean_over_the_covered_area(source, target):
    resize = AreaResize(source, target)
    image = np.random.default_rng(0).integers(0, 256, source).astype(np.uint8)
    result = resize(image)
    assert result.dtype == np.uint8 and result.shape == (*target, source[2])
    assert np.abs(result - area_mean(image, target)).max() <= 0.5 + 1e-3, "beyond rounding"
    assert (resize(np.full_like(image, 255)) == 255).all(), "an overflow"
