"""What is searched: named ranges and choices.

A space is `{name: Dimension}`. Each dimension maps the unit interval to its values, so that a sampler need not know its
kind: points of the unit cube are points of the space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lepjax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One thing that is searched. To add a kind, derive from this one."""

    def value(self, unit: float) -> Any:
        """The value at `unit`, 0.0 to 1.0 (1.0 itself included)."""
        raise TypeError(f"{type(self).__name__} must define value")

    def unit(self, value: Any) -> float:
        """The inverse of `value` (the middle of those that give it)."""
        raise TypeError(f"{type(self).__name__} must define unit")

    @property
    def options(self) -> Sequence[Any] | None:
        """All values, where they are finitely many."""
        return None

    def check(self, name: str) -> None:
        """Raises `UserError` for a range that is empty or makes no sense."""


@dataclasses.dataclass(frozen=True)
class Uniform(Dimension):
    """A float from `low` to `high`."""

    low: float
    high: float

    def value(self, unit: float) -> float:
        return min(max(self.low + unit * (self.high - self.low), self.low), self.high)

    def unit(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def check(self, name: str) -> None:
        _check_range(self.low, self.high, name)


@dataclasses.dataclass(frozen=True)
class LogUniform(Dimension):
    """A positive float from `low` to `high`, every factor as likely as every other."""

    low: float
    high: float

    def value(self, unit: float) -> float:
        low, high = math.log(self.low), math.log(self.high)
        return min(max(math.exp(low + unit * (high - low)), self.low), self.high)

    def unit(self, value: float) -> float:
        low, high = math.log(self.low), math.log(self.high)
        return (math.log(value) - low) / (high - low)

    def check(self, name: str) -> None:
        _check_range(self.low, self.high, name)
        if self.low <= 0.0:
            found = f"a logarithmic range from {self.low:g} to {self.high:g}"
            raise UserError(found, where=f"space {name}", fix="It must begin above 0, or be uniform.")


@dataclasses.dataclass(frozen=True)
class Integer(Dimension):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def value(self, unit: float) -> int:
        return min(self.low + int(unit * (self.high - self.low + 1)), self.high)

    def unit(self, value: int) -> float:
        return (value - self.low + 0.5) / (self.high - self.low + 1)

    @property
    def options(self) -> Sequence[int]:
        return range(self.low, self.high + 1)

    def check(self, name: str) -> None:
        for end in (self.low, self.high):
            if not isinstance(end, int) or isinstance(end, bool):
                raise UserError(f"{end!r} is no whole number", where=f"space {name}")
        if self.low > self.high:
            raise UserError(f"an empty range, {self.low} to {self.high}", where=f"space {name}")


@dataclasses.dataclass(frozen=True)
class Choice(Dimension):
    """One of `values` (strings, numbers, truth values or None), without an order."""

    values: tuple[Any, ...]

    def value(self, unit: float) -> Any:
        return self.values[min(int(unit * len(self.values)), len(self.values) - 1)]

    def unit(self, value: Any) -> float:
        return (self.values.index(value) + 0.5) / len(self.values)

    @property
    def options(self) -> Sequence[Any]:
        return self.values

    def check(self, name: str) -> None:
        if not self.values:
            raise UserError("no values to choose from", where=f"space {name}")
        for value in self.values:
            if not isinstance(value, (str, int, float, bool, type(None))) or value != value:
                fix = "Use strings, numbers, truth values or None."
                raise UserError(f"{value!r} cannot be chosen", where=f"space {name}", fix=fix)
        if len(set(self.values)) < len(self.values):  # True is 1, and 1 is 1.0
            raise UserError(f"{self.values} names a value twice", where=f"space {name}")


Space = Mapping[str, Dimension]
Values = dict[str, Any]
"""{name: value}, one for each dimension of a space."""


def uniform(low: float, high: float) -> Uniform:
    return Uniform(float(low), float(high))


def loguniform(low: float, high: float) -> LogUniform:
    return LogUniform(float(low), float(high))


def integer(low: int, high: int) -> Integer:
    return Integer(low, high)


def choice(values: Any) -> Choice:
    return Choice(tuple(values))


def check_space(space: Space) -> None:
    """Raises `UserError` for an empty space, or a dimension that makes no sense."""
    if not space:
        raise UserError("nothing to search", where="space", fix="Name at least one field and its range.")
    for name, dimension in space.items():
        if not isinstance(dimension, Dimension):
            fix = "Use tune.uniform, loguniform, integer or choice."
            raise UserError(f"{dimension!r} is no range", where=f"space {name}", fix=fix)
        dimension.check(name)


def at(space: Space, units: Any) -> Values:
    """The values at a point of the unit cube, float[dimensions] in the space's order."""
    return {name: dimension.value(float(u)) for (name, dimension), u in zip(space.items(), units, strict=True)}


def units(space: Space, values: Values) -> list[float]:
    """The point of the unit cube of these values, in the space's order."""
    return [dimension.unit(values[name]) for name, dimension in space.items()]


def _check_range(low: float, high: float, name: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        raise UserError(f"a range from {low} to {high}", where=f"space {name}", fix="Use finite numbers.")
    if low >= high:
        raise UserError(f"an empty range, {low:g} to {high:g}", where=f"space {name}")
