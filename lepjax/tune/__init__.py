"""Tuning: many trials, one program.

from lepjax import tune
result = tune.sweep(experiment, {"learning_rate": tune.loguniform(1e-5, 1e-2)}, trials=64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lepjax.tune.space import choice, integer, loguniform, uniform

if TYPE_CHECKING:
    from lepjax.tune.pbt import pbt as pbt
    from lepjax.tune.sweep import sweep as sweep

__all__ = ["choice", "integer", "loguniform", "pbt", "sweep", "uniform"]


def __getattr__(name: str) -> Any:
    """What trains is imported when it is asked for: spaces and studies do without JAX."""
    if name not in ("pbt", "sweep"):
        raise AttributeError(f"module 'lepjax.tune' has no attribute {name!r}")
    function = getattr(importlib.import_module(f"lepjax.tune.{name}"), name)
    globals()[name] = function  # instead of the module, which importing has put there
    return function
