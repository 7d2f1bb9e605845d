"""Command line flags: every knob by its dotted name, named configs, and the help text."""

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config, flatten, show
from dreamerv2.common.errors import UserError, nearest

USAGE = """\
usage: python train.py --logdir DIR [--configs NAME ...] [--KNOB VALUE ...]

  --configs atari debug           named sets of values, applied in this order on top of the defaults
  --rssm.hidden 200               one knob, or --rssm.hidden=200
  --steps 1e6 --jit False         integers may be written as 1e6; booleans are True or False
  --grad_heads decoder reward     a list
  --.*\\.norm layer                all knobs whose whole name matches a regular expression
  --actor_ent 'linear(1,0,1e6)'   a schedule over agent steps, where a knob allows one:
                                  linear(from,to,steps) warmup(steps,value)
                                  exp(from,to,half_life) horizon(from,to,steps)
"""
COLUMN = 40  # where the comments of the help text begin
Flag = tuple[str, list[str]]


class Flags:
    """Parser of the flags of one config."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def parse(self, argv: Sequence[str]) -> Config:
        """Return the config changed by the flags, in any order; the last of two equal ones counts.

        `--help` prints every knob and exits with status 0.

        Raises:
            UserError: an unknown flag (names the nearest), a value of the wrong type, or an
                argument that belongs to no flag.
        """
        config, rest = self.parse_known(argv)
        if rest and rest[0].startswith("--") and len(rest[0]) > 2:
            if rest[0] == "--configs":
                raise UserError(
                    "--configs is a flag of train.py: a script of yours chooses in Python, as in "
                    "dv2.defaults.update(dv2.configs['small'])."
                )
            config.expand(rest[0][2:])  # Says why there is no such knob.
        if rest:
            raise UserError(f"'{rest[0]}' stands alone: values follow a flag, as in --seed 1.")
        return config

    def parse_known(self, argv: Sequence[str]) -> tuple[Config, list[str]]:
        """Return the changed config, and the arguments that belong to no knob.

        Raises:
            UserError: a known flag has a value of the wrong type.
        """
        flags, rest = split(argv)
        if _wants_help(flags):
            _print_help(self._config, {})
        config = self._config
        for name, arguments in flags:
            try:
                keys = config.expand(name)
            except UserError:
                rest += [f"--{name}", *arguments]
                continue
            config = config.update({key: _value(config, key, arguments) for key in keys})
        return config, rest


def parse(argv: Sequence[str], configs: Mapping[str, Mapping]) -> Config:
    """Build the config of a run: the defaults, then the `--configs` in order, then the other flags.

    Args:
        argv: the command line without the program, such as sys.argv[1:].
        configs: name -> nested mapping, `defaults` among them, as from paths.load_configs().

    Raises:
        UserError: an unknown config or flag (names the nearest), or a value of the wrong type.
    """
    flags, rest = split(argv)
    if _wants_help(flags):
        _print_help(Config(configs["defaults"]), configs)
    config = choose(configs, _chosen(flags))
    others = [item for flag in flags if flag[0] != "configs" for item in _join(flag)]
    return Flags(config).parse([*rest, *others])


def choose(configs: Mapping[str, Mapping], names: Sequence[str]) -> Config:
    """Return the defaults changed by the named configs, in their order.

    Raises:
        UserError: there is no such config.
    """
    config = Config(configs["defaults"])
    for name in names:
        if name not in configs:
            known = ", ".join(configs)
            raise UserError(f"There is no config '{name}'.{nearest(name, configs)} Known: {known}.")
        config = config.update(configs[name] if name != "defaults" else {})
    return config


def split(argv: Sequence[str]) -> tuple[list[Flag], list[str]]:
    """Group arguments into (flag without its dashes, values), and those before any flag.

    A value may begin with one dash (a negative number); one that begins with two needs `=`.
    """
    flags: list[Flag] = []
    rest: list[str] = []
    for item in argv:
        if item.startswith("--") and len(item) > 2:
            name, equals, value = item[2:].partition("=")
            flags.append((name, [value] if equals else []))
        elif item == "-h":
            flags.append((item, []))
        else:
            (flags[-1][1] if flags else rest).append(item)
    return flags, rest


def script_arguments() -> list[str]:
    """Return the flags of the running script; in a notebook there are none.

    A notebook's kernel has arguments of its own in sys.argv (`-f /path/kernel.json`).
    """
    shell = sys.modules.get("IPython")
    kernel = shell is not None and hasattr(shell.get_ipython(), "kernel")
    program = Path(sys.argv[0]) if sys.argv else Path()
    launched = program.stem.endswith("kernel_launcher") or program.parent.name == "ipykernel"
    return [] if kernel or launched else sys.argv[1:]


def help_text(config: Config, configs: Mapping[str, Mapping], source: str) -> str:
    """Return the text of --help.

    Args:
        config: the defaults to show.
        configs: the named configs to show; may be empty.
        source: the text of configs.yaml, whose comments document the knobs.
    """
    comments = knob_comments(source)
    lines = [USAGE, "Knobs, their defaults and meanings:", ""]
    for key, value in config.flat.items():
        lines += _describe(f"--{key} {show(value)}", comments.get(key, ""))
    lines += ["", "Named configs and what they change:"] if configs else []
    for name, changes in configs.items():
        if name != "defaults":
            about = textwrap.wrap(f"{name}: {config_comment(source, name)}", 96)
            lines += ["", *(f"  {line}" for line in about), *_changes(changes)]
    return "\n".join(lines) + "\n"


def knob_comments(source: str) -> dict[str, str]:
    """Read the comment behind each knob of `defaults` from the text of configs.yaml.

    The YAML parser drops comments, and its comment-keeping mode takes ten times as long. The
    file is ours: two spaces a level, one knob a line.
    """
    section = re.search(r"^defaults:\n(.*?)(?=^\S|\Z)", source, re.M | re.S)
    comments: dict[str, str] = {}
    group = ""
    for line in section.group(1).splitlines() if section else ():
        match = re.match(r"( +)([\w.]+):(.*?)(?:\s#\s(.*))?$", line)
        if not match:
            continue
        indent, name, value, comment = match.groups()
        if len(indent) == 2:
            group = "" if value.strip() else f"{name}."
        name = name if len(indent) == 2 else group + name
        comments[name] = comment or ""
    return comments


def config_comment(source: str, name: str) -> str:
    """Read the comment lines above a named config from the text of configs.yaml."""
    match = re.search(rf"((?:^# .*\n)+){re.escape(name)}:", source, re.M)
    return " ".join(line[2:] for line in match.group(1).splitlines()) if match else ""


def _wants_help(flags: Sequence[Flag]) -> bool:
    return any(name in ("help", "-h") for name, _ in flags)


def _chosen(flags: Sequence[Flag]) -> list[str]:
    """Collect the names behind all `--configs`."""
    if any(name == "configs" and not values for name, values in flags):
        raise UserError("--configs needs names, as in --configs atari debug.")
    return [value for name, values in flags if name == "configs" for value in values]


def _join(flag: Flag) -> list[str]:
    """Write a flag so that split() reads the same again, even if its value begins with dashes."""
    name, values = flag
    return [f"--{name}={values[0]}", *values[1:]] if values else [f"--{name}"]


def _value(config: Config, key: str, arguments: list[str]) -> str | list[str]:
    """Return what a flag's arguments mean for its knob: a list, or the only one."""
    if key in config and isinstance(config[key], tuple):
        return arguments
    if not arguments:
        example = show(config.get(key, 1.0))
        raise UserError(f"--{key} needs a value, as in --{key} {example}.")
    if len(arguments) > 1:
        raise UserError(f"--{key} takes one value and got {len(arguments)}: {' '.join(arguments)}.")
    return arguments[0]


def _describe(flag: str, comment: str) -> list[str]:
    """Lay out one knob: the flag on the left, its comment in a column on the right."""
    rows = textwrap.wrap(comment, 100 - COLUMN) or [""]
    first = [f"  {flag}"] if len(flag) + 3 > COLUMN else []
    left = "" if first else f"  {flag}"
    return first + [
        f"{left if i == 0 else '':<{COLUMN}}{row}".rstrip() for i, row in enumerate(rows)
    ]


def _changes(changes: Mapping) -> list[str]:
    pairs = flatten(changes)
    text = ", ".join(f"{key} {show(value)}" for key, value in pairs)
    return textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")


def _print_help(config: Config, configs: Mapping[str, Mapping]) -> NoReturn:
    source = paths.configs_path().read_text(encoding="utf-8")
    print(help_text(config, configs, source), end="")
    sys.exit(0)
