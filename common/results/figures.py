"""Parts of figures: palettes, panels with a legend, intervals and profiles."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dreamerv2.common.errors import UserError, nearest

PALETTES = {
    # Okabe and Ito's colors for the color-blind, without yellow, which is too light on white.
    "contrast": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
    "discrete": "tab10",
    "gradient": "viridis",
}
# Five grays and six patterns make thirty different lines.
GRAYS = ["#777777", "#AAAAAA", "#444444", "#BBBBBB", "#999999"]
DASHES = ["--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))]


def palette(names: Sequence[str], count: int) -> list[Any]:
    """Return `count` colors of a palette, a matplotlib colormap or a list."""
    colors = PALETTES.get(names[0], names[0]) if len(names) == 1 else list(names)
    if names[0] in PALETTES and isinstance(colors, list) and count > len(colors):
        colors = "turbo"  # Similar colors are better than two methods in one color.
    if isinstance(colors, str) and colors in matplotlib.colormaps:
        colormap = matplotlib.colormaps[colors]
        spread = [colormap(x) for x in np.linspace(0.0, 0.85, count)]
        colors = [*colormap.colors] if colormap.N <= 20 else spread
    colors = [colors] if isinstance(colors, str) else colors
    for color in colors:
        if not matplotlib.colors.is_color_like(color):
            hint = nearest(str(color), [*PALETTES, *matplotlib.colormaps])
            raise UserError(f"'{color}' is no palette, matplotlib colormap or color.{hint}")
    return [colors[index % len(colors)] for index in range(count)]


def panels(
    count: int, labels: Sequence[str], xlabel: str, ylabel: str
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels with room for a legend of `labels` below."""
    width, height = (6.0, 3.8) if count == 1 else (3.2, 2.4) if count <= 6 else (2.3, 1.8)
    cols = count if count <= 3 else int(np.ceil(np.sqrt(1.1 * count)))
    rows = int(np.ceil(count / cols))
    full = cols * width + 0.5
    keys = 0.1 + 0.2 * np.ceil(len(labels) / legend_columns(full, labels))
    total = rows * height + keys + 0.5
    fig = Figure(figsize=(full, total))
    gap = 0.6  # inches; matplotlib's layout engines take seconds for 55 panels
    fig.subplots_adjust(
        left=0.85 / full,
        right=1 - 0.25 / full,
        bottom=(keys + 0.55) / total,
        top=1 - 0.35 / total,
        wspace=gap / (width - gap),
        hspace=gap / (height - gap),
    )
    fig.supxlabel(xlabel, fontsize=10, y=(keys + 0.05) / total, va="bottom")
    fig.supylabel(ylabel, fontsize=10, x=0.08 / full, ha="left")
    axes = fig.subplots(rows, cols, squeeze=False).flatten()
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        tidy(ax)
    return fig, [*axes[:count]]


def legend_columns(width: float, labels: Sequence[str]) -> int:
    """Return the number of labels that fit in one row of a figure `width` inches wide."""
    longest = max(map(len, labels))
    return min(len(labels), max(1, int(width / (0.6 + 0.075 * longest))))


def tidy(ax: Axes) -> None:
    """Set few short tick labels, a light grid and no box for a panel."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)


def short(value: float) -> str:
    """Write a number as an axis label: 200M, 7.5K, 0.25."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def limits(arrays: Sequence[np.ndarray], margin: float) -> tuple[float, float]:
    """Return the range of all finite values, widened by a fraction and never empty."""
    values = np.concatenate([[], *arrays])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if low == high:
        low, high = low - max(abs(low), 1.0) / 10, high + max(abs(high), 1.0) / 10
    return low - margin * (high - low), high + margin * (high - low)


def check_limits(flag: str, ends: Sequence[float] | None) -> None:
    """Raise UserError if the limits of a flag are no range; None is accepted."""
    if ends and not (np.isfinite(ends).all() and ends[0] < ends[1]):
        numbers = " and ".join(f"{end:g}" for end in ends)
        raise UserError(f"{flag} takes two finite numbers, the lower one first, not {numbers}.")


def legend(fig: Figure, order: Sequence[str]) -> None:
    """Draw one legend below all panels, with the labels in `order` that were drawn."""
    lines = {line.get_label(): line for ax in fig.axes for line in ax.lines}
    names = [name for name in order if name in lines]
    if names:
        style = {"ncol": legend_columns(fig.get_figwidth(), names), "frameon": False, "fontsize": 9}
        handles = [lines[name] for name in names]
        fig.legend(handles, [*map(visible, names)], loc="lower center", **style)


def visible(label: str) -> str:
    """Return a label for a legend; matplotlib would hide a label that begins with '_'."""
    return f" {label}" if label.startswith("_") else label


def gray_line(index: int, label: str) -> dict[str, Any]:
    """Return the line style of the index-th reference: a gray with its own dashes."""
    color, dashes = GRAYS[index % len(GRAYS)], DASHES[index % len(DASHES)]
    return {"color": color, "linestyle": dashes, "linewidth": 1.2, "label": label}


def draw_intervals(
    ax: Axes, rows: pd.DataFrame, names: Sequence[str], lines: dict[str, Any]
) -> None:
    """Draw the value and the confidence interval of each row, the first row on top."""
    tidy(ax)
    ax.set_yticks(range(len(names)) if names else [], names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for y, row in enumerate(rows.itertuples()):
        color = lines[row.method]["color"]
        if np.isfinite(row.low):
            ax.barh(y, row.high - row.low, 0.6, row.low, color=color, alpha=0.3)
        ax.plot([row.value], [y], marker="|", markersize=13, markeredgewidth=2.5, color=color)


def draw_profiles(ax: Axes, curves: pd.DataFrame, lines: dict[str, Any]) -> None:
    """Draw the fraction of runs above each human-normalized score."""
    tidy(ax)
    ax.set_title("performance profile", fontsize=10)
    ax.set(xlabel="human-normalized score", ylabel="fraction of runs above")
    for method, rows in curves.groupby("method", sort=False):
        color = lines[method]["color"]
        ax.plot(rows["tau"], rows["value"], **lines[method])
        ax.fill_between(rows["tau"], rows["low"], rows["high"], color=color, alpha=0.2, lw=0)
    ax.legend(fontsize=8, loc="upper right", edgecolor="none")
