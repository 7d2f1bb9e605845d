"""The command line of the benchmarks."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.measure import COLUMNS, Row
from dreamerv2 import validation
from dreamerv2.common.config import flags, paths
from dreamerv2.common.errors import UserError, nearest

# Name -> module and function. A module is imported on use, since some need TensorFlow.
TOPICS = {
    "roofline": ("roofline", "rows"),
    "policy": ("update", "policy"),
    "parts": ("parts", "rows"),
    "update": ("update", "update"),
    "environment": ("environment", "rows"),
    "replay": ("replay", "rows"),
    "startup": ("run", "startup"),
    "loop": ("run", "loop"),
    "memory": ("run", "memory"),
}
PRECISIONS = ("32", "16", "bfloat16")
TENSORFLOW = ("roofline", "policy", "parts", "update")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the benchmarks' own flags."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks",
        allow_abbrev=False,
        description="Measure the speed of every part of a training run on this machine. The "
        "roofline is a large matrix product and a large copy, measured in the same process. Other "
        "work on the machine distorts every figure. Further flags are options of the training, "
        "such as --rssm.hidden 200.",
    )
    result.add_argument("--quick", action="store_true", help="few runs, about a minute")
    result.add_argument("--only", nargs="+", metavar="NAME", default=list(TOPICS))
    result.add_argument("--configs", nargs="+", metavar="NAME", default=["atari"])
    result.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[])
    result.add_argument("--json", type=Path, metavar="FILE", help="write JSON lines to this file")
    result.add_argument("--export", type=Path, metavar="FILE", help="write the update as StableHLO")
    return result


def main(argv: list[str]) -> None:
    """Run the benchmarks of the command line; an invalid flag gives a sentence and status 2."""
    options, rest = parser().parse_known_args(argv)
    try:
        for name in options.only:
            if name not in TOPICS:
                raise UserError(f"No benchmark is called '{name}'.{nearest(name, TOPICS)}")
        training = ["--configs", *options.configs, *rest]
        config = flags.parse(training, paths.load_configs())
        config = validation.validate(config)
        bench = Bench(config, training, options.precision, options.quick)
        if options.export:
            export(bench, options.export)
        else:
            measure(bench, options.only, options.json)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def export(bench: Bench, path: Path) -> None:
    """Write the update for another machine to a file."""
    bench.start_tensorflow()
    importlib.import_module("benchmarks.update").export(bench, path)
    print(f"Wrote {path}, {path.stat().st_size / machine.MIB:.1f} MiB.")


def rows(topic: str, bench: Bench) -> Iterator[Row]:
    """Yield the rows of one topic, each when it has been measured."""
    if topic in TENSORFLOW:
        bench.start_tensorflow()
    module, function = TOPICS[topic]
    yield from getattr(importlib.import_module(f"benchmarks.{module}"), function)(bench)


def measure(bench: Bench, topics: list[str], path: Path | None) -> None:
    """Print the table row by row, then print the JSON lines or write them to a file."""
    about = {"name": "machine", **machine.describe(), "flags": bench.flags, "quick": bench.quick}
    lines = []
    for key, value in about.items():
        print(f"{key:12} {value}")
    print(f"\n{COLUMNS}", flush=True)
    for topic in (name for name in TOPICS if name in topics):
        for row in rows(topic, bench):
            print(row.line(), flush=True)
            lines.append(row.json())
    about["device"] = bench.device
    text = "\n".join([json.dumps(about), *lines]) + "\n"
    if path:
        path.write_text(text)
    else:
        print(f"\n{text}", end="", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
