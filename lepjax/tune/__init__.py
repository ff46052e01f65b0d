"""Tuning: many trials, one program.

from lepjax import tune
result = tune.sweep(experiment, {"learning_rate": tune.loguniform(1e-5, 1e-2)}, trials=64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lepjax.tune.space import choice, integer, loguniform, uniform

if TYPE_CHECKING:
    from lepjax.tune.population import pbt as pbt
    from lepjax.tune.searching import sweep as sweep

__all__ = ["choice", "integer", "loguniform", "pbt", "sweep", "uniform"]

LATER = {"pbt": "population", "sweep": "searching"}


def __getattr__(name: str) -> Any:
    """What trains is imported when it is asked for: spaces and studies do without JAX."""
    if name not in LATER:
        raise AttributeError(f"module 'lepjax.tune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lepjax.tune.{LATER[name]}"), name)
