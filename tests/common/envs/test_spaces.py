import re

import numpy as np
import pytest
from env_fakes import GOOD, VECTOR, Scripted
from gymnasium.spaces import Box, Dict, Discrete

from dreamerv2.common.envs.spaces import CheckSpaces
from dreamerv2.common.errors import NotFinite, UserError


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "lacks the key 'x'"),
        ({"x": np.zeros(3, np.float32)}, r"'x' is float32 \[3\]; .* promises float32 \[2\]"),
        ({"x": np.zeros(2, np.int64)}, r"'x' is int64 \[2\]; .* promises float32 \[2\]"),
        ({"x": np.array([0, np.nan], np.float32)}, "'x' contains NaN or Inf"),
        ({"x": np.array([0, np.inf], np.float32)}, "'x' contains NaN or Inf"),
    ],
)
def test_a_broken_observation_is_named(bad, message):
    with pytest.raises(UserError, match=message):
        CheckSpaces(Scripted(VECTOR, bad)).reset()
    env = CheckSpaces(Scripted(VECTOR, GOOD, bad))
    env.reset()
    with pytest.raises(UserError, match=message):
        env.step(0)


@pytest.mark.parametrize("reward", [1e39, -1e300, float("nan")])
def test_a_reward_that_is_not_finite_in_the_replay_is_named(reward):
    with pytest.raises(NotFinite, match=f"the reward {re.escape(str(reward))}; .* finite in float"):
        CheckSpaces(Scripted(VECTOR, GOOD, reward=reward)).step(0)


@pytest.mark.parametrize("reward", [None, "1", np.array([1.0, 2.0]), np.array([]), [None]])
def test_a_reward_that_is_no_number_is_named(reward):
    env = CheckSpaces(Scripted(VECTOR, GOOD, reward=reward))
    with pytest.raises(UserError, match="returned the reward .*; it must be a number"):
        env.step(0)


@pytest.mark.parametrize("reward", [1, True, 1.0, np.float32(1), np.array([1.0]), np.array(1)])
def test_numbers_of_any_kind_are_rewards(reward):
    got = CheckSpaces(Scripted(VECTOR, GOOD, reward=reward)).step(0)[1]
    assert isinstance(got, float | int) and got == 1


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("flag", [True, np.True_, np.array([True]), np.array(1), [1]])
def test_flags_of_any_kind_are_one(flag, place):
    flags = [False, False]
    flags[place] = flag
    env = CheckSpaces(Scripted(VECTOR, GOOD, flags=flags))
    got = env.step(0)[2:4]
    assert got[place] is True and got[1 - place] is False


def test_a_flag_of_several_values_is_named():
    env = CheckSpaces(Scripted(VECTOR, GOOD, flags=(False, np.array([True, False]))))
    with pytest.raises(UserError, match="returned truncated = .*; it must be True or False"):
        env.step(0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(0, 1, (2,), np.float32), "must be a Dict"),
        (Dict({}), "at least one key"),
        (Dict({"reward": Box(0, 1, (), np.float32)}), "'reward' is reserved"),
        # The model would take its own loss and the emulator's memory for them.
        (Dict({"kl": Box(0, 1, (), np.float32)}), "'kl' is reserved"),
        (Dict({"ram": Box(0, 255, (2, 2, 1), np.uint8)}), "'ram' is reserved"),
        (Dict({"x": Box(0, 1, (2,), np.float64)}), "'x' is Box"),
        (Dict({"x": Box(0, 1, (2, 2), np.float32)}), "'x' is Box"),
        (Dict({"x": Discrete(3)}), "'x' is Discrete"),
    ],
)
def test_spaces_outside_the_contract_are_refused(space, message):
    with pytest.raises(UserError, match=message):
        CheckSpaces(Scripted(space))
