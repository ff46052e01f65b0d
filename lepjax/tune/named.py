"""Samplers and pruners by the name of their file."""

from __future__ import annotations

import importlib
import pathlib
from types import ModuleType
from typing import Any, TypeVar

from lepjax.core.errors import UserError, nearest

Kind = TypeVar("Kind")


def named(package: ModuleType, kind: type[Kind], given: str | Kind) -> Kind:
    """The one class of `kind` that the file `given` of `package` defines, made with its defaults; an instance is itself.

    Raises `UserError` for an unknown name, or where a package that the file needs is missing.
    """
    what = kind.__name__.lower()
    if isinstance(given, kind):
        return given
    names = names_in(package, kind)
    if given not in names:
        raise UserError(f"no {what} {given!r}", where=what, fix=nearest(str(given), names))
    module = importlib.import_module(f"{package.__name__}.{given}")
    made: list[Any] = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    return made[-1]()


def names_in(package: ModuleType, kind: type) -> list[str]:
    """The names that a person may give; the file of `kind` itself is none."""
    folder = pathlib.Path(str(package.__file__)).parent
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and path.stem != kind.__name__.lower()
    )
