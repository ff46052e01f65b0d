"""How a sweep stands, in the terminal: a table that is rewritten, or a line for each cohort where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import rich.live
from rich.console import Console
from rich.table import Table

from lepjax.tune.plots import short, told
from lepjax.tune.result import winner
from lepjax.tune.trial import RUNNING, WAITING, Trial

SHOWN = 8  # trials that run, or that ended last


class Live:
    """`update` after every cohort, and whenever trials report."""

    def __init__(self, console: Console, metric: str, mode: str) -> None:
        self.console, self.metric, self.mode = console, metric, mode
        self.table = rich.live.Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Live:
        if self.table is not None:
            self.table.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.table is not None:
            self.table.update("")  # the result's own table follows
            self.table.__exit__(None, None, None)

    def reported(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        """Something moved. Only a terminal shows it."""
        if self.table is not None:
            self.table.update(self._drawn(trials, compiles, seconds))

    def ended(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        """A cohort came to its end."""
        if self.table is not None:
            self.reported(trials, compiles, seconds)
        else:
            self.console.print(self.told(trials, compiles, seconds), highlight=False, soft_wrap=True, markup=False)

    def told(self, trials: Sequence[Trial], compiles: int, seconds: float) -> str:
        """`16/64 trials  best dev_loss 2.21 (trial 3)  31.2 trials/min  1 compile`"""
        done = sum(trial.state not in (WAITING, RUNNING) for trial in trials)
        best = winner(list(trials), self.mode)
        parts = [f"{done}/{len(trials)} trials"]
        parts += [f"best {self.metric} {short(best.score)} (trial {best.ordinal})"] if best is not None else []
        parts += [f"{60 * done / max(seconds, 1e-9):,.1f} trials/min", f"{compiles} compile" + "s" * (compiles != 1)]
        return "  ".join(parts)

    def _drawn(self, trials: Sequence[Trial], compiles: int, seconds: float) -> Table:
        table = Table(title=self.told(trials, compiles, seconds), box=None, title_justify="left", header_style="bold")
        for column in ("trial", "state", "step", self.metric):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("values")
        moving = [trial for trial in trials if trial.state == RUNNING] or [t for t in trials if t.state != WAITING]
        for trial in moving[-SHOWN:]:
            step = max(trial.reports, default=0)
            score = trial.reports.get(step, trial.score)
            table.add_row(str(trial.ordinal), trial.state, f"{step:,}", short(score), told(trial.values))
        return table
