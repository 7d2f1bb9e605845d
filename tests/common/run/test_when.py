"""The counter and the schedulers: at which steps exactly do they fire?"""

import json

import pytest

from dreamerv2.common.errors import UserError
from dreamerv2.common.run import when
from dreamerv2.common.run.when import Counter


def fired(scheduler, steps):
    return [step for step in steps if scheduler(step)]


def test_every_fires_at_its_first_call_and_then_on_the_grid():
    assert fired(when.Every(5), range(3, 25)) == [3, 8, 13, 18, 23]
    late = fired(when.Every(10), [0, 7, 14, 19, 20, 25, 57, 59, 60])
    assert late == [0, 14, 20, 57, 60], "a late call moves the grid"


@pytest.mark.parametrize("envs", [1, 3, 4, 7])
def test_every_point_of_the_grid_is_due_once_however_large_the_steps(envs):
    """One update per `train_every` agent steps, also where `envs` of them are taken at once."""
    every, points = when.Every(5), []
    for step in range(100, 1000, envs):
        points += every.due(step)
    assert points == list(range(100, step + 1, 5))


def test_every_taken_back_fires_again_and_keeps_its_grid():
    due = when.Every(10)
    for step in (3, 27):  # the first firing, and a late one
        assert due(step)
        due.undo()
        assert due(step + 1) and not due(step + 2)
    assert fired(due, range(30, 50)) == [34, 44]


@pytest.mark.parametrize("stop", [0, 1, 8, 9, 17, 40])
def test_every_resumed_through_json_fires_as_if_never_interrupted(stop):
    uninterrupted = fired(when.Every(8), range(50))
    first, second = when.Every(8), when.Every(8)
    before = fired(first, range(stop))
    second.restore(json.loads(json.dumps(first.state())))
    assert before + fired(second, range(stop, 50)) == uninterrupted


def test_every_seconds_follows_the_clock_and_not_the_step():
    now = [100.0]
    every = when.EverySeconds(60, clock=lambda: now[0])
    hits = []
    for second in range(0, 200, 10):
        now[0] = 100.0 + second
        if every(7):
            hits.append(second)
    assert hits == [0, 60, 120, 180]


def test_every_seconds_resumed_waits_a_full_interval():
    now = [5000.0]
    first = when.EverySeconds(60, clock=lambda: now[0])
    first(0)
    now[0] = 3.0  # Another process: its clock began elsewhere.
    second = when.EverySeconds(60, clock=lambda: now[0])
    second.restore(json.loads(json.dumps(first.state())))
    assert not second(0)
    now[0] = 63.0
    assert second(0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("600s", 600), ("10m", 600), ("1.5h", 5400), (" 0.5S ", 0.5)]
)
def test_parse_every_reads_times(text, seconds):
    scheduler = when.parse_every(text)
    assert isinstance(scheduler, when.EverySeconds)
    assert scheduler.seconds == seconds


@pytest.mark.parametrize(
    ("texts", "steps"), [(["20", "2e1", 20, 20.0], [0, 20, 40]), (["0", "0s", 0], [])]
)
def test_parse_every_reads_agent_steps_and_0_never_fires(texts, steps):
    for text in texts:
        assert fired(when.parse_every(text), range(50)) == steps


@pytest.mark.parametrize("text", ["soon", "", "10 minutes", "1.5", "-5", "1e999", "1.2.3s", "nan"])
def test_parse_every_names_the_option_and_the_wrong_value(text):
    with pytest.raises(UserError, match=r"checkpoint_every is .*600s"):
        when.parse_every(text)


def test_an_interval_may_change_its_unit():
    steps, seconds = when.parse_every("20"), when.parse_every("600s")
    fired(steps, range(30))
    seconds.restore(json.loads(json.dumps(steps.state())))
    assert not seconds(30), "an interval of time begins anew"
    steps.restore(json.loads(json.dumps(seconds.state())))
    assert fired(steps, range(31, 60)) == [31, 51], "a grid begins with the next step"


def test_counter_counts_and_compares():
    counter, every = Counter(3), when.Every(4)
    assert every(counter) and not every(counter)
    counter.increment()
    counter.increment(6)
    assert int(counter) == counter.value == 10 and every(counter)
    assert counter == 10 and counter < 11 and counter >= 10 and 9 < counter
