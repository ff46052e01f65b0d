"""What came of a sweep."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from lepjax.tune.trial import Trial


@dataclasses.dataclass(frozen=True)
class Rescored:
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    trials: tuple[Trial, ...]
    space: dict[str, Any]
    metric: str
    mode: str
    compiles: int
    groups: int
    seconds: float
    command: str
    rescored: Rescored | None
    study_url: str
    study_name: str
    directory: pathlib.Path
