"""Draw learning curves and compare scores: load runs -> aggregate -> draw.

    python plot.py --indir ~/logdir --outdir ~/plots
    python plot.py --indir ~/logdir --outdir ~/plots --xaxis step --yaxis eval_return --bins 1e6

Writes curves.png and .pdf (a panel per task), runs.json (the binned runs, for other tools), and
for Atari games aggregate.png, .pdf, .md, .csv and .json (human-normalized metrics of all games).
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

# Importing matplotlib fails on the value that a notebook exports, or one of an old version.
os.environ["MPLBACKEND"] = "agg"

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamerv2.common.errors import UserError
from dreamerv2.common.results import figures, find, scores, stats
from dreamerv2.common.results.formats import Curve, Run, write_results


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with status 2 and one sentence after a UserError."""
    args = parse_args(argv)
    try:
        with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a name is a plain $
            make_plots(args)
    except (UserError, OSError) as error:
        if isinstance(error, OSError):  # no permission, a full disk
            error = f"--outdir: cannot write '{error.filename or args.outdir}': {error.strerror}."
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags; argparse exits with status 2 on unknown ones."""
    parser = argparse.ArgumentParser(
        prog="dreamerv2-plot", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flag = parser.add_argument
    flag("--indir", nargs="+", type=pathlib.Path, required=True, help="folders of runs, or files")
    flag("--outdir", type=pathlib.Path, required=True, help="folder to write to")
    flag("--prefix", nargs="*", help="put before the methods of each --indir (default: its name)")
    flag("--xaxis", default="step", help="metric along x (default: step, in environment frames)")
    flag("--yaxis", help="metric along y (default: eval_return, else train_return),\n"
         "or crafter_score of the training episodes, from crafter_train/stats.jsonl")  # fmt: skip
    flag("--bins", type=float, help="bin size along x (default: about 30 bins for each task)")
    flag("--tasks", nargs="+", default=[""], help="regexes of the tasks to draw")
    flag("--methods", nargs="+", default=[""], help="regexes of the methods, in legend order")
    flag("--baselines", nargs="*", default=["random", "human", "rainbow", "dreamerv2"],
         help="names of scores/ to draw (default: random human rainbow dreamerv2)")  # fmt: skip
    flag("--xlim", nargs=2, type=float, help="range of x")
    flag("--ylim", nargs=2, type=float, help="range of y")
    flag("--agg", choices=stats.AGGREGATES, default="mean", help="summary over seeds")
    flag("--band", choices=stats.BANDS, default="std", help="band; bootstrap is a 95%% interval")
    palettes = ", ".join(figures.PALETTES)
    flag("--palette", nargs="+", default=["contrast"],
         help=f"{palettes}, a matplotlib colormap, or a list of colors")  # fmt: skip
    flag("--format", nargs="+", choices=["png", "pdf"], default=["png", "pdf"])
    return parser.parse_args(argv)


def make_plots(args: argparse.Namespace) -> None:
    """Load, aggregate, draw and write."""
    scores.check_baselines(args.baselines)
    figures.check_limits("--xlim", args.xlim)
    figures.check_limits("--ylim", args.ylim)
    data = load(args)
    given = [item for item in data.items if isinstance(item, Curve)]
    runs = find.distinct(item for item in data.items if isinstance(item, Run))
    runs = stats.bin_runs(runs, args.bins)
    names = dict.fromkeys(run[:2] for run in runs)
    groups = [[run for run in runs if run[:2] == name] for name in names]
    curves = [*(stats.summarize(group, args.agg, args.band) for group in groups), *given]
    methods = find.order([curve.method for curve in curves], args.methods)
    colors = dict(zip(methods, figures.palette(args.palette, len(methods)), strict=True))
    args.outdir.mkdir(parents=True, exist_ok=True)
    save(draw_curves(curves, colors, data.yaxis, args), args, "curves")
    write_results(args.outdir / "runs.json", runs)  # Beside curves.*: see find.is_plots.
    if data.yaxis.endswith("_return"):  # The published scores are returns.
        compare(runs, given, colors, args)


# ---- Load


def load(args: argparse.Namespace) -> find.Loaded:
    """Read the runs of --indir, --tasks and --methods, with the names of scores/."""
    indirs = dict(zip(args.indir, prefixes(args), strict=True))
    yaxes = [args.yaxis] if args.yaxis else ["eval_return", "train_return"]
    loaded = find.load(indirs, args.outdir, args.xaxis, yaxes)
    items = [item._replace(task=scores.canonical(item.task)) for item in loaded.items]
    loaded = loaded._replace(items=find.select(items, args.tasks, args.methods))
    report(loaded)
    return loaded


def prefixes(args: argparse.Namespace) -> list[str]:
    """Return the prefix of each --indir: none, as given, or the folder's name."""
    if args.prefix is None:
        return [""] * len(args.indir)
    names = args.prefix or [indir.resolve().stem for indir in args.indir]
    if len(names) != len(args.indir):
        raise UserError(
            f"--prefix has {len(names)} names for {len(args.indir)} --indir; give one for each."
        )
    return names


