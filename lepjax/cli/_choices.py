"""Which kind of recipe a field holds, as a flag: `--data.bad-records skip`, `--optimizer muon`, `--data.batching packed`."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from lepjax.core.errors import UserError, nearest


def choose(config: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """Takes `--path kind` out of the arguments where the field at `path` holds a recipe: (the changed config, the rest).

    A recipe that is chosen begins with its defaults; `--path.field value` may then change them. Raises `UserError` for a
    kind that is none.
    """
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, separator, kind = argument.partition("=")
        names = flag.removeprefix("--").replace("-", "_").split(".")
        base = _base(config, names) if flag.startswith("--") else None
        if base is None:
            rest.append(argument)
            continue
        if not separator:
            if not queue:
                raise UserError("needs a value", where=flag, fix=nearest("", kinds(base)))
            kind = queue.pop(0)
        config = _replaced(config, names, _made(base, kind, flag))
    return config, rest


def kinds(base: type) -> dict[str, type]:
    """The recipes that derive from `base`, those of imported modules outside too, by the names that flags give them."""
    return {_spelled(kind.__name__): kind for kind in _below(base) if not _below(kind)}


def flags(config: Any, prefix: str = "--") -> Iterator[str]:
    """The flags of all fields that hold a recipe of several kinds."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            name = f"{prefix}{field.name.replace('_', '-')}"
            if len(kinds(_annotated(type(config), field.name))) > 1:
                yield name
            yield from flags(value, f"{name}.")


def _below(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [kind for child in children for kind in (child, *_below(child))]


def _spelled(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _base(config: Any, names: list[str]) -> type | None:
    """What the field at this path is annotated with, where it holds a recipe."""
    for name in names[:-1]:
        config = getattr(config, name, None)
    if not dataclasses.is_dataclass(config) or not dataclasses.is_dataclass(getattr(config, names[-1], None)):
        return None
    return _annotated(type(config), names[-1])


def _annotated(owner: type, name: str) -> type:
    hint = typing.get_type_hints(owner)[name]
    if isinstance(hint, types.UnionType):  # `EarlyStopping | None`
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _made(base: type, kind: str, flag: str) -> Any:
    known = kinds(base)
    if kind not in known:
        raise UserError(f"no kind {kind!r}", where=flag, fix=nearest(kind, known))
    try:
        return known[kind]()
    except TypeError as error:
        raise UserError(f"{kind} cannot be made without values ({error})", where=flag) from error


def _replaced(config: Any, names: list[str], value: Any) -> Any:
    name, *deeper = names
    inner = _replaced(getattr(config, name), deeper, value) if deeper else value
    return dataclasses.replace(config, **{name: inner})
