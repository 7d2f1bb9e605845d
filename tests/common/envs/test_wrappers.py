import numpy as np
import pytest
from env_contract import env_config
from env_fakes import GOOD, VECTOR, Counting, Failing, Scripted
from gymnasium.spaces import Box, Dict, Discrete

from dreamerv2.common.envs import wrappers
from dreamerv2.common.envs.spaces import DictObs
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
        wrappers.CheckSpaces(Scripted(VECTOR, bad)).reset()
    env = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, bad))
    env.reset()
    with pytest.raises(UserError, match=message):
        env.step(0)


@pytest.mark.parametrize("reward", [1e39, -1e300])
def test_a_reward_too_large_for_the_replay_is_named(reward):
    with pytest.raises(NotFinite, match="must be finite in float32"):
        wrappers.CheckSpaces(Scripted(VECTOR, GOOD, reward=reward)).step(0)


def test_a_reward_that_is_nan_is_named():
    env = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, GOOD, reward=float("nan")))
    env.reset()
    with pytest.raises(UserError, match="reward nan"):
        env.step(0)


@pytest.mark.parametrize("reward", [None, "1", np.array([1.0, 2.0]), np.array([]), [None]])
def test_a_reward_that_is_no_number_is_named(reward):
    env = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, reward=reward))
    with pytest.raises(UserError, match="returned the reward .*; it must be a number"):
        env.step(0)


@pytest.mark.parametrize("reward", [1, True, 1.0, np.float32(1), np.array([1.0]), np.array(1)])
def test_numbers_of_any_kind_are_rewards(reward):
    got = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, reward=reward)).step(0)[1]
    assert isinstance(got, float | int) and got == 1


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("flag", [True, np.True_, np.array([True]), np.array(1), [1]])
def test_flags_of_any_kind_are_one(flag, place):
    flags = [False, False]
    flags[place] = flag
    env = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, flags=flags))
    got = env.step(0)[2:4]
    assert got[place] is True and got[1 - place] is False


def test_a_flag_of_several_values_is_named():
    env = wrappers.CheckSpaces(Scripted(VECTOR, GOOD, flags=(False, np.array([True, False]))))
    with pytest.raises(UserError, match="returned truncated = .*; it must be True or False"):
        env.step(0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(0, 1, (2,), np.float32), "must be a Dict"),
        (Dict({}), "at least one key"),
        (Dict({"reward": Box(0, 1, (), np.float32)}), "'reward' is reserved"),
        # The model would take its own target, its own loss and the emulator's memory for them.
        (Dict({"discount": Box(0, 1, (), np.float32)}), "'discount' is reserved"),
        (Dict({"kl": Box(0, 1, (), np.float32)}), "'kl' is reserved"),
        (Dict({"actor": Box(0, 1, (), np.float32)}), "'actor' is reserved"),
        # The checksum of each row in an unfinished episode.
        (Dict({"_crc32": Box(0, 1, (), np.float32)}), "'_crc32' is reserved"),
        (Dict({"k" * 5000: Box(0, 1, (), np.float32)}), "'kkk.*k...' has 5000 characters"),
        (Dict({"ram": Box(0, 255, (2, 2, 1), np.uint8)}), "'ram' is reserved"),
        (Dict({"x": Box(0, 1, (2,), np.float64)}), "'x' is Box"),
        (Dict({"x": Box(0, 1, (2, 2), np.float32)}), "'x' is Box"),
        (Dict({"x": Discrete(3)}), "'x' is Discrete"),
    ],
)
def test_spaces_outside_the_contract_are_refused(space, message):
    with pytest.raises(UserError, match=message):
        wrappers.CheckSpaces(Scripted(space))


def test_time_limit_truncates_and_starts_over():
    env = wrappers.TimeLimit(Counting((100,)), 3)
    for _ in range(2):
        env.reset()
        flags = [env.step(None)[2:4] for _ in range(3)]
        assert flags == [(False, False), (False, False), (False, True)]


def test_time_limit_does_not_hide_a_termination():
    env = wrappers.TimeLimit(Counting((3,)), 3)
    env.reset()
    assert [env.step(None)[2] for _ in range(3)][-1], "terminated at the limit"


def test_action_repeat_adds_rewards_and_stops_at_the_end():
    env = wrappers.ActionRepeat(Counting((3,)), 2)
    env.reset()
    obs, reward, terminated, _, _ = env.step(None)
    assert obs["step"] == [2] and reward == 1 + 2 and not terminated
    obs, reward, terminated, _, _ = env.step(None)
    assert obs["step"] == [3] and reward == 3 and terminated


