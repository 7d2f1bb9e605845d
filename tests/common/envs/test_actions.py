import gymnasium
import numpy as np
import pytest
from env_fakes import GOOD, VECTOR, Scripted
from gymnasium.spaces import Box, Dict, Discrete

from dreamerv2.common.envs import actions
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.errors import UserError


def test_one_hot_actions_become_indices_from_the_start_of_the_space():
    inner = Scripted(VECTOR, GOOD, GOOD, GOOD, actions=Discrete(3, start=5))
    env = actions.OneHotAction(inner)
    assert env.action_space == OneHotSpace(3) and env.action_space.n == 3
    env.reset()
    env.step(np.array([1, 0, 0], np.float32))
    env.step(np.array([0, 0, 1], np.float32))
    assert inner.seen == [5, 7]


@pytest.mark.parametrize("action", [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [1, 0], [[1, 0, 0]]])
def test_what_is_not_one_hot_is_refused(action):
    env = actions.OneHotAction(Scripted(VECTOR, GOOD, actions=Discrete(3)))
    with pytest.raises(ValueError, match="one-hot"):
        env.step(np.array(action, np.float32))


def test_one_hot_space_draws_every_choice():
    space = OneHotSpace(4)
    space.seed(0)
    draws = [space.sample() for _ in range(100)]
    assert all(space.contains(draw) and draw.dtype == np.float32 for draw in draws)
    assert {int(draw.argmax()) for draw in draws} == {0, 1, 2, 3}
    assert not space.contains(np.array([0.5, 0.5, 0, 0], np.float32))
    assert space != OneHotSpace(5) and space != Box(0, 1, (4,), np.float32)


def test_bounded_actions_are_scaled_and_others_pass_up_to_their_one_bound():
    low = np.array([[0, -np.inf], [-2, -1]])
    high = np.array([[10, np.inf], [2, np.inf]])
    inner = Scripted(VECTOR, *[GOOD] * 4, actions=Box(low, high, dtype=np.float64))
    env = actions.NormalizeAction(inner)
    assert env.action_space.low.tolist() == [-1, -np.inf, -1, -np.inf]
    assert env.action_space.high.tolist() == [1, np.inf, 1, np.inf]
    env.step(np.array([-1, 7, 0.5, -3], np.float32))
    env.step(np.array([1.0000001, -7, -1, 0], np.float32))
    assert inner.seen[0].tolist() == [[0, 7], [1, -1]] and inner.seen[0].dtype == np.float64
    assert inner.seen[1].tolist() == [[10, -7], [-2, 0]], "a rounding error passed the bound"
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros((1, 4), np.float32))


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
    env = actions.NormalizeAction(inner)
    assert env.action_space == Box(-1, 1, (1,), np.float32)
    for action in (-1, 0, 1):
        env.step(np.array([action], np.float32))
    assert np.concatenate(inner.seen).tolist() == expected
    env.step(np.array([-1.5 if np.isinf(high) else 1.5], np.float32))
    assert inner.seen[-1] == (low if np.isinf(high) else high), "the bound was passed"


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.MultiBinary(3),
        gymnasium.spaces.Tuple([Discrete(2)]),
        Dict({"a": Discrete(2)}),
    ],
)
def test_unsupported_actions_are_refused(space):
    with pytest.raises(UserError, match="action space .* is not supported"):
        actions.adapt_action(Scripted(VECTOR, actions=space))
