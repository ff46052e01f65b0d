"""Finding an experiment: in a file, or in the run directory that it left."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lepjax.core.errors import UserError, nearest
from lepjax.experiment import Experiment
from lepjax.run.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An experiment from a file: its name, the arguments that are not its function's own, and a line on those that are."""

    name: str
    experiment: Experiment
    rest: list[str]
    own: str


def from_file(target: str, arguments: list[str]) -> Loaded:
    """Loads `experiments/sst2.py` or `experiments/sst2.py:chinese`.

    Parameters of the function (`def experiment(model: str = "...", data_dir: str = "")`) are flags of the command
    (`--model`, `--data-dir`), and are taken out of `arguments`.
    """
    text, _, function = target.partition(":")
    path = pathlib.Path(text)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else pathlib.Path()
        known = [str(p) for p in folder.glob("*.py")] + [str(p) for p in pathlib.Path().glob("experiments/*.py")]
        raise UserError("no such experiment file", where=text, fix=nearest(text, known) if known else "")
    module = _import(path)
    makers = experiments_in(module)
    if not makers:
        raise UserError(
            "has no function that returns an Experiment", where=text, fix="Define `def experiment() -> Experiment`."
        )
    wanted = function or "experiment"
    if wanted not in makers:
        raise UserError(f"has no experiment {wanted!r}", where=text, fix=nearest(wanted, makers))
    given, rest = own_arguments(makers[wanted], arguments)
    made = makers[wanted](**given)
    if not isinstance(made, Experiment):
        raise UserError(f"{wanted}() returns {type(made).__name__}, not an Experiment", where=text)
    name = path.stem if wanted == "experiment" else f"{path.stem}-{wanted}"
    return Loaded(name, made, rest, own_help(makers[wanted]))


def own_arguments(function: Callable[..., Any], arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of the function's own parameters, as their defaults' types, and the other arguments."""
    flags = {f"--{name.replace('_', '-')}": p for name, p in inspect.signature(function).parameters.items()}
    given: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, separator, value = argument.partition("=")
        if flag not in flags:
            rest.append(argument)
            continue
        if not separator:
            if not queue:
                raise UserError("needs a value", where=flag)
            value = queue.pop(0)
        kind = type(flags[flag].default)
        try:
            given[flags[flag].name] = kind(value)
        except ValueError as error:
            raise UserError(f"{value!r} is not {kind.__name__}", where=flag) from error
    return given, rest


def own_help(function: Callable[..., Any]) -> str:
    """One line that names the function's own parameters and their defaults; empty: it has none."""
    parameters = inspect.signature(function).parameters.values()
    listed = ", ".join(f"--{p.name.replace('_', '-')} (default: {p.default!r})" for p in parameters)
    return f"Of this experiment: {listed}." if listed else ""


def experiments_in(module: ModuleType) -> dict[str, Callable[..., Experiment]]:
    """Public functions of a module that are `experiment` or are annotated to return one."""
    makers: dict[str, Callable[..., Experiment]] = {}
    for name, function in vars(module).items():
        if not inspect.isfunction(function) or function.__module__ != module.__name__ or name.startswith("_"):
            continue
        signature = inspect.signature(function)
        returns = signature.return_annotation
        if name == "experiment" or returns is Experiment or returns == "Experiment":
            makers[name] = function
    return makers


def _import(path: pathlib.Path) -> ModuleType:
    """Imports the file under its dotted path from here, so that its classes can be found again by name."""
    absolute = path.resolve()
    here = pathlib.Path.cwd()
    parts = absolute.relative_to(here).with_suffix("").parts if absolute.is_relative_to(here) else (absolute.stem,)
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    name = ".".join(parts)
    spec = importlib.util.spec_from_file_location(name, absolute)
    if spec is None or spec.loader is None:
        raise UserError("is not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"line {error.lineno}: {error.msg}", where=str(path)) from error
    except ImportError as error:
        raise UserError(f"cannot be imported ({error})", where=str(path)) from error
    return module


def space_of(target: str) -> Any:
    """What the function `space` of an experiment's file returns: the fields that are worth searching, and their ranges."""
    path = pathlib.Path(target.partition(":")[0])
    function = getattr(_import(path), "space", None)
    if not inspect.isfunction(function):
        fix = "Pass --space NAME=RANGE, or define `def space()` there."
        raise UserError("says nothing of what to search", where=str(path), fix=fix)
    return function()


def run_of(target: str, overrides: list[str]) -> tuple[RunDirectory, Experiment]:
    """The run of an experiment file (with overrides) or a run directory, to look at what it learned."""
    from lepjax.cli._overrides import apply
    from lepjax.run.directory import default_path

    path = pathlib.Path(target)
    if path.is_dir():
        directory = RunDirectory(path)
        experiment = directory.experiment()
        if experiment is None:
            raise UserError("is no run directory (no experiment.json)", where=target)
        return directory, apply(experiment, overrides, target)
    loaded = from_file(target, overrides)
    name, experiment = loaded.name, apply(loaded.experiment, loaded.rest, target, own=loaded.own)
    directory = RunDirectory(default_path(name, experiment))
    if not directory.path.is_dir():
        raise UserError("has not been trained", where=str(directory.path), fix=f"Run: lepjax train {target}")
    return directory, experiment
