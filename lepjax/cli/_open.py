"""Options of commands that look at a run."""

from __future__ import annotations

from lepjax.core.errors import UserError


def option(arguments: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """(value, the other arguments) of `--name value` or `--name=value`."""
    rest = list(arguments)
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise UserError("needs a value", where=name)
            del rest[i : i + 2]
            return arguments[i + 1], rest
        if argument.startswith(f"{name}="):
            del rest[i]
            return argument.partition("=")[2], rest
    return default, rest
