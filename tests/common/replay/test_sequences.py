import collections
import itertools
import json
import os
import threading
import time

import numpy as np
import pytest
from episode_rows import (
    NAME,
    add_episode,
    add_rows,
    check_rows,
    fill,
    make_arrays,
    sequences,
    take,
)
from scipy import stats

from dreamerv2.common.replay.episode import StoredEpisode
from dreamerv2.common.replay.journal import Journal
from dreamerv2.common.replay.replay import Replay


def enumerate_draws(rows, minlen, maxlen, prioritize_ends):
    """Return P(start, length) of one episode, written from the design's formula by counting."""
    counts = collections.defaultdict(float)
    for u in range(minlen):
        length = max(minlen, min(rows, maxlen) - u)
        choices = rows - length + 1 + (minlen if prioritize_ends else 0)
        for index in range(choices):
            counts[min(index, rows - length), length] += 1 / minlen / choices
    return counts


@pytest.mark.parametrize("prioritize_ends", [False, True])
@pytest.mark.parametrize("minlen, maxlen", [(1, 0), (5, 0), (5, 8), (6, 6)])
def test_sequences_have_the_distribution_of_the_design(tmp_path, minlen, maxlen, prioritize_ends):
    lengths = (9, 13)
    options = {"minlen": minlen, "maxlen": maxlen, "prioritize_ends": prioritize_ends}
    replay = fill(tmp_path, lengths, seed=3, **options)
    expected = {}
    for episode, steps in enumerate(lengths):
        draws = enumerate_draws(steps + 1, minlen, maxlen or steps + 1, prioritize_ends)
        for (start, length), probability in draws.items():
            expected[episode, start, length] = probability / len(lengths)
    batches = list(itertools.islice(replay.dataset(8, 50), 60))
    found = collections.Counter()
    for row in range(8):
        for sequence in sequences(batches, row)[:-1]:  # The last one is cut off.
            assert (np.diff(sequence[:, 1]) == 1).all() and len(set(sequence[:, 0])) == 1
            found[(*sequence[0].tolist(), len(sequence))] += 1
    total = sum(found.values())
    assert found.keys() <= expected.keys(), "a sequence that cannot occur"
    observed = [found[key] for key in expected]
    predicted = [probability * total for probability in expected.values()]
    assert stats.chisquare(observed, predicted).pvalue > 1e-4


def test_batches_are_contiguous_arrays_without_log_keys_or_ram(tmp_path):
    arrays = make_arrays(0, 20) | {"ram": np.zeros((21, 128), np.uint8)}
    np.savez_compressed(tmp_path / f"{NAME}{10:032x}-20.npz", **arrays)
    replay = fill(tmp_path, (20, 20))
    assert replay.stats["damaged_episodes"] == 0, "our files and the release's do not mix"
    batch = next(replay.dataset(4, 6))
    assert set(batch) == {"image", "action", "reward", "is_first", "is_last", "is_terminal"}
    for key, shape, dtype in [("image", (2, 2, 1), np.uint8), ("reward", (), np.float32)]:
        assert batch[key].shape == (4, 6, *shape) and batch[key].dtype == dtype
        assert batch[key].flags.c_contiguous


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_an_is_first_inside_a_file_is_honoured(tmp_path, saver):
    arrays = make_arrays(0, 20)
    arrays["is_first"][[7, 13]] = True
    saver(tmp_path / f"{NAME}{10:032x}-20.npz", **arrays)
    replay = Replay(tmp_path, minlen=21, maxlen=21)
    assert np.flatnonzero(next(replay.dataset(1, 21))["is_first"][0]).tolist() == [0, 7, 13]


def test_unfinished_episodes_are_sampled_only_when_asked(tmp_path):
    for ongoing in (False, True):
        replay = fill(tmp_path / str(ongoing), (20,), minlen=5, ongoing=ongoing)
        add_rows(replay, 9, 12, worker=1)
        dataset = replay.dataset(8, 10)
        sampled = [check_rows(next(dataset)) for _ in range(10)]
        assert (np.array(sampled) == 9).any() == ongoing
        replay.end_episodes()
        check_rows(next(dataset))


@pytest.mark.parametrize("seed", [0, np.random.SeedSequence(5, spawn_key=(2,))])
def test_equal_seeds_draw_equal_batches_in_different_directories(tmp_path, seed):
    first = take(fill(tmp_path / "a", seed=seed).dataset(4, 9), 10)
    assert first == take(fill(tmp_path / "b", seed=seed).dataset(4, 9), 10)
    for number, other in enumerate([1, np.random.SeedSequence(5, spawn_key=(3,))]):
        assert first != take(fill(tmp_path / f"c{number}", seed=other).dataset(4, 9), 10)
    assert first[0][0] != first[0][1], "two rows share one stream"


def slow_down(monkeypatch, episode_class, seconds):
    """Let every reading of rows take longer."""
    read = episode_class.read

    def slow_read(*args):
        time.sleep(seconds)
        return read(*args)

    monkeypatch.setattr(episode_class, "read", slow_read)


