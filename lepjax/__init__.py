"""lepjax: train, tune, compress and serve JAX models whose numbers can be trusted."""

import importlib
from typing import Any

__version__ = "0.1.0"

FACE = {
    "Trainer": ("lepjax.trainer", "Trainer"),
    "datasets": ("lepjax.data.datasets", ""),
    "optimizers": ("lepjax.core.recipes", ""),
}


def __getattr__(name: str) -> Any:
    """`from lepjax import Trainer, datasets, optimizers`, imported when asked for: `lepjax --help` needs no JAX."""
    if name not in FACE:
        raise AttributeError(f"module 'lepjax' has no attribute {name!r}")
    module, attribute = FACE[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
