"""The step counter shared by the loop, the logger and the schedulers."""

import functools
import numbers


@functools.total_ordering
class Counter:
    """A whole number that only its owner moves and everybody else reads.

    The loop increments it once per agent step. It compares with numbers and other counters, and
    ``int(counter)`` gives its value. It is mutable, hence not hashable.
    """

    __hash__ = None

    def __init__(self, initial: int = 0):
        self._value = int(initial)

    def __repr__(self) -> str:
        return f"Counter({self._value})"

    @property
    def value(self) -> int:
        """The current count."""
        return self._value

    def increment(self, amount: int = 1) -> None:
        """Add ``amount``. Raises ValueError when it is negative: counts never run backwards."""
        if amount < 0:
            raise ValueError(f"A counter only counts up, not by {amount}.")
        self._value += int(amount)

    def __int__(self) -> int:
        return self._value

    # Lets a counter stand where Python wants a whole number: range(counter), f"{counter:,}" aside.
    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        value = _number(other)
        return NotImplemented if value is None else self._value == value

    def __lt__(self, other: object) -> bool:
        value = _number(other)
        return NotImplemented if value is None else self._value < value


def _number(other: object) -> float | None:
    if isinstance(other, Counter):
        return other.value
    return other if isinstance(other, numbers.Real) else None
