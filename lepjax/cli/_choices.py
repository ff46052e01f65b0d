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

    A recipe that is chosen begins with its defaults; `--path.field value` may then change them. `none` empties a field that
    may be empty. Raises `UserError` for a kind that is none.
    """
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, separator, kind = argument.partition("=")
        names = flag.removeprefix("--").replace("-", "_").split(".")
        known = kinds_of(config, names) if flag.startswith("--") else {}
        if not known:
            rest.append(argument)
            continue
        if not separator:
            if not queue:
                raise UserError("needs a value", where=flag, fix=nearest("", known))
            kind = queue.pop(0)
        if kind not in known:
            raise UserError(f"no kind {kind!r}", where=flag, fix=nearest(kind, known))
        config = _replaced(config, names, _made(known[kind], flag))
    return config, rest


def kinds_of(config: Any, names: list[str]) -> dict[str, type]:
    """The recipes that the field at this path may hold, by the names that flags give them; {}: it holds something else."""
    for name in names[:-1]:
        config = getattr(config, name, None)
    if not dataclasses.is_dataclass(config) or not hasattr(config, names[-1]):
        return {}
    hint = typing.get_type_hints(type(config)).get(names[-1])
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)  # `EarlyStopping | None`
    base = next((part for part in parts if dataclasses.is_dataclass(part)), None)
    if not isinstance(base, type):
        return {}
    return kinds(base) | ({"none": types.NoneType} if types.NoneType in parts else {})


def kinds(base: type) -> dict[str, type]:
    """`base` and the recipes that derive from it, those of imported modules outside too, without those between."""
    found = [base, *_below(base)]
    return {_spelled(kind.__name__): kind for kind in found if not _below(kind)}


def flags(config: Any, prefix: str = "--") -> Iterator[str]:
    """The flags of all fields that hold one of several recipes."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if len(kinds_of(config, [field.name])) > 1:
            yield name
        if dataclasses.is_dataclass(value):
            yield from flags(value, f"{name}.")


def _below(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [kind for child in children for kind in (child, *_below(child))]


def _spelled(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _made(kind: type, flag: str) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise UserError(f"{kind.__name__} cannot be made without values ({error})", where=flag) from error


def _replaced(config: Any, names: list[str], value: Any) -> Any:
    name, *deeper = names
    inner = _replaced(getattr(config, name), deeper, value) if deeper else value
    return dataclasses.replace(config, **{name: inner})
