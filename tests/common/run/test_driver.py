import functools
import weakref

import gymnasium
import numpy as np
import pytest
from env_fakes import Counting

from dreamerv2.common.envs import vectorize
from dreamerv2.common.envs.spaces import OneHotSpace
from dreamerv2.common.envs.vector.vector import Abandoned
from dreamerv2.common.run.driver import Driver


class CountingEnv(Counting):
    """Every observation holds the environment's number, the episode and the step.

    The action must be the one the agent owes for exactly this row.
    """

    action_space = OneHotSpace(7)
    observation_space = gymnasium.spaces.Dict(
        {"place": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)}
    )

    def __init__(self, number, lengths):
        super().__init__(lengths)
        self.number = number

    def step(self, action):
        assert action.argmax() == owed(self._observe()["place"]), "the action is another row's"
        return super().step(action)

    def _observe(self):
        return {"place": np.array([self.number, self.episode, self.count], np.float32)}


def owed(place):
    """The index of the action that the agent gives for an observation."""
    return int(place @ [1, 3, 5]) % 7


class CountingAgent:
    """Notices every row that is dropped, repeated or out of order, and every final row."""

    def __init__(self):
        self.calls = 0
        self.starts = 0
        self.last = {}

    def __call__(self, obs, state):
        assert state is None or state == self.calls, "the state is not what it returned last"
        self.starts += state is None
        assert not obs["is_last"].any() and not obs["is_terminal"].any(), "saw a final row"
        assert "action" not in obs
        for index, place in enumerate(obs["place"]):
            number, episode, step = place
            assert number == index, "rows are mixed up"
            assert obs["is_first"][index] == (step == 0)
            assert obs["reward"][index] == step
            if step > 0:
                assert self.last[index] == (episode, step - 1), "a row was dropped or repeated"
            self.last[index] = (episode, step)
        self.calls += 1
        actions = np.eye(7, dtype=np.float32)[[owed(place) for place in obs["place"]]]
        return {"action": actions}, self.calls


class Recorder:
    """Keeps what a driver hands on."""

    def __init__(self):
        self.rows, self.episodes, self.open = [], [], {}

    def driver(self, *lengths, parallel="none"):
        make = [functools.partial(CountingEnv, *pair) for pair in enumerate(lengths)]
        return Driver(vectorize(make, parallel), [self.add])

    def add(self, row, index):
        """Collect rows and finished episodes, key -> [T+1, ...]."""
        self.rows.append((index, row))
        rows = [row] if row["is_first"] else [*self.open[index], row]
        self.open[index] = rows
        if row["is_last"]:
            episode = {key: np.stack([row[key] for row in rows]) for key in row}
            self.episodes.append((index, episode))

    def places(self, index):
        """(episode, step) of each row of one environment."""
        return [tuple(int(x) for x in row["place"][1:]) for i, row in self.rows if i == index]

    def flags(self, index):
        """A letter for each row: f first, l last (truncated), t last (terminated), . other."""
        rows = [row for i, row in self.rows if i == index]
        for row in rows:
            assert all(row[k].dtype == bool for k in ("is_first", "is_last", "is_terminal"))
        names = {(1, 0, 0): "f", (0, 0, 0): ".", (0, 1, 0): "l", (0, 1, 1): "t"}
        return "".join(names[row["is_first"], row["is_last"], row["is_terminal"]] for row in rows)


def test_exact_flags_of_one_environment():
    seen = Recorder()
    seen.driver([1])(CountingAgent(), steps=5)
    assert seen.flags(0) == "ftflftflft", "a reset costs no step"
    seen = Recorder()
    seen.driver([3, 2])(CountingAgent(), steps=9)
    assert seen.flags(0) == "f..t" + "f.l" + "f..t" + "f."
    expected = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert seen.places(0)[:7] == expected, "a row was dropped, repeated or moved"


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_exact_flags_of_several_environments(parallel):
    seen = Recorder()
    driver = seen.driver([3], [2, 4], parallel=parallel)
    driver(CountingAgent(), steps=14)
    driver._envs.close()
    assert seen.flags(0) == "f..t" + "f..l" + "f."
    assert seen.flags(1) == "f.t" + "f...l" + "f."
    assert seen.places(1)[:4] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_action_of_a_row_is_the_one_that_led_to_it():
    seen = Recorder()
    seen.driver([4, 2], [3])(CountingAgent(), steps=20)
    for index in (0, 1):
        rows = [row for i, row in seen.rows if i == index]
        assert not rows[0]["action"].any()
        for before, row in zip(rows, rows[1:], strict=False):
            if row["is_first"]:
                assert not row["action"].any() and row["reward"] == 0
            else:
                assert row["action"].argmax() == owed(before["place"])
                assert row["reward"] == row["place"][2]
            assert row["action"].dtype == row["reward"].dtype == np.float32


