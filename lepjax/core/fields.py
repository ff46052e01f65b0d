"""The three kinds of experiment field, and what follows from each.

identity   what is learned from what: a change makes another run (its hash names the run directory)
hparam     a number that lives in the state: a change on resume is applied, printed and logged, and never recompiles
runtime    where and how loudly it runs: free
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

IDENTITY, HPARAM, RUNTIME = "identity", "hparam", "runtime"


def hparam(default: Any, leaf: str = "") -> Any:
    """A dataclass field whose value becomes a float32 leaf of the state (or tells how long to train). `leaf` is the leaf's
    name, where it is not the field's.
    """
    return dataclasses.field(default=default, metadata={"kind": HPARAM, "leaf": leaf})


def runtime(default: Any) -> Any:
    """A dataclass field that does not influence the numbers."""
    return dataclasses.field(default=default, metadata={"kind": RUNTIME})


def later(default: Any) -> Any:
    """An identity field that a recipe was given after runs of it existed. At its default it is no part of the identity, so
    that they are still found under their names.
    """
    return dataclasses.field(default=default, metadata={"kind": IDENTITY, "later": True})


def walk(config: Any, prefix: str = "", kind: str = IDENTITY) -> Iterator[tuple[str, str, Any]]:
    """Yields `(dotted path, kind, value)` for every plain value inside a tree of dataclasses.

    A field inside an hparam or runtime field inherits that kind. The class of each nested dataclass is itself an
    identity value at `path.class`, because AdamW and Lion with equal numbers are different runs; inside an hparam
    field it is an hparam (three epochs instead of 900 steps is another length of the same run).
    """
    for field in dataclasses.fields(config):
        own = field.metadata.get("kind", IDENTITY) if kind == IDENTITY else kind
        value = getattr(config, field.name)
        if not (field.metadata.get("later") and value == field.default):
            yield from _walk_value(value, f"{prefix}{field.name}", own)


def _walk_value(value: Any, path: str, kind: str) -> Iterator[tuple[str, str, Any]]:
    if dataclasses.is_dataclass(value):
        yield f"{path}.class", kind, type(value).__qualname__
        yield from walk(value, f"{path}.", kind)
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for i, item in enumerate(value):
            yield from _walk_value(item, f"{path}.{i}", kind)
    else:
        yield path, kind, value