def test_images_of_any_size_and_number_are_resized():
    space = Dict(
        {
            "front": Box(0, 255, (30, 40, 3), np.uint8),
            "depth": Box(0, 255, (8, 8, 1), np.uint8),
            "right": Box(0, 255, (10, 12, 3), np.uint8),
            "x": VECTOR["x"],
        }
    )
    obs = {"front": np.full((30, 40, 3), 7, np.uint8), "depth": np.full((8, 8, 1), 9, np.uint8)}
    obs |= {"right": np.full((10, 12, 3), 5, np.uint8), **GOOD}
    env = wrappers.standardize(Scripted(space, obs), env_config(render_size=(10, 12)))
    result = env.reset()[0]
    assert {k: v.shape for k, v in result.items()} == {
        "front": (10, 12, 3),
        "depth": (10, 12, 1),
        "right": (10, 12, 3),
        "x": (2,),
    }
    assert (result["front"] == 7).all() and (result["depth"] == 9).all()
    assert result["right"] is obs["right"], "an image that fits was copied"
    assert all(env.observation_space[k].shape == v.shape for k, v in result.items())


class Fragile(Failing):
    """Made once for each call of ``constructor``, which counts the calls and their seeds."""

    made: list = []

    @classmethod
    def constructor(cls, failures, once):
        def construct(seed):
            cls.made.append(seed)
            return cls(failures, once)

        cls.made = []
        return construct


def test_restart_truncates_the_episode_and_goes_on(tmp_path, caplog):
    construct = Fragile.constructor({3: "raise"}, str(tmp_path / "failed"))
    env = wrappers.Restart(construct, 1, seed=8)
    env.reset()
    env.step(None)
    before = env.step(None)[0]
    obs, reward, terminated, truncated, _ = env.step(None)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert obs == before, "the last observation was not repeated"
    assert "broken physics in step 3" in caplog.text, "the traceback was not shown"
    assert env.reset()[0]["step"] == [0]
    assert [env.step(None)[2] for _ in range(5)][-1]
    assert len(Fragile.made) == 2 and Fragile.made[0] == 8 != Fragile.made[1]


def test_no_life_of_a_worker_repeats_the_seeds_of_another():
    drawn = []
    for life in (None, 1, 0):
        env = wrappers.Restart(Fragile.constructor({}, None), 0, seed=8)
        if life is not None:
            env.begin_again(life)
        drawn += [env._next_seed, env._another_seed(), env._another_seed()]
    assert len(set(drawn)) == 9


def test_restart_tries_a_failed_reset_again(tmp_path):
    env = wrappers.Restart(Fragile.constructor({-1: "raise"}, str(tmp_path / "failed")), 1, seed=0)
    assert env.reset()[0]["step"] == [0]


@pytest.mark.parametrize("step", [-1, 1])
def test_restarts_run_out(step):
    env = wrappers.Restart(Fragile.constructor({step: "raise"}, None), 2, seed=0)
    with pytest.raises(ValueError, match="broken physics"):
        for _ in range(3):
            env.reset()
            env.step(None)
    assert len(Fragile.made) == 3, "made a different number of times than once and two restarts"


@pytest.mark.parametrize("restarts", [3, 2])
def test_a_constructor_that_fails_is_tried_again_as_well(tmp_path, restarts, caplog):
    made = []

    def construct(seed):
        made.append(seed)
        if len(made) in (2, 3):
            raise ValueError("no licence")
        return Failing({1: "raise"}, str(tmp_path / "failed"))

    env = wrappers.Restart(construct, restarts, seed=0)
    env.reset()
    if restarts == 2:
        with pytest.raises(ValueError, match="no licence"):
            env.step(None)
        return
    assert env.step(None)[1:4] == (0.0, False, True)
    assert env.reset()[0]["step"] == [0] and len(set(made)) == 4
    assert "failed in its constructor and is made anew (0 restarts left)" in caplog.text


def test_a_user_error_is_not_tried_again():
    made = []

    def construct(seed):
        made.append(seed)
        return wrappers.CheckSpaces(Scripted(VECTOR, {}))

    env = wrappers.Restart(construct, 5, seed=0)
    with pytest.raises(UserError, match="lacks the key"):
        env.reset()
    assert len(made) == 1


def test_an_image_with_its_channels_first_is_doubted():
    env = Scripted(Box(0, 255, (4, 84, 84), np.uint8))
    with pytest.warns(UserWarning, match=r"taken for 4 rows of 84 pixels: images are \[H, W, C\]"):
        DictObs(env)


def test_an_image_of_floats_is_doubted():
    """It is read as a vector, which nobody wants of 21,168 pixels."""
    env = Scripted(Box(0, 255, (84, 84, 3), np.float32))
    with pytest.warns(UserWarning, match="a vector of 21,168 numbers, since it is float32: images"):
        assert DictObs(env).observation_space["observation"].shape == (21168,)
