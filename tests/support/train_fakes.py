"""A counting environment and a counting agent: they notice dropped, repeated or reordered steps."""

import json
import os
import signal
from pathlib import Path

import gymnasium
import numpy as np

import train
from dreamerv2.common import envs
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs.spaces import OneHotSpace


class CountingEnv(gymnasium.Env):
    """Episodes of a fixed length that terminate; a step pays the number of its action (0, 1, 2).

    The observation `place` is [number of the environment, episode, step], `episode` being unique
    among all that this environment and its predecessors in the same run directory play.

    Args:
        world: keeps count beyond the life of one environment.
    """

    observation_space = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "place": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        }
    )
    action_space = OneHotSpace(3)

    def __init__(self, world: "World", mode: str, index: int):
        self.world, self.mode, self.index = world, mode, index
        self.length = world.lengths[index % len(world.lengths)]

    def reset(self, *, seed=None, options=None):
        self.world.episodes += 1
        self.episode, self.step_number = self.world.episodes, 0
        return self._observe(), {}

    def step(self, action):
        self.world.count(self.mode)
        self.step_number += 1
        over = self.step_number == self.length
        return self._observe(), float(np.argmax(action)), over, False, {}

    def _observe(self):
        place = np.array([self.index, self.episode, self.step_number], np.float32)
        return {"image": np.full((8, 8, 1), self.step_number, np.uint8), "place": place}


class World:
    """Everything in one run directory, in order: `events` is a list of (name, agent step).

    Args:
        config: of the run.
        lengths: of the episodes, for each environment.
        signal_at: (event, how many of it): then the process sends itself `signal_number`.
    """

    def __init__(self, config: Config, lengths=(7,), signal_at=(), signal_number=signal.SIGTERM):
        self.config, self.lengths, self.logdir = config, lengths, Path(config.logdir)
        self.signal_at, self.signal_number = signal_at, signal_number
        self.events: list[tuple[str, int]] = []
        self.episodes = 0
        self.steps = {"train": 0, "eval": 0}  # taken by the environments

    def run(self, **changes) -> "World":
        """Run the loop, with some options changed."""
        train.train(self.config.update(changes), self.make_envs, self.make_agent)
        return self

    def make_envs(self, mode, count, seeds):
        assert len(set(seeds)) == count, "the environments must have seeds of their own"
        make = [lambda i=i: CountingEnv(self, mode, i) for i in range(count)]
        return envs.vectorize(make)

    def make_agent(self, config, shapes, actions, discrete):
        assert shapes == {"image": (8, 8, 1), "place": (3,)} and actions == 3 and discrete
        self.note("agent", self.steps["train"])
        return CountingAgent(config, self)

    def count(self, mode: str) -> None:
        """Take note of a step of an environment."""
        self.steps[mode] += 1
        self._signal(f"{mode} step", self.steps[mode])

    def note(self, event: str, step: int) -> None:
        """Take note of an event."""
        self.events.append((event, step))
        self._signal(event, len(self.when(event)))

    def _signal(self, event: str, count: int) -> None:
        if (event, count) == self.signal_at:
            os.kill(os.getpid(), self.signal_number)

    def when(self, event: str) -> list[int]:
        """The agent steps at which an event happened."""
        return [step for name, step in self.events if name == event]


class CountingAgent:
    """Learns nothing, but checks everything that the loop gives it; plays action 2."""

    def __init__(self, config, world):
        self.config, self.world = config, world
        self.updates = 0

    def policy(self, obs, state=None, step=0, mode="train"):
        assert not obs["is_last"].any(), "the policy saw the last row of an episode"
        place, first = obs["place"], obs["is_first"]
        if state is None:
            assert first.all(), "the policy's first episode began without it"
        np.testing.assert_array_equal(place[first, 2], 0, "an episode did not begin with step 0")
        if state is not None:
            np.testing.assert_array_equal(place[~first], state[~first] + [0, 0, 1])
        if mode == "train":
            # The step that the agent is told is what the environments did before this one.
            assert step == self.world.steps["train"], "the agent was told a wrong step"
        self.world.note(f"{mode} policy", step)
        action = np.zeros((len(place), 3), np.float32)
        action[:, 2] = 1
        return {"action": action}, place.copy()

    def place(self, data):
        return dict(data, placed=True)

    def train(self, data, state, step):
        assert data["placed"], "a batch was not copied ahead"
        place, first = data["place"], data["is_first"]
        before = np.full((len(place), 3), np.nan) if state is None else state["place"]
        for t in range(place.shape[1]):
            going = ~first[:, t]
            expected = before[going] + [0, 0, 1]
            np.testing.assert_array_equal(place[going, t], expected, "a batch row lost its thread")
            before = place[:, t]
        assert not data["is_last"][:, :-1][~first[:, 1:]].any(), "a sequence crosses an end"
        self.updates += 1
        self.world.note("update", step)
        return {"place": place[:, -1]}, {"fake_loss": float(self.updates)}

    def report(self, data):
        self.world.note("report", 0)
        return {"openl_image": np.zeros((5, 24, 8, 1), np.float32)}

    def initial_train_state(self):
        return {"place": np.zeros((self.config.dataset.batch, 3), np.float32)}

    def restore_state(self, arrays):
        return dict(arrays)

    def expected(self):
        return {"updates": ((), np.int64)}

    def save(self):
        self.world.note("save", self.world.steps["train"])
        return {"updates": np.int64(self.updates)}, {"update": self.updates}

    def load(self, arrays, draws):
        assert draws == {"update": int(arrays["updates"])}
        self.updates = int(arrays["updates"])


def make_config(logdir, **changes) -> Config:
    """A config of a short run: 20 steps of prefill, 80 in all."""
    small = {
        "logdir": str(logdir),
        "prefill": 20,
        "steps": 80,
        "train_every": 5,
        "pretrain": 2,
        "log_every": 30,
        "eval_every": 40,
        "eval_eps": 2,
        "checkpoint_every": "25",
        "replay.minlen": 3,
        "replay.maxlen": 6,
        "dataset.batch": 3,
        "dataset.length": 4,
    }
    return Config(paths.load_configs()["defaults"]).update(small | changes)


def read_metrics(logdir, name):
    """Return step -> value of one metric."""
    lines = [json.loads(line) for line in (logdir / "metrics.jsonl").open()]
    return {line["step"]: line[name] for line in lines if name in line}


def actions(episodes):
    """How many agent steps the episodes hold."""
    return sum(len(episode["reward"]) - 1 for episode in episodes)
