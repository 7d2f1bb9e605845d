"""Command line flags: every option by its dotted name, named configs, and the help text."""

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dreamerv2.common.config.values import flatten, show
from dreamerv2.common.errors import UserError, nearest

COLUMN = 40  # where the comments of the help text begin
Config = TypeVar("Config")  # config.Config, whose file imports this one
Flag = tuple[str, list[str]]  # name without dashes, arguments


def parse(argv: Sequence[str], configs: Mapping[str, Mapping]) -> Config:
    """Build the config of a run: the defaults, then the `--configs` in order, then the other flags.

    `--help` prints every option and exits with status 0.

    Args:
        argv: the command line without the program, such as sys.argv[1:].
        configs: name -> nested mapping, `defaults` (a Config) among them, as from
            paths.load_configs().

    Raises:
        UserError: an unknown config or flag (names the nearest), or a value of the wrong type.
    """
    flags, rest = split(argv)
    if _wants_help(flags):
        _print_help(configs["defaults"], configs)
    config = choose(configs, _chosen(flags))
    return _change_all(config, [flag for flag in flags if flag[0] != "configs"], rest)


def apply(config: Config, argv: Sequence[str], known_only: bool = False) -> Any:
    """Return the config changed by the flags, in any order; the last of two equal flags counts.

    `--help` prints every option and exits with status 0.

    Args:
        known_only: return (config, arguments that belong to no option) instead of refusing them.

    Raises:
        UserError: an unknown flag (names the nearest), a value of the wrong type, or an argument
            that belongs to no flag.
    """
    flags, rest = split(argv)
    if _wants_help(flags):
        _print_help(config, {})
    if known_only:
        config, unknown = _change(config, flags)
        return config, rest + [item for name, values in unknown for item in (f"--{name}", *values)]
    if any(name == "configs" for name, _ in flags):
        raise UserError(
            "--configs is a flag of train.py: a script of yours chooses in Python, as in "
            "dv2.defaults.update(dv2.configs['small'])."
        )
    return _change_all(config, flags, rest)


def choose(configs: Mapping[str, Mapping], names: Sequence[str]) -> Config:
    """Return the defaults changed by the named configs, in their order.

    Raises:
        UserError: there is no such config.
    """
    config = configs["defaults"]
    for name in names:
        if name not in configs:
            known = ", ".join(configs)
            raise UserError(f"There is no config '{name}'.{nearest(name, configs)} Known: {known}.")
        config = config.update(configs[name] if name != "defaults" else {})
    return config


def split(argv: Sequence[str]) -> tuple[list[Flag], list[str]]:
    """Group arguments into flags with their values, and the arguments before any flag.

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


def help_text(config: Config, configs: Mapping[str, Mapping]) -> str:
    """Return the text of --help, from the comments of the file of the defaults.

    Args:
        config: the defaults to show.
        configs: the named configs to show; may be empty.
    """
    source = config.source()
    comments = option_comments(source)
    lines = [f"usage: {_program()} [--configs NAME ...] [--OPTION VALUE ...]", *_header(source)]
    lines += ["", "Options, their defaults and meanings:", ""]
    for key, value in config.flat.items():
        lines += _describe(f"--{key} {show(value)}", comments.get(key, ""))
    lines += ["", "Named configs and their changes:"] if configs else []
    for name, changes in configs.items():
        if name != "defaults":
            about = textwrap.wrap(f"{name}: {config_comment(source, name)}", 96)
            lines += ["", *(f"  {line}" for line in about), *_changes(changes)]
    return "\n".join(lines) + "\n"


def option_comments(source: str) -> dict[str, str]:
    """Read the comment behind each option of `defaults` from the text of a YAML file.

    The YAML parser drops comments, and its comment-keeping mode takes ten times as long. The
    file is ours: two spaces a level, one option a line.
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
    """Read the comment lines above a named config from the text of a YAML file."""
    match = re.search(rf"((?:^# .*\n)+){re.escape(name)}:", source, re.M)
    return " ".join(line[2:] for line in match.group(1).splitlines()) if match else ""


def _header(source: str) -> list[str]:
    """Read the comment lines at the top of a YAML file."""
    return [line[2:] for line in re.match(r"(?:#.*\n)*", source).group().splitlines()]


def _program() -> str:
    """Return the command that the user typed, without its flags."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _wants_help(flags: Sequence[Flag]) -> bool:
    return any(name in ("help", "-h") for name, _ in flags)


def _chosen(flags: Sequence[Flag]) -> list[str]:
    """Collect the names behind all `--configs`."""
    if any(name == "configs" and not values for name, values in flags):
        raise UserError("--configs needs names, as in --configs atari debug.")
    return [value for name, values in flags if name == "configs" for value in values]


def _change_all(config: Config, flags: Sequence[Flag], rest: Sequence[str]) -> Config:
    """Change the config by flags that must all be options, with no arguments left over."""
    if rest:
        raise UserError(f"'{rest[0]}' stands alone: values follow a flag, as in --seed 1.")
    config, unknown = _change(config, flags)
    for name, _ in unknown:
        config.expand(name)  # raises the reason why there is no such option
    return config


def _change(config: Config, flags: Sequence[Flag]) -> tuple[Config, list[Flag]]:
    """Return the changed config, and the flags that are no options."""
    unknown = []
    for name, arguments in flags:
        try:
            keys = config.expand(name)
        except UserError:
            unknown.append((name, arguments))
            continue
        config = config.update({key: _value(config, key, arguments) for key in keys})
    return config, unknown


def _value(config: Config, key: str, arguments: list[str]) -> str | list[str]:
    """Return the value that a flag's arguments mean for its option: a list, or the only one."""
    if key in config and isinstance(config[key], tuple):
        return arguments
    if not arguments:
        example = show(config.get(key, 1.0))
        raise UserError(f"--{key} needs a value, as in --{key} {example}.")
    if len(arguments) > 1:
        raise UserError(f"--{key} takes one value and got {len(arguments)}: {' '.join(arguments)}.")
    return arguments[0]


def _describe(flag: str, comment: str) -> list[str]:
    """Lay out one option: the flag on the left, its comment in a column on the right."""
    rows = textwrap.wrap(comment, 100 - COLUMN) or [""]
    first = [f"  {flag}"] if len(flag) + 3 > COLUMN else []
    left = "" if first else f"  {flag}"
    return first + [
        f"{left if i == 0 else '':<{COLUMN}}{row}".rstrip() for i, row in enumerate(rows)
    ]


def _changes(changes: Mapping) -> list[str]:
    text = ", ".join(f"{key} {show(value)}" for key, value in flatten(changes))
    return textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")


def _print_help(config: Config, configs: Mapping[str, Mapping]) -> NoReturn:
    print(help_text(config, configs), end="")
    sys.exit(0)
