"""Tuning: many trials, one program.

from lepjax import tune
result = tune.sweep(experiment, {"learning_rate": tune.loguniform(1e-5, 1e-2)}, trials=64)
"""

from lepjax.tune.space import choice, integer, loguniform, uniform

__all__ = ["choice", "integer", "loguniform", "uniform"]
