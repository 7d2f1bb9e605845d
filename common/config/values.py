"""The values of knobs: what their types accept, from files and from flags alike."""

import math
import re
from collections.abc import Sequence

from dreamerv2.common.errors import UserError, nearest

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]

# Number of arguments, and which of them is a duration in steps.
SCHEDULES = {
    "linear": (3, 2),  # linear(from, to, steps)
    "warmup": (2, 0),  # warmup(steps, value)
    "exp": (3, 2),  # exp(from, to, half life)
    "horizon": (3, 2),  # horizon(from, to, steps): horizons of a discount
}
BOOLEANS = {"True": True, "true": True, "False": False, "false": False}
WANTED = {bool: "True or False", int: "an integer", float: "a number", str: "text"}


def parse_schedule(text: str) -> tuple[str, tuple[float, ...]]:
    """Split a schedule over agent steps into its name and arguments.

    `linear(a,b,n)`, `warmup(n,v)`, `exp(a,b,half)` and `horizon(a,b,n)` exist.

    Raises:
        UserError: no such schedule, wrong number of arguments, or a duration that is not positive.
    """
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    if not match:
        raise UserError("it must be a number or a schedule, such as linear(1,0,1e6).")
    name, arguments = match.group(1), match.group(2).split(",")
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UserError(f"schedules are {known}, not {name}.{nearest(name, SCHEDULES)}")
    count, duration = SCHEDULES[name]
    numbers = [_float(argument) for argument in arguments]
    if len(numbers) != count or None in numbers:
        raise UserError(f"{name} takes {count} numbers.")
    if numbers[duration] <= 0:
        raise UserError("the duration of a schedule must be positive.")
    return name, tuple(numbers)


def number_or_schedule(key: str, text: str) -> float | str:
    """Return the number that a text is, or the text itself when it is a schedule.

    Raises:
        UserError: it is neither.
    """
    number = _float(text)
    if number is not None:
        return number
    try:
        parse_schedule(text)
    except UserError as error:
        raise UserError(f"--{key} {_show(text)} is not possible: {error}") from None
    return text


def check(key: str, value: object) -> Value:
    """Return a value as a knob holds it, lists as tuples, of whatever type it has.

    Raises:
        UserError: a value (None, a date, a nested list, infinity, ...) that no knob can hold.
    """
    if isinstance(value, list | tuple):
        if any(isinstance(element, list | tuple) for element in value):
            raise UserError(f"--{key} {value!r} is not possible: a list holds no lists.")
        return tuple(check(key, element) for element in value)
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if kind is None:
        raise UserError(
            f"--{key} {value!r} is not possible: a value is text, a number, True, False or a list."
        )
    return convert(key, value, kind)


def convert(key: str, value: object, kind: type) -> Scalar:
    """Return a single value, given as itself or as text, in the wanted type.

    Raises:
        UserError: it cannot be had without loss; names the key, the value and the wanted type.
    """
    result = {bool: _bool, int: _int, float: _float, str: _text}[kind](value)
    if result is None:
        raise UserError(f"--{key} {_show(value)} is not possible: it must be {WANTED[kind]}.")
    return result


def convert_list(key: str, value: object, like: Sequence) -> tuple[Scalar, ...]:
    """Return a list as a tuple, its elements of the type that the elements of `like` have.

    An empty `like` has elements of text.

    Raises:
        UserError: the value is not a list, or an element has the wrong type.
    """
    kind = type(like[0]) if like else str
    if not isinstance(value, list | tuple):
        raise UserError(f"--{key} {_show(value)} is not possible: it must be a list of values.")
    return tuple(convert(key, element, kind) for element in value)


def _bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return BOOLEANS.get(value) if isinstance(value, str) else None


def _int(value: object) -> int | None:
    """Read 10000, 10000.0, '10000' and '1e4'; None where a fraction would be lost."""
    if isinstance(value, str):
        # Digits go to int() first, which is exact where a float would round.
        value = int(value) if re.fullmatch(r"\s*[-+]?[0-9]{1,19}\s*", value) else _float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if whole and abs(value) < 2**63 else None


def _float(value: object) -> float | None:
    """Read any finite number, and text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    """Take text that can be written to a file (the shell can pass bytes that are not UTF-8)."""
    if not isinstance(value, str):
        return None
    return None if re.search("[\ud800-\udfff]", value) else str(value)


def _show(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode() or "''"
