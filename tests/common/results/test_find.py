"""Runs are found at any depth, named, read once, and all skipped files are counted."""

import json

import numpy as np
import pytest
from result_files import write_logdir, write_run

from dreamerv2.common.errors import UserError
from dreamerv2.common.results import find, formats


@pytest.fixture
def logdir(tmp_path):
    return write_logdir(tmp_path / "logs")


def load(*indirs):
    """Load what plot.py would draw of these folders, into plots/ of the first."""
    loaded = find.load(dict.fromkeys(indirs, ""), indirs[0] / "plots")
    return find.distinct(loaded.items), loaded.notes


def names(runs):
    return {run[:3] for run in runs}


def write_plots(folder, kind="png"):
    """Write the files by which a folder of plots is known, with a run of another method."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"curves.{kind}").touch()
    run = formats.Run("atari_pong", "drawn", "0", np.arange(2.0), np.arange(2.0))
    formats.write_results(folder / "runs.json", [run])
    return folder


def test_names_come_from_the_config_first(tmp_path):
    logs = tmp_path / "logs"
    config = {"task": "atari_jamesbond", "seed": 7, "rssm": {"task": "no"}}
    write_run(logs / "deep" / "er" / "atari_pong" / "mine" / "3", [1])
    write_run(logs / "flat", [1], config=config)
    write_run(logs / "atari_james_bond" / "lr3" / "0", [1], config=config)
    assert names(load(logs)[0]) == {
        ("atari_pong", "mine", "3"),
        ("atari_jamesbond", "flat", "7"),
        ("atari_jamesbond", "lr3", "7"),
    }


def test_a_number_is_no_name_of_a_method(tmp_path):
    config = {"task": "atari_pong", "seed": 0, "rssm": {"deter": 8}}
    run = write_run(tmp_path / "runs" / "1" / "0", [1], config=config)
    for indir in (run.parents[1], run.parent):
        assert names(load(indir)[0]) == {("atari_pong", "runs", "0")}


def test_runs_with_equal_names_become_further_seeds(tmp_path):
    config = {"task": "dmc_walker_walk", "seed": 0, "replay": {"minlen": 50}}
    for seed in range(3):
        write_run(tmp_path / "logs" / "x" / str(seed), [seed], config=config)
    assert [run.seed for run in load(tmp_path / "logs")[0]] == ["0", "0#2", "0#3"]


def test_overlapping_folders_count_a_run_once(logdir):
    assert len(load(logdir, logdir / "atari_pong")[0]) == 8


def test_tasks_and_methods_are_regexes(logdir):
    runs, _ = load(logdir)
    chosen = find.select(runs, ["po.g$"], ["b", "^a$"])
    assert {run.task for run in chosen} == {"atari_pong"}
    assert find.order(["a", "b"], ["b", "^a$"]) == ["b", "a"]
    with pytest.raises(UserError, match="'pacman'.* atari_breakout, atari_pong"):
        find.select(runs, ["pacman"], [""])
    with pytest.raises(UserError, match="not a regular expression"):
        find.select(runs, [""], ["("])


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_plots_are_read_only_by_name(logdir, kind):
    write_plots(logdir / "plots", kind)
    other = write_plots(logdir / "plots2", kind)
    runs, notes = load(logdir)
    assert len(runs) == 8, "neither the plots of this command nor those of another are seeds"
    note = f"1 folders of plots skipped (--indir reads them by name), the first in {other}"
    assert notes == [note]
    assert {run.method for run in load(other)[0]} == {"drawn"}
    assert {run.method for run in load(other / "runs.json")[0]} == {"drawn"}


def test_runs_below_plots_and_results_without_plots_are_read(logdir):
    write_plots(logdir / "atari_pong")
    assert len(load(logdir)[0]) == 8
    (logdir / "handed").mkdir()
    (logdir / "atari_pong" / "runs.json").rename(logdir / "handed" / "runs.json")
    assert len(load(logdir)[0]) == 9


def test_results_of_the_release_and_curves_are_read(tmp_path):
    entry = {"task": "atari_pong", "method": "old", "seed": "i1_0", "xs": [1e6, 2e6], "ys": [1, 2]}
    (tmp_path / "old.json").write_text(json.dumps([entry, {**entry, "seed": None}]))
    (tmp_path / "unrelated.json").write_text('{"a": [1]}')
    curve = "task,method,step,mean,std,seeds\natari_pong,mine,1000000,3.5,0.5,4\n"
    (tmp_path / "curves.csv").write_text(curve)
    loaded = find.load({tmp_path: ""}, tmp_path / "plots")
    curve, *runs = sorted(loaded.items, key=lambda item: item.method)
    assert [run.seed for run in runs] == ["i1_0", "None"]
    assert runs[0].ys.tolist() == [1, 2] and curve.high.tolist() == [4]
    assert "1 other .json and .csv files skipped" in loaded.notes[0]
    formats.write_results(tmp_path / "again.json", runs)
    again = formats.read_results(tmp_path / "again.json")
    assert str(again) == str(runs), "the written format must be readable"
    with pytest.raises(UserError, match="in none of the formats"):
        load(tmp_path / "unrelated.json")


def test_files_that_are_no_results_are_counted(logdir):
    (logdir / "latin.csv").write_bytes(b"task,method,step,mean,std,seeds\nt\xe9,m,1,1,1,1\n")
    entry = {"task": "atari_pong", "method": "old", "seed": 0, "xs": [1], "ys": [1]}
    for name in ("task", "method"):
        (logdir / f"{name}.json").write_text(json.dumps([{**entry, name: 3}]))
    (logdir / "nested.json").write_text("[" * 100_000)
    runs, notes = load(logdir)
    assert {run.method for run in runs} == {"a", "b"}
    assert notes == [f"4 other .json and .csv files skipped, the first in {logdir / 'latin.csv'}"]
    with pytest.raises(UserError, match="in none of the formats"):
        load(logdir / "latin.csv")


def test_damaged_lines_and_runs_without_the_metric_are_counted(logdir):
    damaged = logdir / "atari_pong" / "a" / "0" / "metrics.jsonl"
    damaged.write_text(damaged.read_text() + '{"step": 5, "eval_return": \n{"ste')
    other = write_run(logdir / "atari_pong" / "c" / "0", [1], metric="train_return")
    runs, notes = load(logdir)
    assert len(runs) == 8 and notes == [
        f"2 damaged lines skipped, the first in {damaged}",
        f"1 runs without 'eval_return' over 'step' skipped, the first in {other / 'metrics.jsonl'}",
    ]


def test_train_return_is_read_if_no_run_has_eval_return(tmp_path):
    write_run(tmp_path / "t" / "m" / "0", [1, 2], metric="train_return")
    assert find.load({tmp_path: ""}, tmp_path / "plots").yaxis == "train_return"


def test_runs_that_end_episodes_early_are_named(tmp_path):
    """A few frames without a point lost would pass for half a human."""
    for seed, limit in (("0", 100), ("1", 27000)):
        run = write_run(tmp_path / "runs" / seed, [-2])
        config = f"task: atari_pong\nseed: {seed}\naction_repeat: 4\ntime_limit: {limit}\n"
        (run / "config.yaml").write_text(config)
    _, (note,) = load(tmp_path / "runs")
    assert "1 runs end episodes early: not comparable with scores of whole ones" in note


def test_error_without_results_names_the_plots_that_were_skipped(tmp_path):
    write_plots(tmp_path / "all" / "old")
    with pytest.raises(UserError, match=r"No metrics.jsonl.* 1 folders of plots skipped"):
        load(tmp_path / "all")


def test_values_that_are_all_nan_are_no_misspelling(tmp_path):
    write_run(tmp_path / "logs" / "atari_pong" / "m" / "0", [np.nan, np.inf])
    with pytest.raises(UserError, match="its values are not finite") as error:
        load(tmp_path / "logs")
    assert "Did you mean" not in str(error.value)


def test_large_files_are_read_in_parallel(logdir, monkeypatch):
    files = [*logdir.rglob("metrics.jsonl")]
    expected = find.read_many(files, "step", "eval_return")
    monkeypatch.setattr(find, "PARALLEL_BYTES", 0)
    found = find.read_many(files, "step", "eval_return")
    assert [*found] == files
    assert all(np.array_equal(found[f][:2], expected[f][:2]) for f in files)
