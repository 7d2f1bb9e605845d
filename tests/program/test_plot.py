"""The real command on real files: what is found, read, drawn, written, refused, and how fast."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

import dreamerv2
from dreamerv2 import plot
from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.results import find as runs
from dreamerv2.common.results import formats as results
from dreamerv2.common.results import stats

ROOT = pathlib.Path(dreamerv2.__file__).parents[1]
GAMES = ("atari_pong", "atari_breakout")


def write_run(folder, ys, metric="eval_return", step=1000, config=None):
    folder.mkdir(parents=True)
    lines = [{"step": step * (i + 1), metric: float(y)} for i, y in enumerate(ys)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        Config(config).save(folder / "config.yaml")
    return folder


@pytest.fixture
def logdir(tmp_path):
    for task in GAMES:
        for method, shift in (("a", 0), ("b", 9)):
            for seed in range(2):
                ys = np.arange(60) + seed + shift
                write_run(tmp_path / "logs" / task / method / str(seed), ys)
    return tmp_path / "logs"


def draw(*flags):
    """Run the command in this process and return the runs that it wrote."""
    plot.main([str(flag) for flag in flags])
    outdir = flags[flags.index("--outdir") + 1]
    return json.loads((outdir / "runs.json").read_text())


def message(capsys, *flags):
    """Run the command, which must refuse, and return the sentence it says."""
    with pytest.raises(SystemExit) as error:
        plot.main([str(flag) for flag in flags])
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "Traceback" not in text
    return text


def test_defaults_alone_write_everything(logdir, tmp_path, capsys):
    out = tmp_path / "out"
    written = draw("--indir", logdir, "--outdir", out)
    names = ["curves.png", "curves.pdf", "runs.json"]
    names += [f"aggregate.{kind}" for kind in ("png", "pdf", "md", "csv", "json")]
    assert sorted(names) == sorted(path.name for path in out.iterdir())
    assert {(r["task"], r["method"], r["seed"]) for r in written} == {
        (t, m, s) for t in GAMES for m in "ab" for s in "01"
    }
    assert (out / "curves.pdf").read_bytes().startswith(b"%PDF")
    aggregate = json.loads((out / "aggregate.json").read_text())
    assert set(aggregate) == {"notes", "metrics", "improvement", "profiles"}
    assert {row["metric"] for row in aggregate["metrics"]} == set(stats.METRICS)
    assert "| dreamerv2 (published) | 2 |" in (out / "aggregate.md").read_text()
    assert "(2): atari_breakout, atari_pong" in capsys.readouterr().out


def test_the_command_line_itself(logdir, tmp_path):
    command = [sys.executable, ROOT / "plot.py", "--indir", logdir, "--outdir", tmp_path / "out"]
    flags = ["--xaxis", "step", "--yaxis", "eval_return", "--bins", "1e4", "--format", "png"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "curves.png").exists()
    done = subprocess.run(
        [*command, "--yaxis", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("None of the 8 metrics.jsonl")
    code = "import sys, dreamerv2.plot; sys.exit('tensorflow' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode


def test_bins_average_up_to_their_right_edge():
    run = results.Run("t", "m", "0", np.array([0.0, 1, 10, 11, 20, 35]), np.arange(6.0))
    binned = stats.bin_run(run, 10)
    assert binned.xs.tolist() == [0, 10, 20, 40]
    assert binned.ys.tolist() == [0, 1.5, 3.5, 5], "x belongs to (edge - size, edge]"


def test_default_bins_are_round(logdir, tmp_path):
    written = draw("--indir", logdir, "--outdir", tmp_path / "out")
    assert written[0]["xs"] == [2000.0 * i for i in range(1, 31)]
    assert written[0]["ys"][0] == 0.5


def test_names_come_from_the_config_first(tmp_path):
    logs = tmp_path / "logs"
    config = {"task": "atari_jamesbond", "seed": 7, "rssm": {"task": "no"}}
    write_run(logs / "deep" / "er" / "atari_pong" / "mine" / "3", [1])
    write_run(logs / "flat", [1], config=config)
    write_run(logs / "atari_james_bond" / "lr3" / "0", [1], config=config)
    written = draw("--indir", logs, "--outdir", tmp_path / "out")
    assert {(r["task"], r["method"], r["seed"]) for r in written} == {
        ("atari_pong", "mine", "3"),
        ("atari_james_bond", "flat", "7"),
        ("atari_james_bond", "lr3", "7"),
    }


def test_runs_that_look_the_same_are_kept_apart(tmp_path, capsys):
    config = {"task": "dmc_walker_walk", "seed": 0, "replay": {"minlen": 50}}
    for seed in range(3):
        write_run(tmp_path / "logs" / "x" / str(seed), [seed], config=config)
    written = draw("--indir", tmp_path / "logs", "--outdir", tmp_path / "out")
    assert [run["seed"] for run in written] == ["0", "0#2", "0#3"]
    assert "2 runs share task, method and seed" in capsys.readouterr().out


def test_several_folders_with_prefixes(logdir, tmp_path):
    other = tmp_path / "other"
    write_run(other / "atari_pong" / "a" / "0", [1, 2])
    flags = ["--indir", logdir, other, "--outdir", tmp_path / "out", "--tasks", "pong"]
    assert {r["method"] for r in draw(*flags, "--prefix")} == {"logs_a", "logs_b", "other_a"}
    assert {r["method"] for r in draw(*flags, "--prefix", "x", "y")} == {"x_a", "x_b", "y_a"}


def test_overlapping_folders_count_a_run_once(logdir, tmp_path):
    written = draw("--indir", logdir, logdir / "atari_pong", "--outdir", tmp_path / "out")
    assert len(written) == 8


def test_tasks_and_methods_are_regexes(logdir, tmp_path, capsys):
    flags = ["--indir", logdir, "--outdir", tmp_path / "out", "--baselines"]
    written = draw(*flags, "--tasks", "po.g$", "--methods", "b", "^a$")
    assert {r["task"] for r in written} == {"atari_pong"}
    assert runs.order(["a", "b"], ["b", "^a$"]) == ["b", "a"]
    text = message(capsys, *flags, "--tasks", "pacman")
    assert "'pacman'" in text and "atari_breakout, atari_pong" in text
    assert "not a regular expression" in message(capsys, *flags, "--methods", "(")


def test_plots_inside_the_logdir_are_not_read_again(logdir):
    for _ in range(2):
        written = draw("--indir", logdir, "--outdir", logdir / "plots")
    assert len(written) == 8


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_plots_of_another_outdir_are_read_only_by_name(logdir, capsys, kind):
    first, second, other = logdir / "plots1", logdir / "plots2", logdir.parent / "out"
    written = draw("--indir", logdir, "--outdir", first, "--format", kind)
    assert draw("--indir", logdir, "--outdir", second) == written
    assert f"1 folders of plots skipped (--indir reads them by name), the first in {first}" in (
        capsys.readouterr().out
    )
    if kind == "pdf":  # the rest has nothing to do with the format
        return
    shutil.copytree(first, logdir / "atari_pong", dirs_exist_ok=True)
    assert draw("--indir", logdir, "--outdir", other) == written, "runs below plots are runs"
    assert draw("--indir", first, "--outdir", other) == written
    assert draw("--indir", first / "runs.json", "--outdir", other) == written
    (logdir / "handed").mkdir()
    (first / "runs.json").rename(logdir / "handed" / "runs.json")
    assert len(draw("--indir", logdir, "--outdir", other)) == 16, "results without plots are read"


def test_only_plots_found_says_so(logdir, tmp_path, capsys):
    draw("--indir", logdir, "--outdir", tmp_path / "all" / "plots", "--format", "png")
    text = message(capsys, "--indir", tmp_path / "all", "--outdir", tmp_path / "out")
    assert text.startswith("No metrics.jsonl") and "1 folders of plots skipped" in text


def test_results_of_the_release_and_our_scores_are_read(tmp_path, capsys):
    entry = {"task": "atari_pong", "method": "old", "seed": "i1_0", "xs": [1e6, 2e6], "ys": [1, 2]}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old.json").write_text(json.dumps([entry, {**entry, "seed": None}]))
    (tmp_path / "logs" / "unrelated.json").write_text('{"a": [1]}')
    curve = "task,method,step,mean,std,seeds\natari_pong,mine,1000000,3.5,0.5,4\n"
    (tmp_path / "logs" / "curves.csv").write_text(curve)
    written = draw("--indir", tmp_path / "logs", "--outdir", tmp_path / "out")
    assert [r["seed"] for r in written] == ["i1_0", "None"] and written[0]["ys"] == [1, 2]
    output = capsys.readouterr().out
    assert "methods (2): mine, old" in output and "1 other .json and .csv" in output
    again = draw("--indir", tmp_path / "out" / "runs.json", "--outdir", tmp_path / "out2")
    assert again == written, "what we write we must read"
    assert "in none of the formats" in message(
        capsys, "--indir", tmp_path / "logs" / "unrelated.json", "--outdir", tmp_path / "out"
    )


def test_blank_lines_in_curves_are_no_rows(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("task,method,step,mean,std,seeds\nt,m,1,3,1,4\n\nt,m,2,5,1,4\n\n \n")
    (curve,) = results.read_curves(path)
    assert (curve.xs.tolist(), curve.mid.tolist()) == ([1, 2], [3, 5])
    path.write_text("task,method,step,mean,std,seeds\nt\n")
    with pytest.raises(UserError, match="should be numbers"):
        results.read_curves(path)


def test_files_that_are_no_results_are_counted(logdir, tmp_path, capsys):
    (logdir / "latin.csv").write_bytes(b"task,method,step,mean,std,seeds\nt\xe9,m,1,1,1,1\n")
    entry = {"task": "atari_pong", "method": "old", "seed": 0, "xs": [1], "ys": [1]}
    for name in ("task", "method"):
        (logdir / f"{name}.json").write_text(json.dumps([{**entry, name: 3}]))
    written = draw("--indir", logdir, "--outdir", tmp_path / "out")
    assert {run["method"] for run in written} == {"a", "b"}
    assert f"3 other .json and .csv files skipped, the first in {logdir / 'latin.csv'}" in (
        capsys.readouterr().out
    )
    flags = ["--indir", logdir / "latin.csv", "--outdir", tmp_path / "out"]
    assert "in none of the formats" in message(capsys, *flags)


def test_links_to_nothing_are_counted(logdir, tmp_path, capsys):
    lost = logdir / "atari_pong" / "c" / "0" / "metrics.jsonl"
    lost.parent.mkdir(parents=True)
    lost.symlink_to(tmp_path / "moved")
    assert len(draw("--indir", logdir, "--outdir", tmp_path / "out")) == 8
    note = f"1 files that cannot be opened skipped, the first in {lost}"
    assert note in capsys.readouterr().out
    assert note in message(capsys, "--indir", lost.parent, "--outdir", tmp_path / "out")


def test_an_unreadable_config_leaves_the_names_to_the_folders(logdir, tmp_path, capsys):
    config = logdir / "atari_pong" / "a" / "0" / "config.yaml"
    config.write_bytes(b"task: atari_qbert\nlogdir: \xff\n")
    written = draw("--indir", logdir, "--outdir", tmp_path / "out")
    assert len(written) == 8 and {run["task"] for run in written} == set(GAMES)
    assert f"1 unreadable config.yaml skipped, the first in {config}" in capsys.readouterr().out


def test_an_outdir_that_cannot_be_is_one_sentence(logdir, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "deep" / "out"):
        assert f"--outdir '{out}' cannot be made" in message(
            capsys, "--indir", logdir, "--outdir", out
        )
    assert (tmp_path / "file").read_text() == "kept"


def test_the_scores_folder_itself_can_be_drawn(tmp_path):
    draw("--indir", ROOT / "scores", "--outdir", tmp_path, "--baselines", "--tasks", "pong", "cup")
    assert "| dreamerv2_schedules | 1 | 1 | 2e+08 |" in (tmp_path / "aggregate.md").read_text()


def test_damaged_lines_are_skipped_and_counted(logdir, tmp_path, capsys):
    damaged = logdir / "atari_pong" / "a" / "0" / "metrics.jsonl"
    good = damaged.read_text().splitlines()
    bad = ['{"step": 5, "eval_return": ', '{"step": 6, "eval_re', "\0\0\0", '["eval_return"]']
    bad += [
        '{"step": 7, "eval_return": 1}{"step": 8, "eval_return": 1}',
        '{"a": \udcff"eval_return"}',
    ]
    lines = [*good[:30], *bad[:-1], *good[30:]]
    content = "\n".join(lines) + "\n" + bad[-1] + '\n{"step": 9, "eval_return": null}\n{"ste'
    damaged.write_text(content, errors="surrogateescape")
    xs, ys, count = results.read_metrics(damaged, "step", "eval_return")
    assert ys.tolist() == [*range(60)] and xs.tolist() == [1000 * (i + 1) for i in range(60)]
    assert count == len(bad) + 1, "every damaged line must be counted, null is none"
    draw("--indir", logdir, "--outdir", tmp_path / "out")
    assert f"{count} damaged lines skipped, the first in {damaged}" in capsys.readouterr().out


def test_two_halves_of_a_line_do_not_pass_for_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1\n"eval_return": 2}\n{"step": 3, "eval_return": 4}\n')
    xs, ys, damaged = results.read_metrics(path, "step", "eval_return")
    assert (xs.tolist(), ys.tolist(), damaged) == ([3], [4], 2)


def test_large_files_are_read_in_pieces_and_in_parallel(logdir, monkeypatch):
    files = [*logdir.rglob("metrics.jsonl")]
    expected = runs.read_many(files, "step", "eval_return")
    monkeypatch.setattr(results, "CHUNK", 100)
    monkeypatch.setattr(runs, "PARALLEL", 0)
    found = runs.read_many(files, "step", "eval_return")
    assert [*found] == files
    assert all(np.array_equal(found[f][:2], expected[f][:2]) for f in files)


def test_train_return_stands_in_and_runs_without_are_named(tmp_path, capsys):
    write_run(tmp_path / "logs" / "t" / "m" / "0", [1, 2], metric="train_return")
    draw("--indir", tmp_path / "logs", "--outdir", tmp_path / "out")
    assert "Read train_return of 1 runs" in capsys.readouterr().out
    write_run(tmp_path / "logs" / "t" / "m" / "1", [1, 2])
    draw("--indir", tmp_path / "logs", "--outdir", tmp_path / "out")
    assert "1 runs without 'eval_return' over 'step' skipped" in capsys.readouterr().out


def test_empty_results_say_what_was_looked_for(logdir, tmp_path, capsys):
    out = ["--outdir", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert "No metrics.jsonl" in message(capsys, "--indir", tmp_path / "empty", *out)
    assert "no file or folder" in message(capsys, "--indir", tmp_path / "missing", *out)
    text = message(capsys, "--indir", logdir, *out, "--yaxis", "eval_retrun")
    assert "'eval_retrun'" in text and "Did you mean 'eval_return'?" in text
    assert not (tmp_path / "out").exists(), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--bins", "0"], "must be above 0"),
        (["--bins", "inf"], "must be above 0, finite"),
        (["--bins", "nan"], "must be above 0, finite"),
        (["--bins", "1e-320"], "not tiny beside x (up to 60000)"),
        (["--xlim", "nan", "5"], "--xlim takes two finite numbers, the lower one first, not nan"),
        (["--ylim", "3", "inf"], "--ylim takes two finite numbers, the lower one first, not 3 and"),
        (["--xlim", "100", "50"], "--xlim takes two finite numbers, the lower one first, not 100"),
        (["--baselines", "rainbo"], "Did you mean 'rainbow'?"),
        (["--palette", "virids"], "Did you mean 'viridis'?"),
        (["--prefix", "a", "b"], "2 names for 1 --indir"),
    ],
)
def test_wrong_flags_are_one_sentence(logdir, tmp_path, capsys, flags, words):
    assert words in message(capsys, "--indir", logdir, "--outdir", tmp_path / "out", *flags)


@pytest.mark.parametrize("kind", stats.AGGREGATES)
@pytest.mark.parametrize("band", stats.BANDS)
def test_summaries_and_bands(kind, band):
    ys = np.array([[0.0, 0], [1, 1], [2, 2], [9, 9], [20, np.nan]])
    seeds = [
        results.Run("t", "m", str(i), np.array([1.0, 2])[np.isfinite(y)], y[np.isfinite(y)])
        for i, y in enumerate(ys)
    ]
    curve = stats.summarize(seeds, kind, band)
    middle = {"mean": [6.4, 3], "median": [2, 1.5], "iqm": [4, 1.5]}[kind]
    assert np.allclose(curve.mid, middle), "a seed that ended must not count any more"
    if band == "std":
        assert np.allclose(curve.high - curve.mid, [ys[:, 0].std(), ys[:4, 1].std()])
    elif band == "minmax":
        assert curve.low.tolist() == [0, 0] and curve.high.tolist() == [20, 9]
    else:
        assert (curve.low < curve.mid).all() and (curve.high > curve.mid).all()
        assert (curve.low >= 0).all() and (curve.high <= 20).all()


def test_holes_are_interpolated_and_ends_are_not():
    seeds = [
        results.Run("t", "m", "0", np.array([1.0, 3]), np.array([0.0, 4])),
        results.Run("t", "m", "1", np.array([1.0, 2, 3, 4]), np.full(4, 2.0)),
    ]
    assert stats.summarize(seeds, "mean", "std").mid.tolist() == [1, 2, 3, 2]


def test_limits_and_references_in_the_picture(logdir, tmp_path):
    flags = ["--indir", logdir, "--outdir", tmp_path, "--tasks", "pong", "--ylim", "0", "30"]
    args = plot.parse_args([str(f) for f in [*flags, "--xlim", "0", "2e5"]])
    curve = results.Curve("atari_pong", "a", *np.array([[1e4, 6e4], [1, 2], [0, 1], [2, 3]]))
    (panel,) = plot.draw_curves([curve], {"a": "red"}, "eval_return", args).axes
    assert panel.get_xlim() == (0, 2e5) and panel.get_ylim() == (0, 30)
    assert {line.get_label() for line in panel.lines} == {
        *("a", "human", "rainbow (published)", "dreamerv2 (published)")
    }
    flat = {line.get_label() for line in panel.lines if np.ptp(line.get_ydata()) == 0}
    assert "dreamerv2 (published)" in flat, (
        "its curve begins beyond the picture, its score does not"
    )
    assert panel.texts[0].get_text() == "↓ random -20.7", "off the picture, so told in words"
    args = plot.parse_args(["--indir", "x", "--outdir", "y"])
    (panel,) = plot.draw_curves([curve], {"a": "red"}, "model_loss", args).axes
    assert {line.get_label() for line in panel.lines} == {"a"}, "a loss has no human score"


def test_runs_whose_episodes_are_cut_are_named(tmp_path, capsys):
    """A few frames without a point lost would pass for half a human."""
    for seed, limit in (("0", 100), ("1", 27000)):
        folder = tmp_path / "runs" / "1" / seed
        folder.mkdir(parents=True)
        config = f"task: atari_pong\nseed: {seed}\naction_repeat: 4\ntime_limit: {limit}\n"
        (folder / "config.yaml").write_text(config)
        (folder / "metrics.jsonl").write_text('{"step": 400, "eval_return": -2}\n')
    flags = ["--outdir", tmp_path / "out", "--format", "png"]
    plot.main([str(x) for x in ("--indir", tmp_path / "runs", *flags)])
    said = capsys.readouterr().out
    assert (
        "1 runs end episodes early: not comparable with scores of whole ones, the first in " in said
    )
    assert "methods (1): runs\n" in said
    plot.main([str(x) for x in ("--indir", tmp_path / "runs" / "1", *flags)])
    assert "methods (1): runs\n" in capsys.readouterr().out, "a number is no method's name"


def test_one_game_and_55_are_legible(tmp_path):
    """Panels keep a readable size, no two overlap, and the legend stays clear of them."""
    from dreamerv2.common.results.figures import panels

    for count in (1, 2, 5, 7, 20, 55):
        fig, axes = panels(count, ["a method with a name"] * 8, "x", "y")
        boxes = [ax.get_window_extent() for ax in axes]
        assert all(box.width > 1.4 * fig.dpi and box.height > 1.0 * fig.dpi for box in boxes)
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs)
        assert min(box.y0 for box in boxes) > 0.7 * fig.dpi, "no room for axis label and legend"
        assert max(fig.get_size_inches()) < 25


def test_png_has_colors_of_the_palette(logdir, tmp_path):
    flags = ["--indir", logdir, "--outdir", tmp_path / "out", "--tasks", "pong", "--format", "png"]
    draw(*flags, "--palette", "#ff0000", "#00ff00")
    pixels = imread(tmp_path / "out" / "curves.png")[..., :3].reshape(-1, 3)
    for color in ([1, 0, 0], [0, 1, 0]):
        assert (np.abs(pixels - color).max(1) < 0.02).sum() > 100
    assert not (tmp_path / "out" / "curves.pdf").exists(), "only png was asked for"
    assert len(set(map(str, plot.palette(["contrast"], 12)))) == 12, "12 methods need 12 colors"


def test_fifty_long_runs_in_three_seconds(tmp_path):
    """50 runs of 10,000 lines, through the real command, import of matplotlib included."""
    line = '{{"step": {}, "{}": {}, "length": 1000.0, "train_total_steps": {}}}\n'
    text = "".join(
        line.format(i * 1000, "eval_return" if i % 10 == 0 else "train_return", i % 97, i)
        for i in range(10_000)
    )
    for task in (*GAMES, "atari_alien", "atari_qbert", "atari_skiing"):
        for seed in range(10):
            folder = tmp_path / "logs" / task / "a" / str(seed)
            folder.mkdir(parents=True)
            (folder / "metrics.jsonl").write_text(text)
    command = [sys.executable, ROOT / "plot.py", "--indir", tmp_path / "logs"]
    seconds = processor_time([*command, "--outdir", tmp_path / "out"])
    # A machine that needs longer for these imports and for json alone may need longer for all.
    plain = "import json, pathlib, sys, matplotlib.pyplot, pandas\n"
    plain += "for path in pathlib.Path(sys.argv[1]).rglob('*.jsonl'): "
    plain += "[json.loads(line) for line in path.open()]"
    limit = max(3, 2 * processor_time([sys.executable, "-c", plain, tmp_path / "logs"]))
    assert seconds < limit, f"50 runs of 10,000 lines took {seconds:.1f} s, not {limit:.1f}"


def processor_time(command: list) -> float:
    """Seconds of processor time: what else the machine does is not the command's fault."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_names_that_matplotlib_would_hide_or_typeset_are_shown(logdir, tmp_path):
    write_run(tmp_path / "odd" / "atari_pong" / "_exp" / "0", [1, 2])
    write_run(tmp_path / "odd" / "gym_CartPole-v1" / r"a$\frac$" / "0", [1, 2])
    for tasks, methods in (("pong", ["_exp"]), ("CartPole", [r"a$\frac$"])):
        out = tmp_path / tasks
        flags = ["--indir", tmp_path / "odd", "--outdir", out, "--tasks", tasks, "--baselines"]
        assert [run["method"] for run in draw(*flags)] == methods
        assert (out / "curves.png").stat().st_size > 0
    curve = results.Curve("gym_x", "_exp", *np.ones((4, 3)))
    args = plot.parse_args(["--indir", "x", "--outdir", "y"])
    figure = plot.draw_curves([curve], {"_exp": "red"}, "loss", args)
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_exp"]


