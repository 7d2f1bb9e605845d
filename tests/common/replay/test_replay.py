import itertools
import json
import os
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from episode_rows import (
    NAME,
    add_episode,
    add_rows,
    check_rows,
    fill,
    make_arrays,
    make_row,
    start_python,
)
from hypothesis import given
from hypothesis import strategies as st

from dreamerv2.common.errors import UserError
from dreamerv2.common.replay import replay as replay_module
from dreamerv2.common.replay.episode import write_episode
from dreamerv2.common.replay.journal import Journal
from dreamerv2.common.replay.replay import Replay


def stored(directory):
    """Return the arrays of all stored episodes in the order of their names."""
    return [dict(np.load(path)) for path in sorted(Path(directory).glob("*.npz"))]


def test_an_episode_is_stored_when_it_ends_with_its_flags(tmp_path):
    replay = Replay(tmp_path)
    add_episode(replay, 3, 7, terminal=False)
    (episode,) = stored(tmp_path)
    assert episode["action"].tolist() == [[3, t] for t in range(8)]
    assert episode["is_first"].tolist() == [True] + [False] * 7
    assert episode["is_last"].tolist() == [False] * 7 + [True]
    assert not episode["is_terminal"].any(), "a truncated episode became a terminal one"
    assert episode["log_extra"].tolist() == list(range(8)), "log_ keys belong in the file"
    assert episode["reward"].dtype == np.float32 and episode["log_extra"].dtype == np.int32
    assert replay.stats["total_steps"] == 7 and replay.stats["total_episodes"] == 1


@pytest.mark.parametrize("killed", [False, True])
def test_unfinished_episodes_are_closed_as_truncated_and_counted_once(tmp_path, killed):
    replay = Replay(tmp_path)
    for worker in (0, 5):
        add_rows(replay, worker, 4, worker)
    replay.add_step(make_row(6, 0), worker=5)  # a reset without is_last
    if not killed:
        replay.end_episodes()
    for _ in range(3):
        replay = Replay(tmp_path) if killed else replay
        assert replay.stats["total_steps"] == 6 and replay.stats["ongoing_steps"] == 0
    for episode, worker in zip(stored(tmp_path), (0, 5), strict=True):
        assert episode["action"].tolist() == [[worker, t] for t in range(4)]
        assert episode["is_last"].tolist() == [False, False, False, True]
        assert not episode["is_terminal"].any()
    assert not list(tmp_path.glob("*.journal"))


def test_a_short_episode_is_reported_and_not_stored(tmp_path, capsys):
    replay = fill(tmp_path, [3] * 9 + [4], minlen=5)
    assert capsys.readouterr().out.count("shorter than minlen=5") == 1, "reported once, not always"
    assert replay.stats["short_episodes"] == 9
    assert replay.stats["total_steps"] == 9 * 3 + 4, "steps that were taken stay counted"
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize("episodes", [0, 3])
def test_nothing_to_sample_says_what_to_do(tmp_path, episodes):
    replay = fill(tmp_path, [20] * episodes, minlen=50, maxlen=50)
    with pytest.raises(UserError, match=r"at least minlen=50 rows.*Lower --replay.minlen"):
        next(replay.dataset(2, 10))


def test_capacity_holds_in_memory_and_on_disk_and_totals_survive_it(tmp_path):
    replay = Replay(tmp_path, capacity=45)
    for episode in range(12):
        add_episode(replay, episode, 10)
        assert replay.stats["loaded_steps"] <= 45
        assert sum(len(e["reward"]) - 1 for e in stored(tmp_path)) == replay.stats["loaded_steps"]
    assert [e["action"][0, 0] for e in stored(tmp_path)] == [8, 9, 10, 11], "not the oldest went"
    expected = {"total_steps": 120, "total_episodes": 12, "loaded_steps": 40, "loaded_episodes": 4}
    assert replay.stats.items() >= expected.items()
    assert Replay(tmp_path, capacity=45).stats.items() >= expected.items(), "a restart miscounts"
    smaller = Replay(tmp_path, capacity=20)
    assert smaller.stats["loaded_steps"] == 40, "to look at the episodes deletes none"
    smaller.prune()
    assert (smaller.stats["total_steps"], smaller.stats["loaded_steps"]) == (120, 20)


def test_steps_that_were_lost_stay_taken(tmp_path):
    fill(tmp_path, [10] * 3, capacity=25)
    ledger = json.loads((tmp_path / "pruned.json").read_bytes())
    del ledger["lost"]  # as it was written once
    (tmp_path / "pruned.json").write_text(json.dumps(ledger))
    min(tmp_path.glob("*.npz")).unlink()
    replay = Replay(tmp_path, capacity=25)
    assert replay.steps_taken == 20
    replay.record_missing_steps(30)
    add_rows(replay, 4, 5)
    assert replay.steps_taken == 34
    replay.record_missing_steps(33)  # nothing is missing
    for _ in range(2):
        replay = Replay(tmp_path, capacity=25)
        assert replay.steps_taken == 34
        assert replay.stats["total_steps"] == 24, "they are lost, not pruned"


