"""Immutable configuration: a nested mapping whose keys and types are settled by its defaults."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.config import values
from dreamerv2.common.config.values import Value
from dreamerv2.common.config.yaml import read_yaml, write_yaml
from dreamerv2.common.errors import UserError, nearest

SCHEDULED = (
    "actor_ent",
    "actor_grad_mix",
)  # numbers that may also be a schedule, such as linear(1,0,1e6)
NUMERIC_TEXT = (
    "precision",
    "checkpoint_every",
)  # text that looks like a number: a file may say 16 for '16'
OPEN_GROUPS = ("loss_scales",)  # groups that take further keys, all of them numbers
MAX_DEPTH = 16  # of nested groups; a YAML file can refer to itself and never end


class Config(Mapping):
    """A nested, immutable mapping of knobs.

    Values are bool, int, float, str, or tuples of one of them. `config.a.b`, `config["a.b"]` and
    `config["a"]["b"]` are the same; `config.update(...)` returns a changed copy. A knob keeps the
    type it was made with, and no knob can be added or removed afterwards (except in OPEN_GROUPS).

    Args:
        mapping: nested mappings, dotted keys, or a mix.

    Raises:
        UserError: a key is not text or both a value and a group, or a value has no possible type.
    """

    __slots__ = ("_flat", "_kinds", "_tree")

    def __init__(self, mapping: Mapping[str, Any] = {}, **kwargs: Any) -> None:
        pairs = flatten({**mapping, **kwargs})
        flat = {key: values.check(key, value) for key, value in pairs}
        self._fill(flat, flat)

    def _fill(self, flat: dict[str, Value], kinds: dict[str, Value]) -> None:
        """Take the values, and for each key a value (its default) that stands for its type."""
        for name, content in (("_flat", flat), ("_kinds", kinds), ("_tree", _nest(flat, kinds))):
            object.__setattr__(self, name, content)

    @classmethod
    def _make(cls, flat: dict[str, Value], kinds: dict[str, Value]) -> "Config":
        config = cls.__new__(cls)
        config._fill(flat, kinds)
        return config

    @property
    def flat(self) -> dict[str, Value]:
        """All knobs by their dotted names, as a new dict."""
        return dict(self._flat)

    def __getitem__(self, key: str) -> Any:
        head, _, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        try:
            return self._tree[head][rest] if rest else self._tree[key]
        except (KeyError, TypeError):
            raise KeyError(self._unknown(key)) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Asked by copy and pickle, possibly before there is a content.
            raise AttributeError(name)
        try:
            return self._tree[name]
        except KeyError:
            raise AttributeError(self._unknown(name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A Config cannot be changed; use config.update({{'{name}': ...}}).")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A Config cannot be changed; '{name}' stays.")

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError(f"A Config cannot be changed; use config.update({{'{key}': ...}}).")

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"A Config cannot be changed; '{key}' stays.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._flat == {key: _tuple(value) for key, value in flatten(other)}

    def __hash__(self) -> int:
        return hash(frozenset(self._flat.items()))

    def __reduce__(self) -> tuple:
        return Config._make, (self._flat, self._kinds)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def __str__(self) -> str:
        """One knob and its value a line, as a run prints it at the start."""
        width = max((len(key) for key in self._flat), default=0)
        lines = (f"{key:<{width}}  {show(value)}" for key, value in self._flat.items())
        return "\n".join(lines)

    def _unknown(self, key: object) -> str:
        return f"There is no knob '{key}'.{nearest(str(key), [*self._flat, *self._tree])}"

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts with lists, ready for YAML or JSON."""
        return {key: _plain(value) for key, value in self.items()}

    def expand(self, key: str) -> tuple[str, ...]:
        """Return the names a key stands for: itself, or all that a regular expression matches.

        A key that is not a knob and has other characters than letters, digits and `_-./` is
        a regular expression and must match the whole dotted name.

        Raises:
            UserError: no such knob (names the nearest), a group, or a pattern that matches nothing.
        """
        if key in self._flat:
            return (key,)
        if re.search(r"[^\w.\-/]", key):
            return self._matches(key)
        group = [name for name in self._flat if name.startswith(f"{key}.")]
        if group:
            raise UserError(f"'{key}' is a group of knobs; name one of them: {', '.join(group)}.")
        head, _, rest = key.partition(".")
        if head in OPEN_GROUPS and head in self._tree and rest and "." not in rest:
            return (key,)
        raise UserError(f"There is no knob '{key}'.{self._suggest(key)}")

    def _matches(self, pattern: str) -> tuple[str, ...]:
        try:
            matches = tuple(name for name in self._flat if re.fullmatch(pattern, name))
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"'{pattern}' is no regular expression: {error}.") from None
        if not matches:
            raise UserError(
                f"There is no knob whose name matches '{pattern}'.{self._suggest(pattern)}"
            )
        return matches

    def _suggest(self, key: str) -> str:
        """Name the nearest knob; one in another group counts when its last part is the same."""
        last = [name for name in self._flat if name.rpartition(".")[2] == key.rpartition(".")[2]]
        return nearest(key, self._flat) or (f" Did you mean '{last[0]}'?" if last else "")

    def update(self, mapping: Mapping[str, Any] = {}, **kwargs: Any) -> "Config":
        """Return a copy with other values; keys are nested, dotted or regular expressions.

        Later entries win. Every value is turned into the type of the knob's default.

        Raises:
            UserError: an unknown key (names the nearest) or a value of the wrong type.
        """
        flat, kinds = dict(self._flat), dict(self._kinds)
        for key, value in flatten({**mapping, **kwargs}):
            for name in self.expand(key):
                kinds.setdefault(name, 1.0)  # Only a new key of an open group is not there yet.
                flat[name] = _convert(name, value, kinds[name])
        return Config._make(flat, kinds)

    def save(self, path: str | Path) -> None:
        """Write the config as YAML, complete or not at all; load() gives back an equal one.

        Raises:
            UserError: the file cannot be written.
        """
        write_yaml(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a config that save() wrote, or any YAML file of knobs.

        Raises:
            UserError: the file cannot be read, is broken YAML, or holds what no knob can be.
        """
        return cls(read_yaml(path))

    def parse_flags(self, argv: Sequence[str] | None = None, known_only: bool = False) -> Any:
        """Return a copy changed by command line flags, such as `--rssm.hidden 200`.

        Args:
            argv: the flags; None takes those of the running script, and none in a notebook.
            known_only: return (config, other arguments) instead of failing on unknown flags.

        A mistake in the flags of the running script ends it with a sentence and status 2.

        Raises:
            UserError: with argv given, an unknown flag (names the nearest) or a value of the wrong
                type.
        """
        from dreamerv2.common.config import flags

        parser = flags.Flags(self)
        parse = parser.parse_known if known_only else parser.parse
        if argv is not None:
            return parse(argv)
        try:
            return parse(flags.script_arguments())
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr, flush=True)
            sys.exit(2)


def _convert(key: str, value: Any, default: Value) -> Value:
    """Give a value the type of the knob's default."""
    if isinstance(default, tuple):
        return values.convert_list(key, value, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in NUMERIC_TEXT and isinstance(default, str) and number:
        return f"{value:.17g}"
    if key in SCHEDULED and isinstance(value, str):
        return values.number_or_schedule(key, value)
    return values.convert(key, value, float if key in SCHEDULED else type(default))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List (dotted name, value) for every leaf of nested mappings."""
    pairs = []
    for key, value in mapping.items():
        if not isinstance(key, str) or not key:
            raise UserError(f"The key {key!r} is not possible: a knob has a name of letters.")
        if prefix.count(".") + key.count(".") > MAX_DEPTH:
            raise UserError(f"'{prefix[:40]}...' is nested more than {MAX_DEPTH} groups deep.")
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def _nest(flat: dict[str, Value], kinds: dict[str, Value]) -> dict[str, Any]:
    """Turn dotted names into a tree, whose groups are Configs."""
    tree: dict[str, Any] = {}
    groups: dict[str, tuple[dict, dict]] = {}
    for key, value in flat.items():
        head, dot, rest = key.partition(".")
        if not dot:
            tree[key] = value
            continue
        if not head or not rest or rest.startswith("."):
            raise UserError(f"The key '{key}' is not possible: a name is missing beside the dot.")
        members, their_kinds = groups.setdefault(head, ({}, {}))
        members[rest], their_kinds[rest] = value, kinds[key]
        tree.setdefault(head, None)
    for head, (members, their_kinds) in groups.items():
        if head in flat:
            raise UserError(f"The key '{head}' is not possible: it is both a value and a group.")
        tree[head] = Config._make(members, their_kinds)
    return tree


def _plain(value: Any) -> Any:
    """Return what YAML and JSON know: a dict for a group, a list for a tuple."""
    if isinstance(value, Config):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def show(value: Any) -> str:
    """Write a value as people read it: lists in brackets, empty text as two quotes."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "''" if value == "" else str(value)
