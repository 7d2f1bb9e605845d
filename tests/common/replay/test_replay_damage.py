import os

import numpy as np
import psutil
import pytest
from episode_rows import (
    NAME,
    add_episode,
    add_rows,
    check_rows,
    file_size_limit,
    fill,
    make_arrays,
    make_row,
    places,
    sequences,
)
from hypothesis import given
from hypothesis import strategies as st

from dreamerv2.common.errors import UserError
from dreamerv2.common.replay.episode import write_episode
from dreamerv2.common.replay.replay import Replay


def damage(path, kind, position):
    data = bytearray(path.read_bytes())
    position = int(position * max(0, len(data) - 1))
    if kind == "flip" and data:
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
    if kind == "delete":
        path.unlink()
    if kind == "truncate":
        os.truncate(path, position)


def check_true(batch):
    """Assert that every row is one that was written, not a damaged one."""
    check_rows(batch)
    episode, t = batch["action"][..., 0], batch["action"][..., 1]
    assert (episode < 6).all()
    for key in ("is_last", "is_terminal"):
        np.testing.assert_array_equal(batch[key], t == 10 + episode)


KINDS = st.sampled_from(["flip", "truncate", "delete"])


@given(st.lists(st.tuples(st.integers(0, 5), KINDS, st.floats(0, 1)), max_size=6), st.booleans())
def test_random_damage_never_crashes_sampling_nor_reaches_a_batch(tmp_path_factory, harm, running):
    directory = tmp_path_factory.mktemp("damage")
    for episode in range(6):
        write_episode(directory, f"{NAME}{episode:032x}", make_arrays(episode, 10 + episode))
    replay = Replay(directory) if running else None
    for episode, kind, position in harm:
        for path in directory.glob(f"*{episode:032x}-*.npz"):
            damage(path, kind, position)
    replay = replay or Replay(directory)
    dataset = replay.dataset(3, 8)
    try:
        for _ in range(12):
            check_true(next(dataset))
    except UserError:
        assert len({episode for episode, _, _ in harm}) == 6, "whole episodes were not sampled"
    left = {path.name for path in directory.glob("*.npz")}
    assert running or replay.stats["loaded_steps"] == sum(int(n.split("-")[2][:-4]) for n in left)
    replay.close()


def test_damage_found_while_sampling_is_set_aside_uncounted_and_redrawn_alike(tmp_path, capsys):
    results = []
    for run in ("a", "b"):
        fill(tmp_path / run).close()
        path = sorted((tmp_path / run).glob("*.npz"))[1]
        data = path.read_bytes()
        path.write_bytes(data.replace(np.float32(105).tobytes(), np.float32(555).tobytes()))
        replay = Replay(tmp_path / run)
        assert replay.stats["total_steps"] == 89
        dataset = replay.dataset(4, 60)
        batches = [next(dataset) for _ in range(10)]
        results.append([places(batch) for batch in batches])
        for row in range(4):
            for sequence in sequences(batches, row):
                assert (np.diff(sequence[:, 1]) == 1).all(), "a gap that is_first does not tell"
        assert replay.stats["total_steps"] == 77 and replay.stats["damaged_episodes"] == 1
        assert path.with_name(path.name + ".damaged").exists() and not path.exists()
        assert Replay(tmp_path / run).stats["total_steps"] == 77
    assert results[0] == results[1]
    assert not (np.array(results)[..., 0] == 1).any(), "a damaged episode was delivered"
    assert capsys.readouterr().out.count("Set aside damaged episode") == 2


def test_damage_found_at_start_is_named_in_one_line_and_the_run_goes_on(tmp_path, capsys):
    fill(tmp_path, (20, 20, 20)).close()
    odd = {"image": np.zeros((10, 3, 3, 1), np.uint8)}
    arrays = make_arrays(5, 9)
    for digit, content in enumerate(
        [arrays | odd, {k: v for k, v in arrays.items() if k != "image"}, {"x": np.zeros(3)}]
    ):
        np.savez(tmp_path / f"{NAME}{digit:032x}-9.npz", **content)
    (tmp_path / f"{NAME}{14:032x}-9.npz").write_bytes(b"")
    (tmp_path / "holiday.npz").write_bytes(b"PK")
    replay = Replay(tmp_path)
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "5 damaged episode files" in output
    assert replay.stats["total_steps"] == 60 and replay.stats["damaged_episodes"] == 5
    check_rows(next(replay.dataset(2, 5)))
    assert len(list(tmp_path.glob("*.damaged"))) == 5


def test_an_episode_pruned_after_it_was_found_damaged_is_no_obstacle(tmp_path):
    replay = fill(tmp_path, (20, 20), capacity=40)
    oldest = min(tmp_path.glob("*.npz"))
    os.truncate(oldest, 300)
    dataset = replay.dataset(4, 6)
    dataset._submit(dataset._next_plan())
    assert oldest.name.rpartition("-")[0] in {p.episode for row in dataset._plan for p in row}
    add_episode(replay, 2, 20)
    assert not oldest.exists()
    check_rows(next(dataset))


def test_a_full_disk_while_collecting_loses_no_row_and_the_next_start_goes_on(tmp_path):
    replay = Replay(tmp_path)
    with file_size_limit(2000), pytest.raises(UserError, match="Could not write.*Make room"):
        for rows in range(1000):
            replay.add_step(make_row(3, rows))
    for t in range(rows, rows + 5):
        replay.add_step(make_row(3, t))
    replay = Replay(tmp_path)
    assert rows > 10
    assert replay.stats["total_steps"] == rows + 4, "a whole row was lost or a torn one kept"
    add_episode(replay, 4, 5)
    check_rows(next(replay.dataset(2, 8)))


def test_a_full_disk_while_storing_keeps_the_journal_for_the_next_start(tmp_path):
    replay = Replay(tmp_path)
    add_rows(replay, 3, 40)
    with file_size_limit(1000), pytest.raises(UserError, match="Could not write.*Make room"):
        replay.end_episodes()
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"], "half a file stayed"
    assert Replay(tmp_path).stats["total_steps"] == 39


def test_a_full_disk_while_pruning_counts_nothing_twice(tmp_path):
    fill(tmp_path, (20, 20, 20))
    replay = Replay(tmp_path, capacity=40)
    with file_size_limit(10), pytest.raises(UserError, match="Make room"):
        replay.prune()
    assert replay.stats["total_steps"] == 60, "counted as pruned, but still there"
    replay.prune()
    assert (replay.stats["total_steps"], replay.stats["loaded_steps"]) == (60, 40)
    assert Replay(tmp_path).stats["total_steps"] == 60


def anonymous_memory():
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def test_stored_episodes_cost_no_anonymous_memory(tmp_path):
    arrays = make_arrays(0, 500)
    arrays["image"] = np.zeros((501, 64, 64, 1), np.uint8)
    for episode in range(40):
        write_episode(tmp_path, f"{NAME}{episode:032x}", arrays)
    before = anonymous_memory()
    replay = Replay(tmp_path)
    dataset = replay.dataset(16, 50)
    for _ in range(50):
        next(dataset)
    assert anonymous_memory() - before < 30 * 2**20, "80 MB of episodes were read into memory"
    replay.close()
