"""Values and names in few characters."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import Any


def told(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.02, layers 4`: of a dotted name the last part, where that is enough."""
    last = collections.Counter(name.rpartition(".")[2] for name in values)
    names = {name: name.rpartition(".")[2] if last[name.rpartition(".")[2]] == 1 else name for name in values}
    return ", ".join(f"{names[name]} {told_value(value)}" for name, value in values.items())


def told_value(value: Any) -> str:
    """A value of a dimension, where None is one like others."""
    return "None" if value is None else short(value)


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def cut(text: str, width: int) -> str:
    """At most so many characters, without the middle: names of one kind differ at their ends."""
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[head + 1 - width :]}"


def folded(name: str, width: int) -> str:
    """A name in lines of about so many characters, broken after dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