def report(loaded: find.Loaded) -> None:
    """Print the runs that were read, and notes about skipped files."""
    items = loaded.items
    print(f"Read {loaded.yaxis} of {len(items)} runs")
    for key in ("task", "method"):
        names = sorted({getattr(item, key) for item in items})
        print(f"  {key}s ({len(names)}): {', '.join(names)}")
    notes = [*loaded.notes]
    names = [item[:3] for item in items if isinstance(item, Run)]
    if copies := len(names) - len({*names}):
        notes.append(f"{copies} runs share task, method and seed with another: counted as seeds")
    print("".join(f"  note: {note}\n" for note in notes), end="")


# ---- Aggregate


def compare(
    runs: Sequence[Run], curves: Sequence[Curve], colors: dict[str, Any], args: argparse.Namespace
) -> None:
    """Compute, write and draw the metrics of all games, beside published methods."""
    ours = scores.collect(runs, curves)
    unknown = {item.task for item in (*runs, *curves)} - {*scores.load_scores()}
    if unknown:
        print(f"  note: no human score, so not in the aggregate: {', '.join(sorted(unknown))}")
    if endless := [c for c in curves if not np.isfinite(c.mid[-1])]:
        names = ", ".join(f"{curve.method} on {curve.task}" for curve in endless)
        print(f"  note: the last value is not finite, so not in the aggregate: {names}")
    if not ours:
        return
    tasks = {task for method in ours for task in method.tasks}
    names = [name for name in args.baselines if name not in scores.REFERENCES]
    theirs = [scores.published(name).on(tasks) for name in names]
    methods = [*ours, *theirs]
    tables = scores.aggregate(methods), scores.improvements(ours, theirs), scores.profiles(methods)
    scores.write_tables(args.outdir, *tables)
    lines = {m: {"color": color, "label": figures.visible(m)} for m, color in colors.items()}
    lines |= {style["label"]: style for style in baseline_styles(args.baselines).values()}
    save(draw_aggregate(*map(pd.DataFrame, tables), lines), args, "aggregate")


# ---- Draw


def draw_curves(
    curves: Sequence[Curve], colors: dict[str, Any], yaxis: str, args: argparse.Namespace
) -> Figure:
    """Draw a panel per task."""
    tasks = sorted({curve.task for curve in curves})
    styles = baseline_styles(args.baselines if yaxis.endswith("_return") else [])
    # Published curves are known over environment frames only.
    published = scores.load_curves() if args.xaxis == "step" else ()
    xlabel = "environment frames" if args.xaxis == "step" else args.xaxis.replace("_", " ")
    labels = [*colors, *(style["label"] for style in styles.values())]
    fig, axes = figures.panels(len(tasks), labels, xlabel, yaxis.replace("_", " "))
    for ax, task in zip(axes, tasks, strict=True):
        title = task if task.startswith("crafter_") else task.partition("_")[2] or task
        ax.set_title(title.replace("_", " ").title(), fontsize=10)
        own = [curve for curve in curves if curve.task == task]
        theirs = [c for c in published if c.task == task and c.method in styles]
        for curve in theirs:
            ax.plot(curve.xs, curve.mid, zorder=2, **styles[curve.method])
        for curve in sorted(own, key=lambda c: -[*colors].index(c.method)):  # the first on top
            draw_curve(ax, curve, colors[curve.method])
        set_limits(ax, own, theirs, args)
        draw_lines(ax, task, styles, fixed=bool(args.ylim))
    figures.legend(fig, labels)
    return fig


def draw_curve(ax: Axes, curve: Curve, color: Any) -> None:
    """Draw a curve with its band; a dot if it has one point."""
    marker = "o" if len(curve.xs) == 1 else None
    ax.plot(curve.xs, curve.mid, color=color, label=curve.method, marker=marker, zorder=4)
    ax.fill_between(curve.xs, curve.low, curve.high, color=color, alpha=0.2, lw=0, zorder=3)


