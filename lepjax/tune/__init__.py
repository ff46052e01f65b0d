"""Tuning: many trials, one program.

from lepjax import tune
result = tune.sweep(experiment, {"learning_rate": tune.loguniform(1e-5, 1e-2)}, trials=64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lepjax.tune.space import choice, integer, loguniform, uniform

if TYPE_CHECKING:
    from lepjax.tune.batch_finder import find_batch as find_batch
    from lepjax.tune.finders import FindBatch as FindBatch
    from lepjax.tune.finders import FindLr as FindLr
    from lepjax.tune.lr_finder import find_lr as find_lr
    from lepjax.tune.population import pbt as pbt
    from lepjax.tune.searching import sweep as sweep

__all__ = ["FindBatch", "FindLr", "choice", "find_batch", "find_lr", "integer", "loguniform", "pbt", "sweep", "uniform"]

LATER = {
    "FindBatch": "finders",
    "FindLr": "finders",
    "find_batch": "batch_finder",
    "find_lr": "lr_finder",
    "pbt": "population",
    "sweep": "searching",
}


def __getattr__(name: str) -> Any:
    """What trains is imported when it is asked for: spaces and studies do without JAX."""
    if name not in LATER:
        raise AttributeError(f"module 'lepjax.tune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lepjax.tune.{LATER[name]}"), name)
