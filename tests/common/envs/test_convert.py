import numpy as np
import pytest
from env_contract import env_config
from env_fakes import GOOD, VECTOR, Scripted
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete

from dreamerv2.common.envs import convert, gym
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import UserError


def test_one_hot_actions_become_indices_from_the_start_of_the_space():
    inner = Scripted(VECTOR, GOOD, GOOD, GOOD, actions=Discrete(3, start=5))
    env = convert.OneHotAction(inner)
    assert env.action_space == OneHotSpace(3) and env.action_space.n == 3
    env.reset()
    env.step(np.array([1, 0, 0], np.float32))
    env.step(np.array([0, 0, 1], np.float32))
    assert inner.seen == [5, 7]


@pytest.mark.parametrize("action", [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [1, 0], [[1, 0, 0]]])
def test_what_is_not_one_hot_is_refused(action):
    env = convert.OneHotAction(Scripted(VECTOR, GOOD, actions=Discrete(3)))
    with pytest.raises(ValueError, match="one-hot"):
        env.step(np.array(action, np.float32))


def test_one_hot_space_draws_every_choice():
    space = OneHotSpace(4)
    space.seed(0)
    draws = [space.sample() for _ in range(100)]
    assert all(space.contains(draw) and draw.dtype == np.float32 for draw in draws)
    assert {int(draw.argmax()) for draw in draws} == {0, 1, 2, 3}
    assert not space.contains(np.array([0.5, 0.5, 0, 0], np.float32))


def test_bounded_actions_are_scaled_and_others_pass_up_to_their_one_bound():
    low = np.array([[0, -np.inf], [-2, -1]])
    high = np.array([[10, np.inf], [2, np.inf]])
    inner = Scripted(VECTOR, *[GOOD] * 4, actions=Box(low, high, dtype=np.float64))
    env = convert.NormalizeAction(inner)
    assert env.action_space.low.tolist() == [-1, -np.inf, -1, -np.inf]
    assert env.action_space.high.tolist() == [1, np.inf, 1, np.inf]
    env.step(np.array([-1, 7, 0.5, -3], np.float32))
    env.step(np.array([1.0000001, -7, -1, 0], np.float32))
    assert inner.seen[0].tolist() == [[0, 7], [1, -1]] and inner.seen[0].dtype == np.float64
    assert inner.seen[1].tolist() == [[10, -7], [-2, 0]], "a rounding error passed the bound"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (5, np.inf, [5, 6, 7]),
        (-0.5, np.inf, [-0.5, 0.5, 1.5]),
        (-np.inf, -5, [-7, -6, -5]),
        (-np.inf, 0, [-2, -1, 0]),
    ],
)
def test_one_bound_inside_the_range_of_the_actor_has_the_other_two_away(low, high, expected):
    inner = Scripted(VECTOR, *[GOOD] * 4, actions=Box(low, high, (1,), np.float32))
    env = convert.NormalizeAction(inner)
    assert env.action_space == Box(-1, 1, (1,), np.float32)
    for action in (-1, 0, 1):
        env.step(np.array([action], np.float32))
    assert np.concatenate(inner.seen).tolist() == expected
    env.step(np.array([-1.5 if np.isinf(high) else 1.5], np.float32))
    assert inner.seen[-1] == (low if np.isinf(high) else high), "the bound was passed"


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), Dict({"a": Discrete(2)})])
def test_unsupported_actions_are_refused(space):
    with pytest.raises(UserError, match="action space .* is not supported"):
        convert.adapt_action(Scripted(VECTOR, actions=space))


IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (Box(0, 255, (2, 2, 3), np.uint8), IMAGE, {"image": IMAGE}),
        (Box(0, 255, (2, 2), np.uint8), IMAGE[..., 0], {"image": IMAGE[..., :1]}),
        (Box(-1, 1, (2,), np.float64), [0.5, 1], {"observation": [0.5, 1]}),
        (Box(-1, 1, (), np.float32), 0.5, {"observation": 0.5}),
        (Box(0, 9, (2, 2), np.int64), [[1, 2], [3, 4]], {"observation": [1, 2, 3, 4]}),
        (Box(0, 255, (3,), np.uint8), [1, 2, 255], {"observation": [1, 2, 255]}),
        (Box(0, 1, (2,), np.int64), [True, False], {"observation": [1, 0]}),
        (Discrete(3, start=4), 5, {"observation": [0, 1, 0]}),
        (Discrete(3, start=4), [5], {"observation": [0, 1, 0]}),
        (spaces.MultiBinary(2), [True, False], {"observation": [1, 0]}),
        (spaces.MultiDiscrete([2, 3]), [1, 2], {"observation": [0, 1, 0, 0, 1]}),
        (
            Dict({"a": Dict({"b": Discrete(2)}), "c": Box(0, 1, (1,))}),
            {"a": {"b": 1}, "c": [0.25]},
            {"a.b": [0, 1], "c": [0.25]},
        ),
    ],
)
def test_observations_of_many_kinds_become_a_dict(space, value, expected):
    env = gym.wrap(Scripted(space, value), env_config(render_size=(2, 2)))
    obs, _ = env.reset()
    assert set(obs) == set(expected) == set(env.observation_space)
    for key, array in obs.items():
        assert array.tolist() == np.asarray(expected[key]).tolist(), key
        assert env.observation_space[key].contains(array), key
        assert array.dtype == (np.uint8 if key == "image" else np.float32)