def set_limits(
    ax: Axes, own: Sequence[Curve], theirs: Sequence[Curve], args: argparse.Namespace
) -> None:
    """Set --xlim and --ylim, or else the range of our curves and of all that is visible there."""
    left, right = args.xlim or figures.limits([np.zeros(1), *(curve.xs for curve in own)], 0.0)
    bands = [(c, y) for c in own for y in (c.low, c.high)] + [(c, c.mid) for c in theirs]
    visible = [y[(c.xs >= left) & (c.xs <= right)] for c, y in bands]
    ax.set_xlim(left, right)
    ax.set_ylim(args.ylim or figures.limits(visible, 0.05))


def draw_lines(ax: Axes, task: str, styles: dict[str, dict[str, Any]], fixed: bool) -> None:
    """Draw final scores as lines; name those far outside the limits, or outside `fixed` ones."""
    left, right = ax.get_xlim()
    spans = [(line.get_label(), line.get_xdata()) for line in ax.lines]
    drawn = {label for label, xs in spans if min(xs) <= right and max(xs) >= left}
    known = scores.load_scores().get(task, {})
    values = {n: known[n] for n in styles if n in known and styles[n]["label"] not in drawn}
    low, high = ax.get_ylim()
    reach = 0.0 if fixed else (high - low) / 2
    near = {name: y for name, y in values.items() if low - reach <= y <= high + reach}
    for name, value in near.items():
        ax.axhline(value, zorder=1, **styles[name])
    if near and not fixed:
        edge = 0.03 * (high - low)
        ax.set_ylim(min(low, *near.values()) - edge, max(high, *near.values()) + edge)
    notes = [
        f"{'↑' if value > high else '↓'} {name} {figures.short(float(f'{value:.3g}'))}"
        for name, value in values.items()
        if name not in near
    ]
    box = {"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 1}
    style = {"va": "top", "fontsize": 6.5, "color": "#666666", "bbox": box if notes else None}
    ax.text(0.03, 0.97, "\n".join(notes), transform=ax.transAxes, zorder=5, **style)


def baseline_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a line style and a label for every reference."""
    labels = [name if name in scores.REFERENCES else name + scores.PUBLISHED for name in names]
    return {name: figures.gray_line(i, labels[i]) for i, name in enumerate(names)}


def draw_aggregate(
    metrics: pd.DataFrame, chances: pd.DataFrame, curves: pd.DataFrame, lines: dict[str, Any]
) -> Figure:
    """Draw metrics, profiles and probabilities of improvement; `lines` has the methods' styles."""
    count = len(set(metrics["method"]))
    heights = [0.28 * count + 0.3, max(2.6, 0.25 * len(chances))]
    fig = Figure(figsize=(13.0, sum(heights) + 1.9))
    grid = fig.add_gridspec(
        2, 6, height_ratios=heights, left=0.17, right=0.98, wspace=0.25,
        top=1 - 0.4 / (sum(heights) + 1.9), bottom=0.6 / (sum(heights) + 1.9),
        hspace=1.6 / sum(heights),
    )  # fmt: skip
    for column, (name, rows) in enumerate(metrics.groupby("metric", sort=False)):
        ax = fig.add_subplot(grid[0, column])
        ax.set_title(str(name).replace("_", " ").replace("iqm", "IQM"), fontsize=10)
        ax.margins(x=0.15)
        ax.use_sticky_edges = False  # Otherwise bars have no margin.
        figures.draw_intervals(ax, rows, [*rows["method"]] if column == 0 else [], lines)
    figures.draw_profiles(fig.add_subplot(grid[1, :2]), curves, lines)
    if len(chances):
        ax = fig.add_subplot(grid[1, 4:])
        ax.set_title("probability of improvement", fontsize=10)
        names = [f"{row.method} over {row.over}" for row in chances.itertuples()]
        figures.draw_intervals(ax, chances, names, lines)
        ax.axvline(0.5, color="#777777", linewidth=1, linestyle=":")
        ax.set_xlim(-0.03, 1.03)
    return fig


# ---- Write


def save(fig: Figure, args: argparse.Namespace, name: str) -> None:
    """Write a figure in every --format."""
    FigureCanvasAgg(fig)
    for kind in args.format:
        fig.savefig(args.outdir / f"{name}.{kind}", dpi=120)
        print(f"  wrote {args.outdir / name}.{kind}")


if __name__ == "__main__":
    main()