def test_an_output_that_cannot_be_written_is_one_sentence(logdir, tmp_path, capsys):
    (tmp_path / "out" / "curves.png").mkdir(parents=True)
    said = message(capsys, "--indir", logdir, "--outdir", tmp_path / "out")
    assert "curves.png" in said and "Is a directory" in said


def test_linked_runs_are_found_once(logdir, tmp_path):
    config = {"task": "atari_pong", "seed": 7, "rssm": {"deter": 8}}
    run = write_run(tmp_path / "elsewhere" / "x", [5, 6], config=config)
    linked = logdir / "atari_pong" / "linked" / "3"
    linked.parent.mkdir()
    linked.symlink_to(run, target_is_directory=True)
    (logdir / "atari_pong" / "loop").symlink_to(logdir, target_is_directory=True)
    (logdir / "atari_breakout" / "Best").symlink_to(logdir / "atari_pong" / "a")
    (logdir / "Latest").symlink_to(logdir / "atari_pong" / "b" / "0")
    found = draw("--indir", logdir, "--outdir", tmp_path / "out", "--methods", "linked")
    assert [(run["task"], run["seed"]) for run in found] == [("atari_pong", "7")]
    found = draw("--indir", logdir, "--outdir", tmp_path / "out")
    assert {run["method"] for run in found} == {"a", "b", "linked"}, "a link gave a run its name"
    assert len(found) == 9


