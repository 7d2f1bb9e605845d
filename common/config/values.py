"""Values of options: conversion to an option's type, from files and from flags alike."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from dreamerv2.common.errors import UserError, nearest

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]
Kind = Callable[[str, Any], Value]  # (name of an option, value) -> value of the option's type
MAX_DEPTH = 16  # of nested groups; a YAML file can refer to itself and never end

# Number of arguments, and the index of the duration in steps.
SCHEDULES = {
    "linear": (3, 2),  # linear(from, to, steps)
    "delayed": (4, 3),  # delayed(from, to, start, steps)
    "warmup": (2, 0),  # warmup(steps, value)
    "exp": (3, 2),  # exp(from, to, half life)
    "horizon": (3, 2),  # horizon(from, to, steps): horizons of a discount
}
BOOLEANS = {"True": True, "true": True, "False": False, "false": False}
WANTED = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "text",
    None: "text, a number, True, False or a list of these",
}


def impossible(key: str, value: Any, reason: str) -> UserError:
    """Return the error for an option's value; the reason follows, without its full stop."""
    stop = "" if reason.endswith((".", "?")) else "."
    return UserError(f"--{key} {show(value)} is not possible: {reason}{stop}")


def kind_of(value: Value) -> Kind:
    """Return the kind of an option by its default; the elements of an empty list are text."""
    if isinstance(value, tuple):
        return functools.partial(convert_list, kind=type(value[0]) if value else str)
    return functools.partial(convert, kind=type(value))


def convert(key: str, value: Any, kind: type | None) -> Scalar:
    """Return a single value, given as itself or as text, in the wanted type.

    Args:
        kind: bool, int, float or str; None keeps the type of the value.

    Raises:
        UserError: the type cannot be had without loss; names the key, the value and the type.
    """
    read = READERS.get(kind or next((own for own in READERS if isinstance(value, own)), None))
    result = read(value) if read else None
    if result is None:
        raise impossible(key, value, f"it must be {WANTED[kind]}")
    return result


def convert_list(key: str, value: Any, kind: type | None) -> tuple[Scalar, ...]:
    """Return a list as a tuple whose elements have the wanted type, or raise UserError."""
    if not isinstance(value, list | tuple):
        raise impossible(key, value, "it must be a list of values")
    return tuple(convert(key, element, kind) for element in value)


def convert_any(key: str, value: Any) -> Value:
    """Return a value of any type that an option can have, lists as tuples."""
    return (convert_list if isinstance(value, list | tuple) else convert)(key, value, None)


def number_or_schedule(key: str, value: Any) -> float | str:
    """Convert the value of an option that is a number or the text of a schedule."""
    if not isinstance(value, str) or _float(value) is not None:
        return convert(key, value, float)
    try:
        parse_schedule(value)
    except UserError as error:
        raise impossible(key, value, str(error)) from None
    return value


def text_or_number(key: str, value: Any, synonyms: Mapping[str, str] = {}) -> str:
    """Convert the value of an option whose text may look like a number: 16 means '16'.

    Args:
        synonyms: other spellings in lower case -> the text they stand for.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:.17g}"
    text = convert(key, value, str)
    return synonyms.get(text.lower(), text)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List (dotted name, value) for every leaf of nested mappings.

    Raises:
        UserError: a key is not text, or too many groups are nested.
    """
    pairs = []
    for key, value in mapping.items():
        if not isinstance(key, str) or not key:
            raise UserError(f"The key {key!r} is not possible: an option has a name of letters.")
        if prefix.count(".") + key.count(".") > MAX_DEPTH:
            raise UserError(f"'{prefix[:40]}...' is nested more than {MAX_DEPTH} groups deep.")
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def parse_schedule(text: str) -> tuple[str, tuple[float, ...]]:
    """Split a schedule over agent steps, one of SCHEDULES, into its name and arguments.

    Raises:
        UserError: no such schedule, wrong number of arguments, or a duration that is not positive.
    """
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    if not match:
        raise UserError("it must be a number or a schedule, such as linear(1,0,1e6).")
    name = match[1]
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UserError(f"schedules are {known}, not {name}.{nearest(name, SCHEDULES)}")
    count, duration = SCHEDULES[name]
    numbers = [_float(argument) for argument in match[2].split(",")]
    if len(numbers) != count or None in numbers:
        raise UserError(f"{name} takes {count} numbers.")
    if numbers[duration] <= 0:
        raise UserError("the duration of a schedule must be positive.")
    return name, tuple(numbers)


def show(value: Any) -> str:
    """Write a value as people read it: lists in brackets, empty text as two quotes."""
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
    return text.encode("utf-8", "backslashreplace").decode() or "''"


# Readers return None for a value that is not of their type.


def _bool(value: Any) -> bool | None:
    if isinstance(value, str):
        return BOOLEANS.get(value)
    return value if isinstance(value, bool) else None


def _int(value: Any) -> int | None:
    if isinstance(value, str):
        # int() is exact where a float would round, so digits go there.
        value = int(value) if re.fullmatch(r"\s*[-+]?[0-9]{1,19}\s*", value) else _float(value)
    if isinstance(value, float) and value.is_integer():  # as 1e4, also within text
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if whole and abs(value) < 2**63 else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        return None  # the shell can pass bytes that are not UTF-8, which no file can hold
    return str(value)


READERS = {bool: _bool, int: _int, float: _float, str: _text}  # bool first: it is an int too
