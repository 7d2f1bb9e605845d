"""Immutable nested config; names and types of the options are fixed by the defaults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.config import flags, values
from dreamerv2.common.config.values import Kind, Value, flatten
from dreamerv2.common.config.yaml import read_yaml, write_yaml
from dreamerv2.common.errors import UserError, nearest

PATTERN = re.compile(r"[^\w.\-/]")  # found in a regular expression, but in no name of an option


class Config(Mapping):
    """A nested, immutable mapping of options.

    Values are bool, int, float, str, or tuples of one of them. `config.a.b`, `config["a.b"]` and
    `config["a"]["b"]` are the same; `config.update(...)` returns a changed copy. An option keeps
    the type of its default, and no option can be added or removed (except in an open group).

    Args:
        mapping: nested mappings, dotted keys, or a mix; a Config hands on its kinds and source.
        kinds: dotted name -> a function of `values` that converts the option's value; by default
            the type of the value in `mapping`. The name `group.*` makes a group open: it takes
            further keys, converted by this function.
        source: YAML file of the values; `--help` prints its comments.

    Raises:
        UserError: a key is not text or both a value and a group, or a value has no possible type.
    """

    def __init__(
        self,
        mapping: Mapping[str, Any],
        kinds: Mapping[str, Kind] = {},
        source: Path | None = None,
    ) -> None:
        flat = {key: values.convert_any(key, value) for key, value in flatten(mapping)}
        defaults = {key: values.kind_of(value) for key, value in flat.items()}
        kinds = {**defaults, **getattr(mapping, "_kinds", {}), **kinds}
        source = source or getattr(mapping, "_source", None)
        vars(self).update(_flat=flat, _kinds=kinds, _source=source, _tree=_nest(flat, kinds))

    @property
    def flat(self) -> dict[str, Value]:
        """All options by their dotted names, as a new dict."""
        return dict(self._flat)

    def __getitem__(self, key: str) -> Any:
        head, _, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        try:
            return self._tree[head][rest] if rest else self._tree[key]
        except (KeyError, TypeError):
            raise KeyError(self._unknown(key)) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask, possibly before there is a content
            raise AttributeError(name)
        try:
            return self._tree[name]
        except KeyError:
            raise AttributeError(self._unknown(name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A Config cannot be changed; use config.update({{'{name}': ...}}).")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        pairs = flatten(other)
        return self._flat == {k: tuple(v) if isinstance(v, list) else v for k, v in pairs}

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def __str__(self) -> str:
        """One option and its value a line, as a run prints it at the start."""
        width = max(map(len, self._flat), default=0)
        return "\n".join(f"{key:<{width}}  {values.show(v)}" for key, v in self._flat.items())

    def _unknown(self, key: object) -> str:
        """Say that an option is missing; name the nearest, or one of the same name elsewhere."""
        names = [*self._flat, *self._tree]
        last = str(key).rpartition(".")[2]
        same = [f" Did you mean '{name}'?" for name in names if name.rpartition(".")[2] == last]
        matching = "whose name matches " * bool(PATTERN.search(str(key)))
        hint = nearest(str(key), names) or "".join(same[:1])
        return f"There is no option {matching}'{key}'.{hint}"

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts with lists, ready for YAML or JSON."""
        return {key: _plain(value) for key, value in self.items()}

    def source(self) -> str:
        """Return the text of the YAML file of the defaults, or an empty string."""
        return self._source.read_text(encoding="utf-8") if self._source else ""

    def is_open(self, key: str) -> bool:
        """Return whether a dotted name belongs to a group that takes further keys."""
        return _group(key) in self._kinds

    def expand(self, key: str) -> tuple[str, ...]:
        """Return the names a key stands for: itself, or all that a regular expression matches.

        A key that is no option and has other characters than letters, digits and `_-./` is a
        regular expression and must match the whole dotted name.

        Raises:
            UserError: no such option (names the nearest), a group, or a pattern that matches none.
        """
        is_pattern = PATTERN.search(key)
        if key in self._flat or (self.is_open(key) and not key.endswith(".") and not is_pattern):
            return (key,)
        try:
            matches = [name for name in self._flat if is_pattern and re.fullmatch(key, name)]
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"'{key}' is no regular expression: {error}.") from None
        if matches:
            return tuple(matches)
        if group := [name for name in self._flat if name.startswith(f"{key}.")]:
            raise UserError(f"'{key}' is a group of options; name one of them: {', '.join(group)}.")
        raise UserError(self._unknown(key))

    def update(self, mapping: Mapping[str, Any] = {}, **kwargs: Any) -> "Config":
        """Return a copy with other values; keys are nested, dotted or regular expressions.

        Later entries win. Every value is converted to the type of the option's default.

        Raises:
            UserError: an unknown key (names the nearest) or a value of the wrong type.
        """
        flat, kinds = dict(self._flat), dict(self._kinds)
        for key, value in flatten({**mapping, **kwargs}):
            for name in self.expand(key):
                kind = kinds.setdefault(name, kinds.get(_group(name)))
                flat[name] = kind(name, value)
        return Config(flat, kinds, self._source)

    def save(self, path: str | Path) -> None:
        """Write the config as YAML, complete or not at all; load() gives back an equal one."""
        write_yaml(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a config that save() wrote, or any YAML file of options."""
        return cls(read_yaml(path))

    def parse_flags(self, argv: Sequence[str] | None = None) -> "Config":
        """Return a copy changed by command line flags, such as `--rssm.hidden 200`.

        Args:
            argv: the flags; None takes those of the running script, and none in a notebook.

        Raises:
            UserError: an unknown flag (names the nearest) or a value of the wrong type.
        """
        argv = flags.script_arguments() if argv is None else argv
        return flags.parse(argv, {"defaults": self})


def _group(key: str) -> str:
    """Return the name in `kinds` that opens the group of a key."""
    return f"{key.rpartition('.')[0]}.*"


def _nest(flat: dict[str, Value], kinds: dict[str, Kind]) -> dict[str, Any]:
    """Turn dotted names into a tree, whose groups are Configs."""
    tree: dict[str, Any] = {}
    groups: dict[str, dict[str, Value]] = {}
    for key, value in flat.items():
        head, dot, rest = key.partition(".")
        if dot and (not head or not rest or rest.startswith(".")):
            raise UserError(f"The key '{key}' is not possible: a name is missing beside the dot.")
        if dot:
            groups.setdefault(head, {})[rest] = value
        tree[head] = value  # the group itself follows below, at this place
    for head, members in groups.items():
        if head in flat:
            raise UserError(f"The key '{head}' is not possible: it is both a value and a group.")
        prefix = f"{head}."
        below = {k.removeprefix(prefix): kind for k, kind in kinds.items() if k.startswith(prefix)}
        tree[head] = Config(members, below)
    return tree


def _plain(value: Any) -> Any:
    """Return the type of YAML and JSON: a dict for a group, a list for a tuple."""
    if isinstance(value, Config):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value
