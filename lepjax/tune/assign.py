"""From names in a space to fields of an experiment, and from values to experiments."""

from __future__ import annotations

import dataclasses
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lepjax.core import fields
from lepjax.core.errors import UserError, nearest
from lepjax.experiment import Experiment
from lepjax.tune.space import Dimension, Space, Values, check_space


@dataclasses.dataclass(frozen=True)
class Field:
    """A plain field somewhere in an experiment."""

    path: str
    kind: str
    hint: Any
    """Its annotation."""
    leaf: str
    """The hyperparameter leaf it begins, where that is called otherwise; empty: its own name."""


def fields_of(config: Any, prefix: str = "", kind: str = fields.IDENTITY) -> Iterator[Field]:
    """Every plain field of a tree of dataclasses."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        own = field.metadata.get("kind", fields.IDENTITY) if kind == fields.IDENTITY else kind
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{path}.", own)
        else:
            yield Field(path, own, hints[field.name], field.metadata.get("leaf", ""))


def resolve(experiment: Experiment, space: Space) -> dict[str, Field]:
    """{name in the space: the field it means}.

    A name is a dotted path (`model.layers`), the last part of exactly one (`learning_rate`), or the name of the
    hyperparameter that a field begins (`warmup_steps` is `optimizer.schedule.warmup`). Raises `UserError` for unknown and
    ambiguous names, for values that a field cannot hold, and for fields that do not change what is learned.
    """
    check_space(space)
    known = list(fields_of(experiment))
    found = {name: _one(name, known) for name in space}
    by_path: dict[str, str] = {}
    for name, field in found.items():
        if field.path in by_path:
            raise UserError(f"{by_path[field.path]} and {name} are both {field.path}", where=f"space {name}")
        by_path[field.path] = name
        if field.kind == fields.RUNTIME:
            fix = f"Leave it out of the space: --{flag(field.path)} sets it for all trials."
            raise UserError(f"{field.path} does not change what is learned", where=f"space {name}", fix=fix)
    for name, field in found.items():
        for value in _examples(space[name]):
            _check_value(field, value, name)
            try:
                assigned(experiment, {name: value}, found)
            except UserError as error:
                if len(space) == 1 or not _needs_others(experiment, space, found, name):
                    raise UserError(error.found, where=f"space {name}", fix=error.fix) from error
    return found


def assigned(experiment: Experiment, values: Values, found: Mapping[str, Field]) -> Experiment:
    """The experiment with these values in the fields they mean. Raises `UserError` where a part refuses them."""
    return _replaced(experiment, {found[name].path: value for name, value in values.items()})


def overrides(values: Values, found: Mapping[str, Field]) -> str:
    """The same as flags of a command, quoted for a shell."""
    words: list[str] = []
    for name, value in values.items():
        path = flag(found[name].path)
        if isinstance(value, bool):
            head, _, last = path.rpartition(".")
            words.append("--" + (path if value else f"{head}.no-{last}" if head else f"no-{last}"))
        else:
            words += [f"--{path}", shlex.quote(str(value))]
    return " ".join(words)


def flag(path: str) -> str:
    return path.replace("_", "-")


def _one(name: str, known: list[Field]) -> Field:
    exact = [field for field in known if field.path == name]
    last = [field for field in known if name in (field.path.rpartition(".")[2], field.leaf)]
    if len(exact or last) == 1:
        return (exact or last)[0]
    if last:
        paths = ", ".join(field.path for field in last)
        raise UserError("means several fields", where=f"space {name}", fix=f"Name one of {paths}.")
    names = {field.path for field in known} | {field.path.rpartition(".")[2] for field in known}
    raise UserError("the experiment has no such field", where=f"space {name}", fix=nearest(name, names))


def _examples(dimension: Dimension) -> Sequence[Any]:
    options = dimension.options
    if options is None or len(options) > 100:
        return dimension.value(0.0), dimension.value(1.0)
    return options


def _needs_others(experiment: Experiment, space: Space, found: Mapping[str, Field], name: str) -> bool:
    """Whether the other dimensions can make room: a width may suit some numbers of heads only."""
    group = found[name].path.rpartition(".")[0]
    return any(found[other].path.rpartition(".")[0] == group for other in space if other != name)


def _check_value(field: Field, value: Any, name: str) -> None:
    if _fits(field.hint, value):
        return
    kind = getattr(field.hint, "__name__", str(field.hint))
    whole = isinstance(value, float) and _fits(field.hint, 1)
    fix = "Use tune.integer." if whole else "Use values of that kind."
    raise UserError(f"{field.path} is {kind}, and {value!r} is not", where=f"space {name}", fix=fix)


def _fits(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(part, value) for part in typing.get_args(hint))
    if hint is type(None) or value is None:
        return hint is type(None) and value is None
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(hint, type) and isinstance(value, hint)


def _replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """Dotted paths -> values, each dataclass made anew once, so that it judges all its new values together."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            below.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    for head, inner in below.items():
        own[head] = _replaced(getattr(config, head), inner)
    return dataclasses.replace(config, **own)
