"""How a sweep stands, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from lepjax.tune.trial import Trial


class Live:
    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def started(self, total: int) -> None:
        self.total = total

    def update(self, trials: Sequence[Trial], compiles: int, seconds: float) -> None:
        done = [trial for trial in trials if trial.state not in ("waiting", "running")]
        self.console.print(f"{len(done)}/{self.total} trials  {compiles} compiles  {seconds:.0f} s", highlight=False)
