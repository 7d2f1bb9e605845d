"""Command line flags: every option by its dotted name, named configs, and the help text."""

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

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
        configs: name -> nested mapping, as from paths.load_configs(); a script's own has no other
            name than `defaults`, which is a Config.

    Raises:
        UserError: an unknown config or flag (names the nearest), or a value of the wrong type.
    """
    if {"-h", "--help"} & set(argv):
        print(help_text(configs), end="")
        sys.exit(0)
    flags = split(argv)
    chosen = [arguments for name, arguments in flags if name == "configs"]
    if chosen and len(configs) == 1:
        raise UserError(
            "--configs is a flag of train.py: a script of yours chooses in Python, as in "
            "dv2.defaults.update(dv2.configs['small'])."
        )
    if [] in chosen:
        raise UserError("--configs needs names, as in --configs atari debug.")
    config = choose(configs, [name for names in chosen for name in names])
    for name, arguments in flags:
        if name != "configs":
            keys = config.expand(name)
            config = config.update({key: _value(config, key, arguments) for key in keys})
    return config


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


def split(argv: Sequence[str]) -> list[Flag]:
    """Group arguments into flags with their values.

    A value may begin with one dash (a negative number); one that begins with two needs `=`.

    Raises:
        UserError: a value before any flag.
    """
    flags: list[Flag] = []
    for item in argv:
        if item.startswith("--") and len(item) > 2:
            name, equals, value = item[2:].partition("=")
            flags.append((name, [value] if equals else []))
        elif flags:
            flags[-1][1].append(item)
        else:
            raise UserError(f"'{item}' stands alone: values follow a flag, as in --seed 1.")
    return flags


def script_arguments() -> list[str]:
    """Return the flags of the running script; in a notebook there are none.

    A notebook's kernel has arguments of its own in sys.argv (`-f /path/kernel.json`).
    """
    shell = sys.modules.get("IPython")
    kernel = shell is not None and hasattr(shell.get_ipython(), "kernel")
    program = Path(sys.argv[0]) if sys.argv else Path()
    launched = program.stem.endswith("kernel_launcher") or program.parent.name == "ipykernel"
    return [] if kernel or launched else sys.argv[1:]


def _value(config: Config, key: str, arguments: list[str]) -> str | list[str]:
    """Return the value that a flag's arguments mean for its option: a list, or the only one."""
    default = config.get(key, 1.0)  # a new key of an open group is a number
    if isinstance(default, tuple):
        return arguments
    if not arguments:
        raise UserError(f"--{key} needs a value, as in --{key} {show(default)}.")
    if len(arguments) > 1:
        raise UserError(f"--{key} takes one value and got {len(arguments)}: {' '.join(arguments)}.")
    return arguments[0]


# The help text ------------------------------------------------------------------------------------


def help_text(configs: Mapping[str, Mapping]) -> str:
    """Return the text of --help, from the comments of the file of the defaults."""
    defaults = configs["defaults"]
    source = defaults.source()
    comments = option_comments(source)
    header = [line[2:] for line in re.match(r"(?:#.*\n)*", source)[0].splitlines()]
    name = Path(sys.argv[0]).name
    program = f"python {name}" if name.endswith(".py") else name
    lines = [f"usage: {program} [--configs NAME ...] [--OPTION VALUE ...]", *header]
    lines += ["", "Options, their defaults and meanings:", ""]
    for key, value in defaults.flat.items():
        left = f"  --{key} {show(value)} "
        lines += _wrap(comments.get(key, ""), f"{left:<{COLUMN}}", " " * COLUMN) or [left.rstrip()]
    lines += ["", "Named configs and their changes:"] if len(configs) > 1 else []
    for name, changes in configs.items():
        if name != "defaults":
            text = ", ".join(f"{key} {show(value)}" for key, value in flatten(changes))
            about = f"{name}: {config_comment(source, name)}"
            lines += ["", *_wrap(about, "  ", "  "), *_wrap(text, "    ", "    ")]
    return "\n".join(lines) + "\n"


def option_comments(source: str) -> dict[str, str]:
    """Read the comment behind each option of `defaults` from the text of a YAML file.

    The YAML parser drops comments, and its comment-keeping mode takes ten times as long. The
    file is ours: two spaces a level, one option a line.
    """
    section = re.search(r"^defaults:\n(.*?)(?=^\S|\Z)", source, re.M | re.S)
    comments: dict[str, str] = {}
    group = ""
    for line in section[1].splitlines() if section else ():
        match = re.match(r"( +)([\w.]+):(.*?)(?:\s#\s(.*))?$", line)
        if match:
            indent, name, value, comment = match.groups()
            if len(indent) == 2:
                group = "" if value.strip() else f"{name}."
            comments[name if len(indent) == 2 else group + name] = comment or ""
    return comments


def config_comment(source: str, name: str) -> str:
    """Read the comment lines above a named config from the text of a YAML file."""
    match = re.search(rf"((?:^# .*\n)+){re.escape(name)}:", source, re.M)
    return " ".join(line[2:] for line in match[1].splitlines()) if match else ""


def _wrap(text: str, first: str, below: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=first, subsequent_indent=below)
