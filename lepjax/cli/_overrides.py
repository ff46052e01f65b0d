"""Every field of an experiment as a flag, through tyro; errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator
from typing import Any

import tyro

from lepjax.cli import _choices
from lepjax.core.errors import UserError, nearest
from lepjax.experiment import Epochs, Examples, Experiment, Length, Steps

SHORTHANDS: dict[str, Any] = {
    "--steps": lambda text: Steps(int(text)),
    "--epochs": lambda text: Epochs(float(text)),
    "--examples": lambda text: Examples(int(text)),
}
SHORTHAND_HELP = "Instead of --length.*: --steps N, --epochs X or --examples N."


def apply(
    experiment: Experiment, arguments: list[str], target: str, command: str = "train", own: str = ""
) -> Experiment:
    """The experiment with `--field value` overrides. `--help` prints every field with its default and exits.

    Raises `UserError` for an unknown field (with the nearest known one) or a value that does not fit.
    """
    length, rest = _length(arguments)
    if length is not None:
        experiment = dataclasses.replace(experiment, length=length)
    experiment, rest = _choices.choose(experiment, rest)
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            made, unknown = tyro.cli(
                Experiment,
                default=experiment,
                args=rest,
                prog=f"lepjax {command} {target}",
                description=f"Every field of the experiment can be overridden. {SHORTHAND_HELP} {own}",
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),  # what a field holds is chosen by then
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_line(heard.getvalue()), where=target, fix="See --help.") from None
    if unknown:
        name = unknown[0].split("=")[0]
        known = [*flags(experiment), *_choices.flags(experiment), *SHORTHANDS, *re.findall(r"--[\w-]+", own)]
        raise UserError(f"no field {name}", where=target, fix=nearest(name, known))
    return made


def _length(arguments: list[str]) -> tuple[Length | None, list[str]]:
    """Takes --steps, --epochs or --examples out of the arguments (at most one of them)."""
    lengths: list[tuple[str, Length]] = []
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, _, value = argument.partition("=")
        if name not in SHORTHANDS:
            rest.append(argument)
            continue
        value = value or (queue.pop(0) if queue else "")
        try:
            lengths.append((name, SHORTHANDS[name](value)))
        except ValueError as error:
            raise UserError(f"{value!r} is not a number", where=name) from error
    if len(lengths) > 1:
        raise UserError(f"{lengths[0][0]} and {lengths[1][0]} are both given", where="length", fix="Give one of them.")
    return (lengths[0][1] if lengths else None), rest


def flags(config: Any, prefix: str = "") -> Iterator[str]:
    """The flag of every field, as tyro spells them."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from flags(value, f"{name}.")
        else:
            yield f"--{name}"


def _first_line(box: str) -> str:
    """The first sentence inside tyro's frame. Where a frame cannot be shown, a title line stands before it."""
    lines = [line.strip("│─- ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sentences = [line for line in lines if line]
    return next(iter(sentences if "│" in box else sentences[1:]), "the arguments could not be read")