def test_text_is_left_out_with_a_warning():
    space = Dict({"text": spaces.Text(5), "x": Box(0, 1, (1,))})
    with pytest.warns(UserWarning, match="text observation 'text' is left out"):
        env = gym.wrap(Scripted(space, {"text": "hello", "x": [0.0]}), env_config())
    assert set(env.reset()[0]) == {"x"}


NUMBER = Box(0, 1, (1,))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"pair": spaces.Tuple([Discrete(2)])}, "observation 'pair' is Tuple"),
        (
            {"a.b": NUMBER, "a": Dict({"b": NUMBER})},
            r"\('a', 'b'\) and \('a.b',\) would both be called 'a.b'",
        ),
    ],
)
def test_observations_that_have_no_place_are_refused_by_key(space, message):
    with pytest.raises(UserError, match=message):
        gym.wrap(Scripted(Dict(space)), env_config())


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (Box(0, 255, (2, 2, 3), np.uint8), IMAGE / 255, r"float64 \[2, 2, 3\]; .* uint8"),
        (Box(0, 1, (2, 2)), np.zeros((2, 3)), r"\[2, 3\]; .* float32 \[4\]"),
        (Discrete(3), 3, "'observation' .* out of range"),
        (Discrete(3), [0, 1], "does not fit its space .*2 entries instead of 1"),
        (spaces.MultiDiscrete([2, 3]), 1, "does not fit its space .*1 entries instead of 2"),
        (Dict({"x": Box(0, 1, (1,))}), {"y": [0.0]}, "'x' is missing"),
        (Box(0, 1, (1,)), [np.nan], "'observation' contains NaN"),
        (Box(0, 1, (20, 24)), np.full((20, 24), 200), "'image' .* where the space has 0 to 1"),
        (Box(0, 1, (20, 24)), np.full((20, 24), np.nan), "'image' contains NaN or Inf"),
    ],
)
def test_a_broken_observation_is_named_with_what_was_expected(space, value, message):
    env = gym.wrap(Scripted(space, value), env_config(render_size=(2, 2)))
    with pytest.raises(UserError, match=message):
        env.reset()


RGB = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
STACK = np.stack([RGB, RGB // 2, RGB // 3, RGB // 4])


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (Box(0, 255, (4, 20, 24, 3), np.uint8), STACK, np.concatenate(STACK, axis=2)),
        (Box(0, 255, (1, 20, 24, 3), np.uint8), RGB[None], RGB),
        (Box(0, 255, (4, 3, 20, 24), np.uint8), np.moveaxis(STACK, 3, 1), np.concatenate(STACK, 2)),
        (Box(0, 255, (3, 20, 24), np.uint8), np.moveaxis(RGB, 2, 0), RGB),
        (Box(0, 1, (3, 20, 24), np.float32), np.moveaxis(RGB / 255, 2, 0), RGB),
        (Box(0, 1, (20, 24), np.float64), RGB[..., 0] / 255, RGB[..., :1]),
        (Box(0, 1, (20, 24, 3), np.float32), RGB / 255, RGB),
        (Box(0, 255, (20, 24, 3), np.float32), RGB, RGB),
        (Box(0, 255, (20, 24, 3), np.int64), RGB, RGB),
    ],
)
def test_images_of_other_layouts_and_types_become_images(space, value, expected, recwarn):
    env = gym.wrap(Scripted(space, value), env_config(render_size=(20, 24)))
    image = env.reset()[0]["image"]
    assert image.dtype == np.uint8 and np.array_equal(image, expected)
    assert env.observation_space["image"].shape == expected.shape and not recwarn.list


@pytest.mark.parametrize(
    "space", [Box(-1, 1, (84, 84, 3)), Box(0, 2, (4, 84, 84, 3)), Box(-np.inf, np.inf, (84, 84))]
)
def test_numbers_of_another_range_in_the_shape_of_an_image_are_doubted(space):
    size = np.prod(space.shape)
    with pytest.warns(UserWarning, match=f"a vector of {size:,} numbers; if it is an image, wrap"):
        assert convert.DictObs(Scripted(space)).observation_space["observation"].shape == (size,)
