"""Spaces as Optuna knows them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from lepjax.core.errors import UserError
from lepjax.tune.space import Choice, Dimension, Integer, LogUniform, Space, Uniform


def optuna() -> ModuleType:
    """The package, quiet. Raises `UserError` where it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("Optuna is not installed", where="tune", fix='Run: pip install "lepjax[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distributions(space: Space) -> dict[str, Any]:
    """{name: distribution}"""
    return {name: distribution(dimension) for name, dimension in space.items()}


def distribution(dimension: Dimension) -> Any:
    known = optuna().distributions
    if isinstance(dimension, LogUniform):
        return known.FloatDistribution(dimension.low, dimension.high, log=True)
    if isinstance(dimension, Uniform):
        return known.FloatDistribution(dimension.low, dimension.high)
    if isinstance(dimension, Integer):
        return known.IntDistribution(dimension.low, dimension.high)
    if isinstance(dimension, Choice):
        return known.CategoricalDistribution(dimension.values)
    raise TypeError(f"{type(dimension).__name__} has no distribution of Optuna's")
