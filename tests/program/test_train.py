"""The loop of train.py, run whole with a counting environment and a counting agent."""

import functools
import shutil
import threading

import numpy as np
import pytest
from reliable import episodes as read_episodes
from train_fakes import CountingAgent, World, actions, make_config, read_metrics

from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.replay.replay import Replay
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.train import describe, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to its end, for tests that only read; its directory is `finished.logdir`."""
    return World(make_config(tmp_path_factory.mktemp("finished") / "run")).run()


# --- the phases ---


def test_phases_come_in_order(finished):
    # 20 steps of prefill end inside the third episode of 7; then one random evaluation episode.
    order = [name for name, _ in finished.events]
    assert order[:6] == ["agent", "update", "update", "report", "eval policy", "eval policy"]
    # The agent comes before the prefill: a refusal must cost no experience.
    assert finished.events[:3] == [("agent", 0), ("update", 20), ("update", 20)]
    assert order.index("train policy") > order.index("eval policy"), "it evaluates before it acts"
    assert order[-1] == "save"


def test_prefill_goes_on_until_an_episode_has_ended(tmp_path):
    world = World(make_config(tmp_path, prefill=5, steps=20), lengths=(12,)).run()
    assert world.when("update")[0] == 12


def test_environments_start_anew_after_the_prefill(finished):
    episodes = read_episodes(finished.logdir)
    assert actions(episodes) == 80, "agent steps were lost"
    for episode in episodes:
        steps = np.arange(len(episode["reward"]))
        np.testing.assert_array_equal(episode["place"][:, 2], steps, "rows are missing")
        assert len(set(episode["place"][:, 1])) == 1, "two episodes were glued together"
        assert episode["is_first"].tolist() == [True] + [False] * (len(steps) - 1)
        assert episode["is_last"].tolist() == [False] * (len(steps) - 1) + [True]
        assert episode["is_terminal"][-1] == (len(steps) == 8), "a cut is no terminal state"
    lengths = [len(episode["reward"]) - 1 for episode in episodes]
    assert lengths[:4] == [7, 7, 6, 7], "the third episode was cut by the end of the prefill"
    random, learned = episodes[2], episodes[3]
    assert (learned["action"][1:, 2] == 1).all(), "a random action in the policy's first episode"
    assert (random["action"][1:, 2] == 0).any()


def test_a_random_evaluation_episode_comes_first_and_is_no_score(finished):
    random, *others = read_episodes(finished.logdir, "eval_episodes")
    assert (random["action"][1:, 2] == 0).any(), "no random episode to report on"
    assert all((episode["action"][1:, 2] == 1).all() for episode in others)
    returns = read_metrics(finished.logdir, "eval_return")
    assert set(returns.values()) == {14}, "7 steps that pay 2 each"


def test_no_outputs_are_none(tmp_path):
    world = World(make_config(tmp_path, steps=30))
    train(world.config, world.make_envs, world.make_agent, outputs=[])
    assert world.steps["train"] == 30
    assert not (tmp_path / "metrics.jsonl").exists() and not [*tmp_path.glob("*tfevents*")]


@pytest.mark.parametrize(("given", "evaluation"), [(0, 0), (20, 3), (400, 40)])
def test_an_evaluation_replay_holds_a_tenth(tmp_path, monkeypatch, given, evaluation):
    opened = {}

    def note(directory, **options):
        opened[directory.name] = options["capacity"]
        return Replay(directory, **options)

    monkeypatch.setattr("dreamerv2.runner.Replay", note)
    World(make_config(tmp_path, steps=1, **{"replay.capacity": given})).run()
    assert opened == {"train_episodes": given, "eval_episodes": evaluation}


def test_environments_that_cannot_all_be_made_are_closed(tmp_path):
    closed, world = [], World(make_config(tmp_path))

    def close(mode, **options):
        closed.append(mode)

    def make_envs(mode, count, seeds):
        if mode == "eval":
            raise RuntimeError("the only licence is taken")
        vector = world.make_envs(mode, count, seeds)
        vector.close_extras = functools.partial(close, mode)
        return vector

    with pytest.raises(RuntimeError, match="licence"):
        train(world.config, make_envs, world.make_agent)
    assert closed == ["train"]
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorboard"]


def test_without_evaluations_an_only_environment_loses_no_episode(tmp_path, monkeypatch):
    world, made = World(make_config(tmp_path, eval_eps=0, eval_every=5)), []
    act = CountingAgent.policy  # which counts on environments of its own for training

    def make_only(mode, count, seeds):
        made.append(made[0] if made else world.make_envs(mode, count, seeds))
        return made[-1]

    def policy(agent, obs, state=None, step=0, mode="train"):
        return act(agent, obs, state, step, "any")

    monkeypatch.setattr(CountingAgent, "policy", policy)
    train(world.config, make_only, world.make_agent)
    lengths = [len(episode["reward"]) - 1 for episode in read_episodes(tmp_path)]
    assert lengths[3:-1] == [7] * len(lengths[3:-1]) and len(lengths) > 10, lengths


# --- schedules ---


@pytest.mark.parametrize(
    "count, every, each, pretrain", [(1, 5, 1, 2), (3, 1, 1, 1), (1, 16, 2, 0), (3, 4, 3, 7)]
)
def test_number_of_updates(tmp_path, count, every, each, pretrain):
    config = make_config(tmp_path, envs=count, prefill=21, pretrain=pretrain)
    world = World(config).run(train_every=every, train_steps=each)
    last = 81 if count == 3 else 80
    assert world.steps["train"] == last, "the run ends with the first step of all that reaches it"
    updates = world.when("update")
    # The grid starts after the first step of all environments, at most count - 1 steps later.
    due = [step for step in range(21 + count, last + 1, every) for _ in range(each)]
    assert updates == [21] * pretrain + due


def test_schedules_of_evaluation_metrics_and_checkpoints(finished):
    assert sorted(set(finished.when("eval policy"))) == [20, 60], "every 40 steps"
    assert finished.when("save") == [21, 46, 71, 80], "every 25 and at the end"
    versions = sorted(path.name for path in (finished.logdir / "checkpoints").iterdir())
    assert versions == ["000000000071", "000000000080"]
    # Metrics every 30 and at the end are means since the last line; the n-th update loses n.
    losses = read_metrics(finished.logdir, "fake_loss")
    # Updates at 20, 20, 21 | 26, 31, 36, 41, 46, 51 | 56, 61, 66, 71, 76.
    assert losses == {21: 2, 51: np.mean([4, 5, 6, 7, 8, 9]), 80: np.mean([10, 11, 12, 13, 14])}


def test_metrics_count_frames(tmp_path):
    World(make_config(tmp_path, action_repeat=4)).run()
    returns = read_metrics(tmp_path, "train_return")
    assert list(returns) == [4 * step for step in (7, 14, 27, 34, 41, 48, 55, 62, 69, 76)]
    assert set(read_metrics(tmp_path, "train_length").values()) == {7}, "lengths are agent steps"
    assert list(read_metrics(tmp_path, "fake_loss")) == [84, 204, 320]
    steps = read_metrics(tmp_path, "train_total_steps")
    assert all(step == 4 * total for step, total in steps.items() if step < 80)


def test_episodes_that_end_together_have_steps_of_their_own(tmp_path):
    World(make_config(tmp_path, envs=3, prefill=21)).run()
    assert list(read_metrics(tmp_path, "train_return"))[:6] == [19, 20, 21, 40, 41, 42]


@pytest.mark.parametrize("episodes", [0, 1, 4])
def test_evaluation_plays_exactly_eval_eps_episodes(tmp_path, episodes):
    World(make_config(tmp_path, envs=3, eval_eps=episodes), lengths=(7, 4, 9)).run()
    played = read_episodes(tmp_path, "eval_episodes")
    assert len(played) == 1 + 2 * episodes, "two evaluations and one random episode before"
    counts = [*read_metrics(tmp_path, "eval_total_episodes").values()]
    assert counts == [1 + episodes, 1 + 2 * episodes], "a count is that after the evaluation"


# --- continuing ---


def test_a_finished_run_continues_with_more_steps(tmp_path):
    whole = World(make_config(tmp_path / "whole"), lengths=(5,)).run(steps=140)
    parts = World(make_config(tmp_path / "parts"), lengths=(5,)).run(steps=70)
    middle = len(parts.events)
    parts.run(steps=140)
    assert parts.steps["train"] == 140, "the prefill was repeated, or steps were lost"
    assert parts.events[middle][0] == "agent"
    for event in ("update", "report"):
        assert parts.when(event) == whole.when(event), f"the schedule of {event} moved"
    assert sorted(set(parts.when("eval policy"))) == sorted(set(whole.when("eval policy")))
    assert set(parts.when("save")) == {*whole.when("save"), 70}
    logs = [read_metrics(tmp_path / name, "fake_loss") for name in ("parts", "whole")]
    assert set(logs[0]) == {*logs[1], 70}
    assert actions(read_episodes(tmp_path / "parts")) == 140


def test_a_finished_run_does_nothing_more(tmp_path, capsys):
    world = World(make_config(tmp_path)).run()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    count = len(world.when("update"))
    world.run()
    assert world.steps["train"] == 80 and len(world.when("update")) == count
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert "Done: 80 agent steps" in capsys.readouterr().out


def test_a_run_that_ends_in_its_prefill_says_so(tmp_path, capsys):
    config = make_config(tmp_path, steps=10)
    World(config).run()
    printed = capsys.readouterr().out
    assert "The prefill takes all of them." in printed and "Training: 0 frames" in printed
    assert "The prefill takes all" not in describe(config.update({"steps": 80}))


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("checkpoints", "There is no checkpoint: the weights begin anew."),
        ("train_episodes", "The replay is empty: random actions refill it"),
    ],
)
def test_a_loss_is_told_and_the_counter_stands(tmp_path, capsys, folder, words):
    world = World(make_config(tmp_path)).run()
    assert words not in capsys.readouterr().out
    shutil.rmtree(tmp_path / folder)
    world.run(steps=120)
    assert words in capsys.readouterr().out
    assert world.steps["train"] == 120
    *_, first = read_episodes(tmp_path)[: 1 if folder[0] == "t" else 3]
    assert (first["action"][1:, 2] == 0).any(), "a random episode, to have a batch"


def test_another_architecture_leaves_the_run_as_it_was(tmp_path, capsys):
    config = make_config(tmp_path)
    world = World(config).run()
    step, arrays, state = Checkpoint(tmp_path / "checkpoints").load()
    Checkpoint(tmp_path / "checkpoints").save(step, arrays | {"updates": np.zeros(2)}, state)
    capsys.readouterr()
    with pytest.raises(UserError, match=r"updates is \[2\] in the checkpoint, \[\] in this model"):
        world.run(discount=0.5)
    assert capsys.readouterr().out == "", "a refusal comes before anything is printed"
    assert Config.load(tmp_path / "config.yaml") == config, "the config it needs is overwritten"


def test_the_new_config_is_kept_once_it_fits(tmp_path):
    World(make_config(tmp_path)).run().run(train_every=3, steps=100)
    assert Config.load(tmp_path / "config.yaml").train_every == 3
