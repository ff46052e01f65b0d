"""What is computed once after training: each gives values for result.json and a section for terminal and report."""

from __future__ import annotations

import dataclasses
from typing import Any

from lepjax.core.state import State
from lepjax.experiment import Built


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run, as final evaluations see it."""

    built: Built
    state: State
    results: dict[str, float]

    @property
    def params(self) -> Any:
        """The parameters that were evaluated: the average where there is one."""
        return self.state.params if self.state.ema is None else self.state.ema


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """Counts int[rows, columns] with a name for each row and column."""

    title: str
    names: tuple[str, ...]
    values: Any
    rows: str = "true"
    columns: str = "predicted"


@dataclasses.dataclass(frozen=True)
class Lines:
    """Curves {name: (x, y)} in one panel."""

    title: str
    x: str
    y: str
    curves: dict[str, tuple[Any, Any]]


Figure = Heatmap | Lines


@dataclasses.dataclass(frozen=True)
class Section:
    """`values` go to result.json, `table` (rows of label and value) and `text` to terminal and report, figures to the
    report.
    """

    title: str
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    table: tuple[tuple[str, float], ...] = ()
    text: str = ""
    figures: tuple[Figure, ...] = ()
    appendix: str = ""
    """Text for the report alone."""
