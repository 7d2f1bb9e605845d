"""Find training runs in folders, name them, and load one metric of each."""

import collections
import concurrent.futures
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.results import crafter, formats
from dreamerv2.common.results.formats import Curve, Run

METRICS = "metrics.jsonl"
# Folders with thousands of other files, which take longer to list than the runs to read.
DATA_FOLDERS = {"train_episodes", "eval_episodes", "checkpoints", "videos"}
PARALLEL_BYTES = 50e6  # of metrics, above which several processes read faster than one
Problems = dict[str, list[pathlib.Path]]  # text of a note -> files; one place for each count
Source = tuple[pathlib.Path, pathlib.Path]  # a file and the --indir below which it is


class Loaded(NamedTuple):
    """Runs and curves, their metric `yaxis`, and `notes` about skipped files."""

    items: list[Run | Curve]
    yaxis: str
    notes: list[str]


def load(
    indirs: dict[pathlib.Path, str],
    exclude: pathlib.Path,
    xaxis: str = "step",
    yaxes: Sequence[str] = ("eval_return", "train_return"),
) -> Loaded:
    """Read the first of the metrics `yaxes` that any run has, see _load and find_sources."""
    problems: Problems = collections.defaultdict(list)
    found = [(file, indir) for indir in indirs for file in find_sources(indir, exclude)]
    found = _skip(found, problems)
    # Folders may overlap; a run must not count as two seeds.
    files = [*{file.resolve(): (file, indir) for file, indir in reversed(found)}.values()][::-1]
    for yaxis in yaxes:
        of_yaxis = problems.copy()
        items = _load(files, indirs, xaxis, yaxis, of_yaxis)
        if items:
            return Loaded(items, yaxis, _notes(of_yaxis))
    nothing = _nothing_found([file for file, _ in files], indirs, xaxis, yaxes)
    raise UserError(nothing + "".join(f" Note: {note}." for note in _notes(problems)))


def _notes(problems: Problems) -> list[str]:
    return [f"{len(p)} {text}, the first in {p[0]}" for text, p in problems.items() if p]


def _skip(found: list[Source], problems: Problems) -> list[Source]:
    """Drop unreadable files, and folders of plots below `indir`."""
    closed = [file for file, _ in found if not os.access(file, os.R_OK)]  # dangling links too
    below = [file.parent for file, indir in found if indir not in (file, file.parent)]
    plots = [folder for folder in dict.fromkeys(below) if is_plots(folder)]
    problems["files that cannot be opened skipped"] = closed
    problems["folders of plots skipped (--indir reads them by name)"] = plots
    return [
        (file, indir)
        for file, indir in found
        if file not in closed and (file.parent not in plots or indir in (file, file.parent))
    ]


def is_plots(folder: pathlib.Path) -> bool:
    """Return whether plot.py wrote this folder, whose results are no further seeds."""
    drawn = (folder / "curves.png").exists() or (folder / "curves.pdf").exists()
    return drawn and (folder / "runs.json").exists() and not (folder / METRICS).exists()


def _load(
    files: list[Source],
    indirs: dict[pathlib.Path, str],
    xaxis: str,
    yaxis: str,
    problems: Problems,
) -> list[Run | Curve]:
    """Read all files, with the prefixes of `indirs` before their methods."""
    metrics = read_many([file for file, _ in files if file.name == METRICS], xaxis, yaxis)
    items: list[Run | Curve] = []
    for file, indir in files:
        if file.name == METRICS:
            xs, ys, damaged = metrics[file]
            problems["damaged lines skipped"] += [file] * damaged
            problems[f"runs without '{yaxis}' over '{xaxis}' skipped"] += [] if len(xs) else [file]
            found = [Run(*_names(file.parent, indir, problems), xs, ys)]
        else:
            read = formats.read_curves if file.suffix == ".csv" else formats.read_results
            found = read(file)
            if found is None and file == indir:
                raise UserError(f"The file '{file}' is in none of the formats of scores/README.md.")
            problems["other .json and .csv files skipped"] += [file] if found is None else []
        for item in found or []:
            if len(item.xs):
                method = "_".join(filter(None, (indirs[indir], item.method)))
                items.append(item._replace(method=method))
    return items


def _names(folder: pathlib.Path, indir: pathlib.Path, problems: Problems) -> tuple[str, str, str]:
    """Return task, method and seed of a run; report an unreadable config and short episodes."""
    config = read_names(folder / "config.yaml")
    if config is None:
        problems["unreadable config.yaml skipped"] += [folder / "config.yaml"]
    elif ends_early(config):
        text = "runs end episodes early: not comparable with scores of whole ones"
        problems[text] += [folder / METRICS]
    return identify(folder, indir, config or {})


def read_many(
    files: Sequence[pathlib.Path], xaxis: str, yaxis: str
) -> dict[pathlib.Path, tuple[np.ndarray, np.ndarray, int]]:
    """Read two metrics from many files, see read_metrics; large ones in parallel."""
    read = functools.partial(formats.read_metrics, xaxis=xaxis, yaxis=yaxis)
    if (xaxis, yaxis) == ("step", "crafter_score"):
        read = crafter.read_scores
    if sum(file.stat().st_size for file in files) < PARALLEL_BYTES:
        return dict(zip(files, map(read, files), strict=True))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        return dict(zip(files, pool.map(read, files), strict=True))


