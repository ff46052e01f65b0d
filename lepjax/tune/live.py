"""How a sweep stands, in the terminal: a table that is rewritten, or a line for each cohort where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import rich.live
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepjax.tune.trial import RUNNING, WAITING, Trial, winner
from lepjax.tune.words import short, told

SHOWN = 8  # trials that run, or that ended last


class Live:
    """`started` once, `ended` after every cohort, and `reported` whenever trials report. A quiet console stays quiet."""

    def __init__(self, console: Console, metric: str, mode: str) -> None:
        self.console, self.metric, self.mode = console, metric, mode
        shown = console.is_terminal and not console.quiet  # a quiet table would still take what others print
        self.table = rich.live.Live(console=console, refresh_per_second=4) if shown else None
        self._before = 0  # trials that were done when this began: of a sweep that goes on, no matter of its speed
        self._since = 0.0

    def __enter__(self) -> Live:
        if self.table is not None:
            self.table.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.table is not None:
            self.table.update("")  # the result's own table follows
            self.table.__exit__(None, None, None)

    def started(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        """The study is open; trials of before are told as what is there."""
        self._before, self._since = done(trials), seconds
        self.reported(trials, compiles, seconds)
        if self.table is None and self._before:
            self._say(f"goes on  {self._before}/{len(trials)} trials are done")

    def reported(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        """Something moved. Only a terminal shows it."""
        if self.table is not None:
            self.table.update(self._drawn(trials, compiles, seconds))

    def ended(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        """A cohort came to its end."""
        if self.table is not None:
            self.reported(trials, compiles, seconds)
        else:
            self._say(self.told(trials, compiles, seconds))

    def told(self, trials: Sequence[Trial], compiles: int, seconds: float) -> str:
        """`16/64 trials  best dev_loss 2.21 (trial 3)  31.2 trials/min  1 compile`"""
        best = winner(trials, self.mode)
        rate = 60 * (done(trials) - self._before) / max(seconds - self._since, 1e-9)
        parts = [f"{done(trials)}/{len(trials)} trials"]
        parts += [f"best {self.metric} {short(best.score)} (trial {best.ordinal})"] if best is not None else []
        parts += [f"{rate:,.1f} trials/min"] if rate else []
        parts += [f"{compiles} compile" + "s" * (compiles != 1)]
        return "  ".join(parts)

    def _drawn(self, trials: Sequence[Trial], compiles: int, seconds: float) -> RenderableType:
        """The line, the best trial's values, and the trials that move with their last reports."""
        table = Table(box=None, header_style="bold")
        for column in ("trial", "state", "step", self.metric):
            table.add_column(Text(column), justify="right", no_wrap=True)
        table.add_column("values")
        moving = [trial for trial in trials if trial.state == RUNNING] or [t for t in trials if t.state != WAITING]
        for trial in moving[-SHOWN:]:
            step = max(trial.reports, default=trial.steps)
            score = trial.reports.get(step, trial.score)
            values = Text(told(trial.values), no_wrap=True, overflow="ellipsis")
            table.add_row(str(trial.ordinal), trial.state, f"{step:,}", short(score), values)
        best = winner(trials, self.mode)
        best_values = [Text(f"best: {told(best.values)}")] if best is not None else []
        more = [Text(f"and {len(moving) - SHOWN} more")] if len(moving) > SHOWN and moving[0].state == RUNNING else []
        return Group(Text(self.told(trials, compiles, seconds), "bold"), *best_values, table, *more)

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)


def done(trials: Sequence[Trial]) -> int:
    """How many have come to an end."""
    return sum(trial.state not in (WAITING, RUNNING) for trial in trials)
