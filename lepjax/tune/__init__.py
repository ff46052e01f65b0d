"""Tuning: many trials, one program.

from lepjax import tune
result = tune.sweep(experiment, {"learning_rate": tune.loguniform(1e-5, 1e-2)}, trials=64)
"""

from lepjax.tune.pbt import pbt
from lepjax.tune.space import choice, integer, loguniform, uniform
from lepjax.tune.sweep import sweep

__all__ = ["choice", "integer", "loguniform", "pbt", "sweep", "uniform"]
