"""Runs that are stopped, by a signal or a failure, and those whose episodes went missing."""

import signal

import numpy as np
import pytest
from reliable import episodes as read_episodes
from train_fakes import CountingAgent, World, actions, make_config, read_metrics

from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.train import train


@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGINT, ("train policy", 23)),
        (signal.SIGTERM, ("update", 9)),
        (signal.SIGTERM, ("eval policy", 5)),
    ],
)
def test_a_signal_ends_the_run_and_loses_nothing(tmp_path, capsys, number, where):
    handler = signal.getsignal(number)
    world = World(make_config(tmp_path), (7,), where, number).run()
    done = world.steps["train"]
    assert done < 80, "the run went on"
    assert signal.getsignal(number) is handler, "the handler of the caller is gone"
    assert f"Stopped at agent step {done}" in capsys.readouterr().out
    assert world.when("save")[-1] == done
    assert actions(read_episodes(tmp_path)) == done
    world.run()
    assert world.steps["train"] == 80, "steps were lost or repeated"
    updates = world.when("update")
    assert updates == [20, 20, *range(21, 81, 5)], "updates were lost or repeated"


def test_a_signal_in_the_prefill_ends_it(tmp_path, capsys):
    world = World(make_config(tmp_path), (7,), ("train step", 11))
    stopped = train(world.config, world.make_envs, world.make_agent)
    assert stopped == signal.SIGTERM, "who called it cannot tell that it was stopped"
    assert world.events == [("agent", 0)] and world.steps == {"train": 11, "eval": 0}
    assert "Stopped at agent step 11" in capsys.readouterr().out
    world.run()
    assert "Continuing from agent step 11" in capsys.readouterr().out
    assert world.when("update")[0] == 20 and world.steps["train"] == 80


def test_a_signal_in_the_pretraining_ends_it(tmp_path):
    world = World(make_config(tmp_path, pretrain=30), (7,), ("update", 4)).run()
    assert world.when("update") == [20] * 4, "pretraining went on"
    world.run()
    assert world.when("update")[:31] == [20] * 30 + [21], "pretraining was not finished"


def test_an_evaluation_that_was_stopped_is_played_again_and_whole(tmp_path):
    whole = World(make_config(tmp_path / "whole")).run()
    world = World(make_config(tmp_path / "run"), (7,), ("eval policy", 16)).run()
    stopped = world.when("eval policy")
    assert stopped[-1] == whole.when("eval policy")[15] > 20, "not the second evaluation"
    world.run()
    again = world.when("eval policy")[len(stopped) :]
    assert again == whole.when("eval policy")[14:], "the evaluation is missing from the curve"
    assert read_metrics(tmp_path / "run", "eval_total_episodes")[60] in (5, 6), "a mean of counts"


def test_damaged_evaluation_episodes_cost_a_picture_and_not_the_run(tmp_path, capsys):
    world = World(make_config(tmp_path, steps=40)).run()
    for path in (tmp_path / "eval_episodes").glob("*.npz"):
        data = bytearray(path.read_bytes())
        data[data.index(np.load(path)["place"].tobytes())] ^= 1
        path.write_bytes(data)
    reports = len(world.when("report"))
    world.run(steps=200)
    assert "Set aside damaged" in capsys.readouterr().out
    assert world.steps["train"] == 200, "the run ended"
    assert len(world.when("report")) > reports, "no picture was made of new episodes"


def test_pictures_of_predictions_show_one_sequence_where_episodes_are_long(tmp_path, monkeypatch):
    """Sequences of 2 to 3 rows are learned from; those of a batch have 4."""
    seen = []

    def report(agent, data):
        seen.append(data["is_first"])
        return {}

    monkeypatch.setattr(CountingAgent, "report", report)
    World(make_config(tmp_path, **{"replay.minlen": 2, "replay.maxlen": 3}), (19,)).run()
    assert seen and not any(first[:, 1:].any() for first in seen), "it jumps"


def test_a_second_interrupt_stops_at_once(tmp_path):
    world = World(make_config(tmp_path), (7,), ("update", 6), signal.SIGINT)
    note = world.note

    def note_and_interrupt_again(event, step):
        note(event, step)
        if (event, step) == ("update", 36):  # the sixth
            signal.raise_signal(signal.SIGINT)

    world.note = note_and_interrupt_again
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.events[-1] == ("update", 36), "it saved first"
    world.note, world.signal_at = note, ()
    assert world.run().steps["train"] == 80, "steps on disk were lost"


def run_until_a_failure(world, at, **changes):
    """Run until an update at a step from `at` on fails: no checkpoint is saved any more."""
    note = world.note

    def fail(event, step):
        note(event, step)
        if event == "update" and step >= at:
            raise RuntimeError("a bug")

    world.note = fail
    with pytest.raises(RuntimeError, match="a bug"):
        world.run(**changes)
    world.note = note


@pytest.mark.parametrize("all_of_them", [False, True])
def test_the_counter_outlives_episodes_that_were_removed(tmp_path, capsys, all_of_them):
    world = World(make_config(tmp_path)).run()
    for path in sorted((tmp_path / "train_episodes").iterdir())[: None if all_of_them else 5]:
        path.unlink()
    run_until_a_failure(world, 91, steps=120, checkpoint_every="1000")
    assert max(step for step, *_ in Checkpoint(tmp_path / "checkpoints")._versions()) == 80
    world.run(steps=120)  # the agent compares the counter with the steps of the environment
    assert f"Continuing from agent step {world.when('agent')[-1]}." in capsys.readouterr().out
    assert world.steps["train"] == 120


def test_episodes_that_are_put_back_are_not_counted_again(tmp_path):
    world, folder = World(make_config(tmp_path)).run(), tmp_path / "train_episodes"
    moved = [(path, tmp_path / path.name) for path in sorted(folder.glob("*.npz"))[:5]]
    for path, elsewhere in moved:
        path.rename(elsewhere)
    world.run(steps=100)
    for path, elsewhere in moved:
        elsewhere.rename(path)
    world.run(steps=120)  # the agent compares the counter with the steps of the environment
    assert world.steps["train"] == 120


def test_the_counter_outlives_cuts_at_the_capacity(tmp_path):
    # The step between the two parts of a cut episode is in neither.
    changes = {"steps": 120, "replay.capacity": 40, "eval_eps": 0}
    world = World(make_config(tmp_path), lengths=(90,))
    run_until_a_failure(world, 100, **changes)
    assert world.run(**changes).steps["train"] == 120
