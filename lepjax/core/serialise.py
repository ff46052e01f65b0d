"""Trees of dataclasses as JSON: class names and fields, rebuilt by import, never by pickle."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from lepjax.core.errors import UserError


def to_json(config: Any) -> Any:
    """Class names and fields, enough to rebuild the experiment without the script that made it."""
    if dataclasses.is_dataclass(config):
        values = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"class": f"{type(config).__module__}:{type(config).__qualname__}", "fields": values}
    if isinstance(config, (tuple, list)):
        return [to_json(item) for item in config]
    if isinstance(config, float) and config in (float("inf"), float("-inf")):
        return {"float": str(config)}  # JSON has no infinities
    return config


def from_json(data: Any, where: str = "experiment.json") -> Any:
    """Rebuilds what `to_json` wrote. Raises `UserError` for a class that is not importable or not a dataclass."""
    if isinstance(data, list):
        return tuple(from_json(item, where) for item in data)
    if not isinstance(data, dict):
        return data
    if data.keys() == {"float"} and data["float"] in ("inf", "-inf"):
        return float(data["float"])
    if data.keys() != {"class", "fields"} or not isinstance(data["fields"], dict):
        raise UserError(f"{str(data)[:80]} is no recipe", where=where, fix="It was damaged, or written by hand.")
    module, _, name = str(data["class"]).partition(":")
    try:
        kind: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"class {data['class']!r} cannot be imported",
            where=where,
            fix="Name the experiment file instead of the run directory.",
        ) from error
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise UserError(f"{data['class']!r} is not a dataclass", where=where)
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data["fields"]) - known):
        raise UserError(
            f"{data['class']} has no field {unknown[0]!r}", where=where, fix="It was written by another version."
        )
    values = {key: from_json(value, where) for key, value in data["fields"].items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{data['class']} cannot be made ({error})", where=where) from error
