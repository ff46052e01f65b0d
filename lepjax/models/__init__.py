"""Models. `from lepjax.models import BertForSequenceClassification` gives the classes of `lepjax.models.face`."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name[:1].isupper() and hasattr(face := importlib.import_module("lepjax.models.face"), name):
        return getattr(face, name)
    raise AttributeError(f"module 'lepjax.models' has no attribute {name!r}")