def test_lost_steps_that_are_put_back_are_lost_no_more(tmp_path, monkeypatch):
    # Of two names with the same time and number, the later one is the smaller.
    falling = (uuid.UUID(int=2**128 - 1 - i) for i in itertools.count())
    monkeypatch.setattr(uuid, "uuid4", lambda: next(falling))
    first = fill(tmp_path, [10] * 4, capacity=60)
    add_rows(first, 4, 5)
    removed = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.npz"))[:2]}
    for path in removed:
        path.unlink()
    replay = Replay(tmp_path, capacity=60)  # which stores what was unfinished
    assert replay.steps_taken == 24
    replay.record_missing_steps(44)
    for path, content in removed.items():
        path.write_bytes(content)
    for _ in range(2):
        replay = Replay(tmp_path, capacity=60)
        assert replay.steps_taken == 44 == replay.stats["total_steps"]
        replay.record_missing_steps(44)
    for episode in range(5, 9):
        add_episode(replay, episode, 10)
    for _ in range(2):
        assert Replay(tmp_path, capacity=60).steps_taken == 84, "pruning found more of them"


def test_a_kill_between_ledger_and_deletion_counts_nothing_twice(tmp_path):
    fill(tmp_path, [10] * 3, capacity=25)
    (name,) = json.loads((tmp_path / "pruned.json").read_bytes())["deleting"]
    write_episode(tmp_path, name.rpartition("-")[0], make_arrays(0, 10))
    assert Replay(tmp_path, capacity=25).stats["total_steps"] == 30
    assert not (tmp_path / name).exists(), "the interrupted deletion was not finished"


def test_an_episode_longer_than_the_capacity_is_cut_and_the_newest_part_stays(tmp_path):
    replay = Replay(tmp_path, capacity=20, minlen=2)
    for t in range(100):
        replay.add_step(make_row(1, t))
        assert replay.stats["loaded_steps"] <= 20 and replay.stats["ongoing_steps"] <= 20
    replay.end_episodes()
    check_rows(next(replay.dataset(2, 4)))
    for episode in stored(tmp_path):
        assert episode["is_first"][0] and episode["is_last"][-1]
        assert not episode["is_terminal"].any()
    assert replay.stats["loaded_episodes"] >= 1


def test_the_only_episode_that_can_be_sampled_makes_no_room_for_a_cut_one(tmp_path):
    replay = fill(tmp_path, (10, 10), capacity=10, minlen=8)
    add_rows(replay, 2, 4)
    replay.end_episodes()
    assert replay.ready and [e["action"][0, 0] for e in stored(tmp_path)] == [1]
    assert (replay.stats["total_steps"], replay.stats["loaded_steps"]) == (23, 10)
    check_rows(next(replay.dataset(2, 8)))


def test_sampling_and_pruning_leave_no_open_files_behind(tmp_path):
    replay = Replay(tmp_path, capacity=30)
    dataset = replay.dataset(4, 6)
    opened = []
    for episode in range(10):
        add_episode(replay, episode, 10)
        check_rows(next(dataset))
        dataset.settle()
        opened.append(len(os.listdir("/proc/self/fd")))
    assert len(set(opened)) == 1
    replay.close()


def test_a_kill_between_storing_an_episode_and_dropping_its_journal_counts_it_once(tmp_path):
    replay = Replay(tmp_path)
    add_rows(replay, 1, 5)
    (journal,) = tmp_path.glob("*.journal")
    kept = journal.read_bytes()
    replay.end_episodes()
    journal.write_bytes(kept)
    early = tmp_path / f"{NAME}{0:032x}.journal"
    early.touch()  # killed before the first byte
    replay = Replay(tmp_path)
    assert (replay.stats["total_steps"], replay.stats["damaged_episodes"]) == (4, 0)
    assert not journal.exists() and not early.exists()


@pytest.mark.parametrize("killed", [True, False])
def test_an_unfinished_episode_too_short_to_sample_is_stored_and_reported(tmp_path, capsys, killed):
    first = Replay(tmp_path, minlen=5)
    add_rows(first, 1, 4)
    if not killed:
        first.close()
        assert first.stats["total_steps"] == 3
    for _ in range(2):
        replay = Replay(tmp_path, minlen=5)
        assert replay.stats["total_steps"] == 3, "steps that were taken are lost"
        assert replay.stats["short_episodes"] == 1 and not replay.ready
    assert "shorter than minlen=5" in capsys.readouterr().out
    with pytest.raises(UserError, match="No episode in .* has at least minlen=5 rows"):
        next(replay.dataset(1, 5))
    assert Replay(tmp_path, minlen=2).ready, "a lower minlen makes use of it"