def test_episodes_hold_their_rows_stacked():
    seen = Recorder()
    seen.driver([3, 2], [4])(CountingAgent(), steps=12)
    assert [(i, len(ep["reward"])) for i, ep in seen.episodes] == [(0, 4), (1, 5), (0, 3)]
    for index, episode in seen.episodes:
        length = len(episode["reward"])
        assert episode["place"][:, 0].tolist() == [index] * length, "environments are mixed"
        assert episode["place"][:, 2].tolist() == list(range(length))
        assert episode["is_first"].tolist() == [True] + [False] * (length - 1)
        assert episode["is_last"].tolist() == [False] * (length - 1) + [True]
        assert episode["action"].shape == (length, 7)
    assert [ep["is_terminal"][-1] for _, ep in seen.episodes] == [True, True, False]


def test_the_driver_keeps_no_rows_and_a_row_keeps_no_other_rows():
    """A view would hold the images of all environments, for as long as one episode lasts."""
    rows = []

    def take(row, index):
        assert all(getattr(row[key], "base", None) is None for key in row if key != "action")
        rows.append(weakref.ref(row["place"]))

    Driver(vectorize([lambda: CountingEnv(0, [1000])]), [take])(CountingAgent(), steps=50)
    assert len(rows) == 51 and sum(row() is not None for row in rows) <= 1


def test_steps_and_episodes_must_both_be_reached():
    seen = Recorder()
    driver, agent = seen.driver([4]), CountingAgent()
    driver(agent, steps=2, episodes=1)
    assert seen.places(0)[-1] == (0, 4), "ended before the episode did"
    driver(agent, steps=6, episodes=1)
    assert seen.places(0)[-1] == (2, 2), "ended before the steps were done"


def test_the_state_and_the_episode_go_on_in_the_next_call():
    seen = Recorder()
    driver, agent = seen.driver([5]), CountingAgent()
    driver(agent, steps=3)
    driver(agent, steps=4)
    assert seen.flags(0) == "f....t" + "f.."
    assert agent.starts == 1, "the policy's state was dropped between calls"


def test_driver_reset_starts_every_environment_anew():
    seen = Recorder()
    driver, agent = seen.driver([5], [4]), CountingAgent()
    driver(agent, steps=4)
    driver.reset()
    driver(agent, steps=10)
    assert seen.flags(0) == "f.." + "f....l"
    assert seen.flags(1) == "f.." + "f...l" + "f."
    assert agent.starts == 2, "the policy kept its state over a reset"
    assert [len(ep["reward"]) for _, ep in seen.episodes] == [5, 6], "half an episode was glued on"


def test_stop_ends_a_call_after_the_step_under_way():
    seen = Recorder()
    driver = seen.driver([5], [5])
    driver(CountingAgent(), steps=100, episodes=1, stop=True)
    driver(CountingAgent())
    assert not seen.rows, "stopped before it began, or nothing to do"

    class Stop:
        def __bool__(self):
            return len(seen.rows) >= 6

    driver(CountingAgent(), steps=100, stop=Stop())
    assert len(seen.rows) == 6


def test_a_reset_that_a_stop_gave_up_ends_a_call(monkeypatch):
    seen = Recorder()
    driver = seen.driver([3])

    def reset(**options):
        raise Abandoned("It hangs.")

    monkeypatch.setattr(driver._envs, "reset", reset)
    driver(CountingAgent(), steps=9)
    assert not seen.rows


def test_asked_for_episodes_it_takes_the_first_that_began():
    """One environment is ten times slower. The first four that END are almost all short ones."""
    seen = Recorder()
    seen.driver([20], [2])(CountingAgent(), episodes=4)
    lengths = sorted(len(ep["reward"]) - 1 for _, ep in seen.episodes)
    assert lengths == [2, 2, 2, 20], "the long episode was left out"


def test_fewer_episodes_than_environments():
    seen = Recorder()
    driver = seen.driver([6], [2], [2])
    driver(CountingAgent(), episodes=1)
    assert [(i, len(ep["reward"]) - 1) for i, ep in seen.episodes] == [(0, 6)]
    assert {i for i, _ in seen.rows} == {0}, "a surplus episode was handed on"


def test_after_surplus_episodes_every_row_is_handed_on_again():
    seen = Recorder()
    driver, agent = seen.driver([6], [4]), CountingAgent()
    driver(agent, episodes=1)
    driver(agent, steps=8)
    assert seen.flags(1) == "f...t"
    assert seen.flags(0) == "f.....t" + "f...."


@pytest.mark.parametrize(
    "result", [None, {"action": 1}, ({}, None), ({"action": np.zeros(7)}, None), (1, 2, 3)]
)
def test_a_policy_of_another_form_is_told_its_signature(result):
    driver = Driver(vectorize([lambda: CountingEnv(0, [2])]))
    with pytest.raises(TypeError, match=r"policy\(obs, state\) and return .* \(1, 7\)"):
        driver(lambda obs, state: result, steps=1)


def test_environments_that_reset_themselves_are_refused():
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    with pytest.raises(ValueError, match="must not reset themselves"):
        Driver(envs)


def test_it_runs_in_gymnasium_s_own_vector_environments():
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: CountingEnv(0, [3]), lambda: CountingEnv(1, [2])],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )
    seen = Recorder()
    Driver(envs, [seen.add])(CountingAgent(), steps=8)
    assert seen.flags(0) == "f..tf." and seen.flags(1) == "f.tf.l"
