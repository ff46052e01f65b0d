"""Search an experiment's fields: many trials, one program.

usage: lepjax tune EXPERIMENT --space NAME=RANGE [--space ...] [--trials N] [--sampler S] [--pruner P] [--together K|auto]
                   [--seeds N] [--order seed|shared] [--metric M] [--mode min|max] [--rescore N] [--sampler-seed N]
                   [--seconds N] [--study NAME] [--storage URL] [--run-dir FOLDER] [--field value ...]

  --space NAME=RANGE   what is searched: a field (learning_rate, model.layers, warmup_steps) and its range, one of
                       loguniform(1e-5,1e-2)  uniform(0,0.3)  integer(0,200)  choice(2,4). May be given several times.
                       A file of such lines does too (--space space.txt). Without it: what the function `space` of the
                       experiment's file returns.
  --trials N           default 64
  --sampler S          {samplers}; default tpe
  --pruner P           {pruners}; default none
  --together K         trials that train side by side in one program; 1: one after another, each on the experiment's mesh;
                       default auto
  --seeds N            runs per trial, whose mean counts: side by side, or with --together 1 taking their steps in turn;
                       default 1
  --order seed|shared  each run reads the data in the order of its seed, as a run does, or all in the same; default seed
  --metric M           default: the experiment's `best`, or the loss of its first evaluation split
  --rescore N          fresh seeds on which the winner is scored again; default 0
  --sampler-seed N     default 0
  --seconds N          after which no more trials begin
  --study NAME         default: the experiment's name. The same command goes on with it, also on several machines at once
  --storage URL        where the study is kept, as Optuna names it; default: study.db in the folder (SQLite)
  --run-dir FOLDER     for the report; default: runs/tune/<study>

Other flags are fields of the experiment. The same trials, trained alone, give the same losses within the tolerance that
docs/tuning.md states. Early stopping and plateaus of the experiment take no part: the pruner does.
"""

from __future__ import annotations

import pathlib
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from lepjax.cli import _load, _overrides
from lepjax.core.errors import DONE, RESTART, UserError, nearest
from lepjax.run.hush import hush
from lepjax.tune import pruners, samplers, space
from lepjax.tune.named import names_in
from lepjax.tune.pruners.pruner import Pruner
from lepjax.tune.samplers.sampler import Sampler
from lepjax.tune.space import Dimension, Space

RANGES: dict[str, Callable[..., Dimension]] = {
    "uniform": space.uniform,
    "loguniform": space.loguniform,
    "integer": space.integer,
    "choice": lambda *values: space.choice(values),
}
OPTIONS: dict[str, type] = {
    "trials": int,
    "sampler": str,
    "pruner": str,
    "together": str,
    "seeds": int,
    "order": str,
    "metric": str,
    "mode": str,
    "rescore": int,
    "sampler-seed": int,
    "seconds": float,
    "study": str,
    "storage": str,
    "run-dir": str,
}


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        known = {"samplers": ", ".join(names_in(samplers, Sampler)), "pruners": ", ".join(names_in(pruners, Pruner))}
        print((__doc__ or "").format(**known))
        return DONE
    target, *rest = arguments
    ranges, options, rest = taken(rest)
    loaded = _load.from_file(target, rest)
    experiment = _overrides.apply(loaded.experiment, loaded.rest, target, "tune", own=loaded.own)
    searched = read_space(ranges) if ranges else _load.space_of(target)
    hush()
    from lepjax.tune.searching import sweep

    command = " ".join([target, *map(shlex.quote, rest)])
    try:
        result = sweep(experiment, searched, name=loaded.name, target=command, console=Console(), **options)
    except KeyboardInterrupt:
        print("lepjax: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return RESTART
    result.show(Console())
    return DONE


def taken(arguments: list[str]) -> tuple[list[str], dict[str, Any], list[str]]:
    """(ranges, options of this command, the other arguments)"""
    ranges: list[str] = []
    options: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, separator, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in {*OPTIONS, "space"}:
            rest.append(argument)
            continue
        if not separator:
            if not queue:
                raise UserError("needs a value", where=f"--{name}")
            value = queue.pop(0)
        if name == "space":
            ranges.append(value)
            continue
        if name in options:
            raise UserError("is given twice", where=f"--{name}")
        try:
            options[name.replace("-", "_")] = OPTIONS[name](value)
        except ValueError as error:
            raise UserError(f"{value!r} is no {OPTIONS[name].__name__}", where=f"--{name}") from error
    if (together := options.get("together", "auto")) != "auto":
        if not together.isdecimal():
            raise UserError(f"{together!r}", where="--together", fix="Use auto, or a whole number from 1.")
        options["together"] = int(together)
    return ranges, options, rest


def read_space(ranges: list[str]) -> Space:
    """`learning_rate=loguniform(1e-5,1e-2)` and the like, or files of such lines (`#` begins a comment)."""
    found: dict[str, Dimension] = {}
    for text in ranges:
        path = pathlib.Path(text)
        if "=" not in text and not path.is_file():
            raise UserError("no such file, and no NAME=RANGE", where=f"--space {text}")
        lines = path.read_text(encoding="utf-8").splitlines() if "=" not in text else [text]
        for number, line in enumerate(lines, 1):
            where = f"--space {text}" if "=" in text else f"{text} line {number}"
            line = line.partition("#")[0].strip()
            if not line:
                continue
            name, dimension = _range(line, where)
            if name in found:
                raise UserError(f"{name} is given twice", where=where)
            found[name] = dimension
    return found


def _range(line: str, where: str) -> tuple[str, Dimension]:
    match = re.fullmatch(r"([\w.]+)\s*=\s*(\w+)\((.*)\)", line)
    if match is None:
        raise UserError(f"{line!r} is no NAME=RANGE", where=where, fix="Such as learning_rate=loguniform(1e-5,1e-2).")
    name, kind, inside = match.groups()
    if kind not in RANGES:
        raise UserError(f"no range {kind!r}", where=where, fix=nearest(kind, RANGES))
    values = [_value(word.strip()) for word in inside.split(",")] if inside.strip() else []
    try:
        return name, RANGES[kind](*values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind}({inside})", where=where, fix="Give two numbers, or values to choose from.") from error


def _value(word: str) -> Any:
    """A whole number, a number, true, false, none, or else a string."""
    constants = {"true": True, "false": False, "none": None}
    if word.lower() in constants:
        return constants[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word.strip("'\"")
