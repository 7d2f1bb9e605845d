"""The real command on real files: files, pictures, errors and speed."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from result_files import GAMES, write_logdir, write_run

import dreamerv2
from dreamerv2 import plot
from dreamerv2.common.results import figures, formats, stats

ROOT = pathlib.Path(dreamerv2.__file__).parents[1]


@pytest.fixture
def logdir(tmp_path):
    return write_logdir(tmp_path / "logs")


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
    environment = {**os.environ, "MPLBACKEND": "Qt4Agg"}  # which matplotlib no longer has
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "curves.png").exists()


def test_several_folders_with_prefixes(logdir, tmp_path):
    other = tmp_path / "other"
    write_run(other / "atari_pong" / "a" / "0", [1, 2])
    flags = ["--indir", logdir, other, "--outdir", tmp_path / "out", "--tasks", "pong"]
    for prefix, methods in (([], "logs_a logs_b other_a"), (["x", "y"], "x_a x_b y_a")):
        loaded = plot.load(plot.parse_args([*map(str, flags), "--prefix", *prefix]))
        assert {run.method for run in loaded.items} == {*methods.split()}


def test_the_scores_folder_itself_can_be_drawn(tmp_path):
    draw("--indir", ROOT / "scores", "--outdir", tmp_path, "--baselines", "--tasks", "pong", "cup")
    assert "| dreamerv2_schedules | 1 | 1 | 2e+08 |" in (tmp_path / "aggregate.md").read_text()


def test_refused_command_leaves_nothing(logdir, tmp_path, capsys):
    out = ["--outdir", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert "No metrics.jsonl" in message(capsys, "--indir", tmp_path / "empty", *out)
    assert "no file or folder" in message(capsys, "--indir", tmp_path / "missing", *out)
    text = message(capsys, "--indir", logdir, *out, "--yaxis", "eval_retrun")
    assert "'eval_retrun'" in text and "Did you mean 'eval_return'?" in text
    assert text.startswith("None of the 8 metrics.jsonl")
    assert not (tmp_path / "out").exists(), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--bins", "0"], "must be above 0"),
        (["--bins", "inf"], "must be above 0, finite"),
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


def test_limits_and_references_in_the_picture(logdir, tmp_path):
    flags = ["--indir", logdir, "--outdir", tmp_path, "--tasks", "pong", "--ylim", "0", "30"]
    args = plot.parse_args([str(f) for f in [*flags, "--xlim", "0", "2e5"]])
    curve = formats.Curve("atari_pong", "a", *np.array([[1e4, 6e4], [1, 2], [0, 1], [2, 3]]))
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


def test_one_game_and_55_are_legible(tmp_path):
    """Panels keep a readable size, no two overlap, and the legend stays clear of them."""
    for count in (1, 2, 5, 7, 20, 55):
        fig, axes = figures.panels(count, ["a method with a name"] * 8, "x", "y")
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
    assert len(set(map(str, figures.palette(["contrast"], 12)))) == 12, "12 methods need 12 colors"


@pytest.mark.slow
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
    curve = formats.Curve("crafter_reward", "_exp", *np.ones((4, 3)))
    args = plot.parse_args(["--indir", "x", "--outdir", "y"])
    figure = plot.draw_curves([curve], {"_exp": "red"}, "loss", args)
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_exp"]
    assert figure.axes[0].get_title() == "Crafter Reward", "its suite is hidden"


def test_an_outdir_that_cannot_be_written_is_one_sentence(logdir, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "deep" / "out"):
        assert "--outdir: cannot write" in message(capsys, "--indir", logdir, "--outdir", out)
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "out" / "curves.png").mkdir(parents=True)
    said = message(capsys, "--indir", logdir, "--outdir", tmp_path / "out")
    assert "curves.png" in said and "Is a directory" in said


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alone", [True, False])
def test_a_curve_that_ends_in_nan_is_left_out_of_the_aggregate(logdir, tmp_path, capsys, alone):
    rows = ["atari_pong,broken,1e6,1,1,2", "atari_pong,broken,2e6,nan,nan,2"]
    file = tmp_path / "x.csv"
    file.write_text("\n".join([",".join(formats.CURVE_COLUMNS), *rows]) + "\n")
    draw("--indir", file, *([] if alone else [logdir]), "--outdir", tmp_path / "out")
    said = "the last value is not finite, so not in the aggregate: broken on atari_pong"
    assert said in capsys.readouterr().out
    assert (tmp_path / "out" / "aggregate.md").exists() != alone
    assert alone or "broken" not in (tmp_path / "out" / "aggregate.md").read_text()