def test_an_episode_that_ends_while_it_is_read_waits_for_the_reading(tmp_path, monkeypatch):
    replay = Replay(tmp_path, minlen=3, ongoing=True)
    add_rows(replay, 1, 6)
    slow_down(monkeypatch, Journal, 0.02)
    dataset = replay.dataset(2, 4)
    next(dataset)
    replay.end_episodes()
    check_rows(next(dataset))


def test_restoring_redraws_what_was_removed_or_cut_off_by_a_power_failure(tmp_path):
    replay = fill(tmp_path, (30, 30), minlen=10, maxlen=15, ongoing=True)
    add_rows(replay, 9, 40)
    dataset = replay.dataset(64, 3)
    take(dataset, 2)
    state = dataset.state()
    (path,) = tmp_path.glob("*.journal")
    os.truncate(path, path.stat().st_size * 2 // 5)
    min(tmp_path.glob("*.npz")).unlink()
    resumed = Replay(tmp_path, minlen=10, maxlen=15).dataset(64, 3)
    resumed.restore(state)
    for _ in range(8):
        assert check_rows(next(resumed)).all(), "a row is of episode 0, which was removed"
    assert not list(tmp_path.glob("*.damaged")), "a whole file was taken for damaged"


def test_a_row_draws_the_same_whatever_the_batch_size(tmp_path):
    replay = fill(tmp_path)
    few, many = take(replay.dataset(2, 9), 8), take(replay.dataset(5, 9), 8)
    assert few == [batch[:2] for batch in many]


def test_draws_do_not_depend_on_the_timing_of_threads(tmp_path, monkeypatch):
    sampled = []
    for number, (delay, pause) in enumerate([(0, 0.01), (0, 0), (0.004, 0)]):
        slow_down(monkeypatch, StoredEpisode, delay)
        replay = fill(tmp_path / str(number), minlen=5, capacity=150)
        dataset = replay.dataset(3, 11)
        batches = []
        for episode in range(10, 22):
            batches += take(dataset, 1)
            time.sleep(pause)
            add_episode(replay, episode, 15)
        replay.close()
        sampled.append(batches)
    assert sampled[0] == sampled[1] == sampled[2]


@pytest.mark.parametrize("ongoing", [False, True])
def test_a_restored_dataset_draws_what_the_uninterrupted_one_draws(tmp_path, ongoing):
    options = {"minlen": 5, "maxlen": 25, "ongoing": ongoing}
    replay = fill(tmp_path, **options)
    add_rows(replay, 7, 15, worker=2)
    dataset = replay.dataset(4, 6)
    take(dataset, 5)
    add_episode(replay, 8, 33)  # Between planning a batch and delivering it.
    replay.end_episodes()
    state = json.loads(json.dumps(dataset.state()))
    expected = take(dataset, 12)
    replay.close()
    resumed = Replay(tmp_path, **options).dataset(4, 6)
    resumed.restore(state)
    assert json.loads(json.dumps(resumed.state())) == state
    assert take(resumed, 12) == expected


def test_restoring_with_another_batch_size_or_length_goes_on(tmp_path):
    replay = fill(tmp_path)
    dataset = replay.dataset(4, 8)
    take(dataset, 3)
    for size in [(2, 8), (6, 8), (4, 5)]:
        resumed = replay.dataset(*size)
        resumed.restore(dataset.state())
        batch = next(resumed)
        check_rows(batch)
        assert batch["is_first"][:, 0].all(), "rows were skipped within a sequence"


def test_batches_are_placed_ahead_on_the_copying_thread(tmp_path):
    threads = []

    def place(batch):
        threads.append(threading.current_thread())
        return batch["image"].sum()

    dataset = fill(tmp_path).dataset(2, 5, place=place)
    for count in (1, 2, 3):
        assert next(dataset)["image"].sum() == dataset.placed
        dataset.settle()
        assert len(threads) == count + 1, "the next batch is placed before it is asked for"
    assert threading.current_thread() not in threads


def test_a_batch_that_cannot_be_placed_is_an_error_of_the_caller(tmp_path):
    dataset = fill(tmp_path).dataset(2, 5, place=lambda batch: batch["no such key"])
    with pytest.raises(KeyError, match="no such key"):
        next(dataset)


def test_closing_while_a_copy_waits_stores_the_unfinished_episode(tmp_path):
    threads = threading.active_count()
    replay = fill(tmp_path, (10, 10), capacity=20)
    dataset = replay.dataset(2, 5)
    add_rows(replay, 2, 4)
    dataset._thread.submit(time.sleep, 0.2)
    dataset._submit(dataset._next_plan())
    replay.close()  # prunes, for which the copy must have ended
    assert threading.active_count() == threads
    assert replay.stats["total_steps"] == 23 and not list(tmp_path.glob("*.journal"))
