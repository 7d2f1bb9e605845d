import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import FLAGS
from gymnasium import spaces

import dreamerv2.api as dv2
from dreamerv2 import train as trainer
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import adapter
from dreamerv2.common.errors import UserError
from dreamerv2.common.run.checkpoint import Checkpoint

RANGE = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))


class OldStyle:
    """An environment as for old gym: 4-tuples, seed(), no info at reset. 25 steps an episode.

    The observation 'count' says which step of the episode it is.
    """

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "count": spaces.Box(0, np.inf, (), np.float64),
            "kind": spaces.Discrete(3),
        }
    )
    action_space = RANGE
    metadata = {}

    def __init__(self):
        self.count, self.closed = 0, False
        self.seeds, self.actions = [], []
        self.seed = self.seeds.append

    def reset(self):
        self.count = 0
        return self.observe()

    def step(self, action):
        self.count += 1
        self.actions.append(np.array(action))
        return self.observe(), float(action[0]), self.count == 25, {}

    def observe(self):
        image = np.full((16, 16, 3), 10 * self.count, np.uint8)
        return {"image": image, "count": float(self.count), "kind": self.count % 3}

    def close(self):
        self.closed = True


class Recorder:
    """An output that keeps the names of the metrics."""

    def __init__(self):
        self.names = set()

    def write(self, step, entries):
        self.names |= {entry.name for entry in entries}

    def flush(self):
        pass

    close = flush


class Trained:
    """One training of an environment object, for all tests of this file."""

    def __init__(self, logdir):
        self.logdir, self.env, self.output = logdir, OldStyle(), Recorder()
        # The script of the 2021 release, with flags that make it small.
        changes = {"log_every": 1e3, "train_every": 10, "prefill": 1e5, "actor_ent": 3e-3}
        changes |= {"logdir": str(logdir), "loss_scales.kl": 1.0, "discount": 0.99}
        flags = [*FLAGS, "--steps=90", "--eval_every=20", "--train_every=20"]
        flags += ["--precision=32", "--seed=5"]
        self.config = dv2.defaults.update(changes).parse_flags(flags)
        dv2.train(self.env, self.config, outputs=[self.output])

    def episodes(self, kind):
        files = sorted((self.logdir / f"{kind}_episodes").glob("*.npz"))
        return [dict(np.load(file)) for file in files]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("library") / "run")


def play(policy, env):
    """Play one episode in a loop of one's own; return the actions."""
    policy.reset()
    obs, done, actions = env.reset(), False, []
    while not done:
        action = policy(obs)
        actions.append(action)
        obs, _, done, _ = env.step(action)
    return actions


# --- configs ---


def test_defaults_and_named_configs_combine():
    config = dv2.defaults.update(dv2.configs["atari"])
    assert (config.task, config.time_limit, config.loss_scales.kl) == ("atari_pong", 27000, 0.1)
    assert isinstance(dv2.defaults, Config) and "defaults" not in dv2.configs
    config = dv2.defaults.update({"log_every": 1e3, "prefill": 1e5, "loss_scales.kl": 1.0})
    assert (config.log_every, config.prefill) == (1000, 100000)


# --- training ---