def _nothing_found(
    files: list[pathlib.Path], indirs: Iterable[pathlib.Path], xaxis: str, yaxes: Sequence[str]
) -> str:
    metrics = [file for file in files if file.name == METRICS]
    if not metrics:
        places = " or ".join(f"'{indir}'" for indir in indirs)
        return f"No {METRICS}, .json results or .csv curves were found at any depth of {places}."
    names = sorted(set().union(*(formats.metric_names(file) for file in metrics)))
    wanted = " or ".join(f"'{yaxis}'" for yaxis in yaxes)
    nothing = f"None of the {len(metrics)} {METRICS} found has numbers for {wanted} over '{xaxis}'"
    if xaxis in names and not {*yaxes}.isdisjoint(names):
        return f"{nothing}: its values are not finite, or '{xaxis}' is in none of its lines."
    hint = nearest(yaxes[0] if xaxis in names else xaxis, names)
    return f"{nothing}, only {', '.join(names) or 'nothing readable'}.{hint}"


def find_sources(indir: pathlib.Path, exclude: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files of results at or below `indir`, without those of the folder `exclude`."""
    if indir.is_file():
        yield indir
    elif not indir.is_dir():
        raise UserError(f"There is no file or folder '{indir}' to read runs from.")
    visited, roots = {exclude.resolve()}, [indir]
    for root in roots:  # Links come last, since a folder is named by its own place if it has one.
        for folder, subfolders, files in os.walk(root):
            here = pathlib.Path(folder)
            if here.resolve() in visited:
                subfolders.clear()
                continue
            visited.add(here.resolve())
            subfolders[:] = sorted(set(subfolders) - DATA_FOLDERS)
            roots += [here / name for name in subfolders if (here / name).is_symlink()]
            # Other files in the folder of a run belong to the run (checkpoints, evaluations).
            names = [METRICS] if METRICS in files else sorted(files)
            yield from (here / n for n in names if n == METRICS or n.endswith((".json", ".csv")))


def identify(
    folder: pathlib.Path, indir: pathlib.Path, config: dict[str, str]
) -> tuple[str, str, str]:
    """Name task, method and seed of a run by its config.yaml, then by .../task/method/seed.

    If the config names another task, the method is the path below `indir` without the seed.
    """
    indir = indir.parent if indir.is_file() else indir
    # The names as given, not the targets of links: they are the layout of the user.
    folder, indir = (pathlib.Path(os.path.abspath(path)) for path in (folder, indir))
    parts = ("", "", *folder.parts)[-3:]
    task = config.get("task", parts[0])
    if fold(task) == fold(parts[0]):
        method = parts[1]
    else:
        below = [name for name in folder.relative_to(indir).parts if not name.isdigit()]
        named = indir.parent if indir.name.isdigit() else indir
        method = "_".join(below) or named.name
    return task, config.get("method", method), config.get("seed", parts[2])


def fold(task: str) -> str:
    """Map spellings of a task to one: 'atari_jamesbond' and 'atari_James_Bond'."""
    return task.lower().replace("_", "").replace("ballincup", "cup")


def read_names(path: pathlib.Path) -> dict[str, str] | None:
    """Read names and limits of a run: empty without a config.yaml, None if it is unreadable."""
    if not path.is_file():
        return {}
    pattern = r"^(task|method|seed|time_limit|action_repeat):[ \t]*['\"]?([^'\"#\s]+)"
    try:  # Parsing the YAML of fifty runs would take longer than reading their metrics.
        return dict(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return None


def ends_early(config: dict[str, str]) -> bool:
    """Return whether Atari games end sooner than those of the published scores."""
    try:
        limit = float(config.get("time_limit", 0)) * float(config.get("action_repeat", 1))
    except ValueError:
        return False
    return config.get("task", "").startswith("atari_") and 0 < limit < formats.WHOLE_GAME


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Number the seeds of runs that share task, method and seed."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        copies = groups.setdefault(run[:3], [])
        seed = f"{run.seed}#{len(copies) + 1}" if copies else run.seed
        copies.append(run._replace(seed=seed))
    return [run for copies in groups.values() for run in copies]


def select(items: Sequence[Any], tasks: Sequence[str], methods: Sequence[str]) -> list[Any]:
    """Return the runs or curves whose task and method match one of the regexes each."""
    ranks = [(rank(item.task, tasks), rank(item.method, methods)) for item in items]
    chosen = [item for item, found in zip(items, ranks) if None not in found]
    if not chosen:
        known = [sorted({item[column] for item in items}) for column in (0, 1)]
        raise UserError(
            f"None of the {len(items)} runs matches --tasks {' '.join(tasks)!r} and --methods "
            f"{' '.join(methods)!r}; there are the tasks {', '.join(known[0])} and the methods "
            f"{', '.join(known[1])}."
        )
    return chosen


def rank(name: str, patterns: Sequence[str]) -> int | None:
    """Return the index of the first regex found in the name, None if there is none."""
    try:
        return next((i for i, pattern in enumerate(patterns) if re.search(pattern, name)), None)
    except re.error as error:
        raise UserError(f"'{error.pattern}' is not a regular expression: {error.msg}.") from error


def order(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Sort the distinct names by the regex that they match, then by name."""
    return sorted(set(names), key=lambda name: (rank(name, patterns), name))