def test_a_finished_episode_too_short_to_sample_is_not_recovered(tmp_path):
    name = f"{NAME}{0:032x}"
    journal = Journal.create(tmp_path, name, make_row(1, 0))
    for t in range(4):  # all rows are written, then the process is killed
        journal.append(make_row(1, t, last=3))
    replay = Replay(tmp_path, minlen=5)
    assert replay.stats["total_steps"] == 3, "steps that were taken stay counted"
    assert replay.stats["short_episodes"] == 1 and not list(tmp_path.glob("*-*"))
    assert Replay(tmp_path, minlen=5).stats["total_steps"] == 3, "and only once"


def test_temporary_files_of_ours_are_removed_at_start_and_only_those(tmp_path):
    episode = f"{NAME}{0:032x}-9.npz.tmp"
    for name in (f".{episode}", episode, ".pruned.json.tmp", "notes.tmp"):
        (tmp_path / name).write_bytes(b"half")
    Replay(tmp_path)
    assert os.listdir(tmp_path) == ["notes.tmp"]


def test_rows_that_do_not_fit_are_refused(tmp_path):
    add_episode(Replay(tmp_path), 0, 5)
    with pytest.raises(ValueError, match="worker 2 has no is_first"):
        Replay(tmp_path).add_step(make_row(0, 1), worker=2)
    with pytest.raises(UserError, match=r"image is uint8\[3, 3, 1\] but uint8\[2, 2, 1\]"):
        Replay(tmp_path).add_step(make_row(0, 0) | {"image": np.zeros((3, 3, 1), np.uint8)})
    with pytest.raises(UserError, match="it has extra, which they have not"):
        Replay(tmp_path).add_step(make_row(0, 0) | {"extra": np.float32(1)})
    Replay(tmp_path).add_step(make_row(0, 0) | {"log_more": np.float32(1)})


def test_the_wait_for_a_first_episode_is_explained_and_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(replay_module, "MAX_STEPS_WITHOUT_EPISODE", 50)
    replay = Replay(tmp_path, minlen=3)
    with pytest.raises(UserError, match="No episode has ended in 101 steps.*give --time_limit"):
        for t in range(500):
            replay.add_step(make_row(0, t))
            if t >= 10:
                replay.check_prefill_progress()
    said = capsys.readouterr().out
    assert said.count("No episode has ended in 10 steps") == 1 and "--time_limit" in said
    replay.end_episodes()
    replay.check_prefill_progress()
    assert not capsys.readouterr().out


def test_a_hundred_episodes_too_short_to_sample_are_enough(tmp_path):
    replay = fill(tmp_path, [1] * 99, minlen=3)
    replay.check_prefill_progress()
    add_episode(replay, 100, 1)
    with pytest.raises(UserError, match="at least minlen=3 rows.*Lower --replay.minlen"):
        replay.check_prefill_progress()


@given(data=st.data())
def test_random_interleavings_of_workers_never_mix_episodes(tmp_path_factory, data):
    replay = Replay(tmp_path_factory.mktemp("mix"), ongoing=True)
    place, number, expected = {}, 0, {}
    for worker in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=120)):
        episode, t = place.get(worker, (0, 0))
        if not episode or data.draw(st.integers(0, 9)) == 0:
            number += 1
            episode, t = number, -1
        t += 1
        place[worker] = episode, t
        last = data.draw(st.integers(0, 7)) == 0
        replay.add_step(make_row(episode, t, t if last else -1), worker)
        expected[episode] = t
        if last:
            del place[worker]
    replay.end_episodes()
    found = {}
    for episode in stored(replay._store.directory):
        numbers, times = episode["action"].T
        assert len(set(numbers)) == 1 and times.tolist() == list(range(len(times)))
        found[int(numbers[0])] = len(times) - 1
    assert found == {episode: steps for episode, steps in expected.items() if steps}
    replay.close()


WRITER = """
import sys
from episode_rows import add_episode
from dreamerv2.common.replay.replay import Replay
replay = Replay(sys.argv[1], capacity=3000)
number = replay.stats["total_episodes"]
while True:
    number += 1
    add_episode(replay, number, 3 + number % 40)
    print(replay.stats["total_steps"], flush=True)
"""


def test_kill_9_of_a_writer_at_any_moment_loses_nothing_stored(tmp_path):
    generator = np.random.default_rng(0)
    total = 0
    for _ in range(6):
        with start_python(WRITER, tmp_path) as writer:
            writer.stdout.readline()
            time.sleep(generator.uniform(0, 0.3))
            writer.kill()
            printed = writer.stdout.read().splitlines()
        replay = Replay(tmp_path, capacity=3000)
        assert replay.stats["total_steps"] >= max(total, int(printed[-1]) if printed else 0)
        assert replay.stats["damaged_episodes"] == 0, "a file was half-written"
        assert {p.suffix for p in tmp_path.iterdir()} <= {".npz", ".json"}, "leftovers stayed"
        dataset = replay.dataset(8, 20)
        for _ in range(10):
            check_rows(next(dataset))
        total = replay.stats["total_steps"]
        replay.close()