def test_json_that_is_too_deep_or_too_large_is_no_result(logdir, tmp_path, capsys):
    (logdir / "deep.json").write_text("[" * 100_000)
    number = "9" * 400
    entry = f'{{"task": "a", "method": "b", "seed": 0, "xs": [{number}], "ys": [1]}}'
    (logdir / "large.json").write_text(f"[{entry}]")
    assert len(draw("--indir", logdir, "--outdir", tmp_path / "out")) == 8
    assert "2 other .json and .csv files skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ['{"step": 5, "eval_return": %s}', '{"step": %s, "eval_return": 5}']
)
def test_integers_that_no_float_can_hold_are_left_out(logdir, tmp_path, line):
    file = write_run(logdir / "atari_pong" / "c" / "0", [1, 2]) / "metrics.jsonl"
    file.write_text(file.read_text() + line % ("9" * 400) + "\n")
    xs, ys, damaged = results.read_metrics(file, "step", "eval_return")
    assert (xs.tolist(), ys.tolist(), damaged) == ([1000, 2000], [1, 2], 0)


def test_a_folder_that_is_no_utf8_is_drawn_and_printed(tmp_path):
    write_run(tmp_path / "logs" / "atari_pong" / os.fsdecode(b"m\xff") / "0", [1, 2])
    write_run(tmp_path / "logs" / "atari_pong" / os.fsdecode(b"n\xff") / "0", [])
    out = tmp_path / os.fsdecode(b"out\xff")
    command = [sys.executable, ROOT / "plot.py", "--indir", tmp_path / "logs", "--outdir", out]
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert "methods (1): m\ufffd" in done.stdout.decode()
    assert (out / "aggregate.png").exists()


def test_values_that_are_all_nan_are_no_misspelling(tmp_path, capsys):
    write_run(tmp_path / "logs" / "atari_pong" / "m" / "0", [np.nan, np.inf])
    text = message(capsys, "--indir", tmp_path / "logs", "--outdir", tmp_path / "out")
    assert "the values of 'eval_return' are not finite" in text and "Did you mean" not in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alone", [True, False])
def test_a_curve_that_ends_in_nan_is_left_out_of_the_aggregate(logdir, tmp_path, capsys, alone):
    rows = ["atari_pong,broken,1e6,1,1,2", "atari_pong,broken,2e6,nan,nan,2"]
    file = tmp_path / "x.csv"
    file.write_text("\n".join([",".join(results.CURVE_COLUMNS), *rows]) + "\n")
    draw("--indir", file, *([] if alone else [logdir]), "--outdir", tmp_path / "out")
    said = "the last value is not finite, so not in the aggregate: broken on atari_pong"
    assert said in capsys.readouterr().out
    assert (tmp_path / "out" / "aggregate.md").exists() != alone
    assert alone or "broken" not in (tmp_path / "out" / "aggregate.md").read_text()