@pytest.mark.parametrize(
    ("received", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_the_script_too(monkeypatch, tmp_path, received, raised):
    """Or a loop over five seeds would go on to the next."""
    given = []
    monkeypatch.setattr(trainer, "run", lambda *args: given.append(args[0]) or received)
    with pytest.raises(raised) as ended:
        dv2.train(OldStyle(), {"logdir": str(tmp_path), "steps": 1e5})
    assert raised is KeyboardInterrupt or ended.value.code == 143
    (config,) = given
    assert config.steps == 100000 and config.envs == dv2.defaults.envs, "a mapping is no config"


def test_a_signal_ends_a_script_that_evaluates_too(trained, monkeypatch):
    class Interrupted(OldStyle):
        def step(self, action):
            if self.count == 3:
                signal.raise_signal(signal.SIGINT)
            return super().step(action)

    lines = trained.logdir / "eval.jsonl"
    before = lines.read_text() if lines.exists() else ""
    with pytest.raises(KeyboardInterrupt):
        dv2.train(Interrupted(), trained.config.update({"mode": "eval", "eval_eps": 2}))
    assert (lines.read_text() if lines.exists() else "") == before, "no episode has ended"


def test_training_logs_what_the_command_line_logs(trained):
    wanted = {"train_return", "train_length", "eval_return", "model_loss", "actor_loss", "fps"}
    assert not wanted - trained.output.names
    assert not (trained.logdir / "metrics.jsonl").exists(), "the outputs given replace the usual"
    assert Checkpoint(trained.logdir / "checkpoints").load()[0] == 90


def test_evaluation_shares_the_environment_and_never_mixes_episodes(trained):
    train, evaluation = trained.episodes("train"), trained.episodes("eval")
    assert len(evaluation) >= 3, "prefill evaluates once, training at least twice"
    for episode in train + evaluation:
        rows = len(episode["count"])
        assert episode["count"].tolist() == list(range(rows)), "rows of two episodes were mixed"
        assert episode["is_first"].tolist() == [True] + [False] * (rows - 1)
    assert any(len(e["count"]) < 26 for e in train), "no evaluation fell into an episode: no test"
    assert all(len(e["count"]) == 26 for e in evaluation), "an evaluation takes whole episodes"
    assert sum(len(e["count"]) - 1 for e in train) == 90, "a training step was lost or repeated"


def test_the_environment_gets_a_seed_names_the_task_and_stays_open(trained):
    assert isinstance(trained.env.seeds[0], int) and len(trained.env.seeds) == 1
    assert Config.load(trained.logdir / "config.yaml").task == "custom_OldStyle"
    assert not trained.env.closed


@pytest.mark.parametrize("change", [{"envs": 2}, {"env_restarts": 1}])
def test_one_environment_cannot_be_several(trained, change):
    config = trained.config.update(change)
    with pytest.raises(UserError, match="a function that makes an environment"):
        dv2.train(OldStyle(), config)


def test_a_script_with_a_mistake_ends_with_a_sentence(tmp_path):
    call = f"dv2.train(object(), dv2.defaults.update(logdir={str(tmp_path / 'run')!r}))"
    for code, status in (call, 2), (f"try: {call}\nexcept dv2.UserError: 1 / 0", 1):
        script = f"import dreamerv2.api as dv2\n{code}"
        command, root = [sys.executable, "-c", script], Path(__file__).resolve().parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
        assert done.returncode == status, done.stderr
        assert ("Traceback" in done.stderr) == (status == 1), done.stderr
        if status == 2:
            (said,) = done.stderr.splitlines()
            assert said.startswith("Error: ") and "has no reset and no step" in said
            assert not done.stdout and not (tmp_path / "run").exists(), "refused too late"


def test_a_function_makes_several_in_processes(tmp_path, capsys):
    flags = [*FLAGS, "--steps=50", "--envs=2", "--envs_parallel=process"]
    config = dv2.defaults.update({"logdir": str(tmp_path / "run")}).parse_flags(flags)
    made = []

    def make():
        made.append(1)  # in this process it would be seen
        return OldStyle()

    dv2.train(make, config)
    assert "Done: 50 agent steps" in capsys.readouterr().out and not made
    assert adapter.load(tmp_path / "run") == (OldStyle.observation_space, RANGE)


def test_bad_values_are_a_sentence(trained):
    with pytest.raises(UserError, match="precision"):
        dv2.train(trained.env, trained.config.update({"precision": "64"}))
    with pytest.raises(UserError, match="has no reset and no step"):
        dv2.train(object(), trained.config)
    with pytest.raises(UserError, match="Give a directory"):
        dv2.train(trained.env, dv2.defaults)


# --- playing ---


@pytest.fixture(scope="module")
def policy(trained):
    return dv2.load(trained.logdir, OldStyle)


def test_a_policy_plays_like_evaluation_does(trained, policy):
    env = OldStyle()
    dv2.train(env, trained.config.update({"mode": "eval"}))
    actions = np.stack(play(policy, OldStyle()))
    np.testing.assert_array_equal(np.stack(env.actions), actions)
    assert actions.dtype == np.float32 and actions.shape == (25, 2)
    assert all(RANGE.contains(action) for action in actions)
    assert actions[:, 1].max() > 1, "dimension 2 goes from 0 to 10, -1..1 would be the agent's own"


def test_reset_forgets_the_episode(policy):
    obs = OldStyle().reset()

    def memory():
        policy(obs)
        return policy._state[0]["deter"].numpy()

    policy.reset()
    first, second = memory(), memory()
    policy.reset()
    assert (first != second).any(), "the policy remembers earlier observations"
    np.testing.assert_array_equal(first, memory())


def test_wrong_observations_name_the_key(policy):
    with pytest.raises(UserError, match="'image'"):
        policy({**OldStyle().reset(), "image": np.zeros((8, 8, 3), np.uint8)})
    with pytest.raises(UserError, match="'kind'"):
        policy({key: value for key, value in OldStyle().reset().items() if key != "kind"})


def test_loading_what_is_not_there_is_a_sentence(tmp_path, trained):
    with pytest.raises(UserError, match="no config.yaml"):
        dv2.load(tmp_path / "nothing")
    trained.config.save(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="no checkpoint"):
        dv2.load(tmp_path)


def test_the_command_line_says_who_can_make_the_environment(trained, capsys):
    with pytest.raises(SystemExit) as ended:
        trainer.main(["--logdir", str(trained.logdir), "--mode", "eval"])
    assert ended.value.code == 2
    assert "script the flag --mode eval" in capsys.readouterr().err


# --- spaces.json ---


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=-2),
        spaces.Box(np.array([-np.inf, 0.1]), np.array([5, np.inf]), dtype=np.float64),
        spaces.Box(0, 255, (8, 9, 3), np.uint8),
        spaces.Box(-np.inf, np.inf, (), np.float32),
        spaces.MultiDiscrete([3, 4], start=[1, 0]),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "c": spaces.MultiBinary([2, 2])}),
    ],
    ids=str,
)
def test_spaces_survive_the_file(space):
    assert adapter.decode(adapter.encode(space)) == space


def test_a_replica_returns_a_plain_int_from_the_first_choice_on():
    obs = spaces.Dict({"x": spaces.Discrete(3, start=1), "log_x": spaces.Discrete(2)})
    replica = adapter.SpaceAdapter(obs, spaces.Discrete(3, start=5), dv2.defaults)
    assert replica.observe({"x": 2})["x"].tolist() == [0, 1, 0], "log_ keys are not asked for"
    action = replica.act(np.array([0, 0, 1], np.float32))
    assert type(action) is int and action == 7


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"observation": {"kind": "Moon"}}'])
def test_a_damaged_file_is_a_sentence(content, tmp_path):
    (tmp_path / "spaces.json").write_text(content)
    with pytest.raises(UserError, match="does not hold the spaces"):
        adapter.load(tmp_path)
