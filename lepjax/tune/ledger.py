"""The reasons for what was chosen, and how much of the budget is spent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Reason:
    """A choice, and why."""

    what: str
    chosen: str
    because: str

    def __str__(self) -> str:
        return f"{self.what}: {self.chosen}, because {self.because}"


@dataclasses.dataclass
class Ledger:
    """The reasons so far, and the clock. Each reason is told as it is entered."""

    seconds: float
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.begun = time.perf_counter()
        self.reasons: list[Reason] = []

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.begun

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def enter(self, *reasons: Reason) -> None:
        for reason in reasons:
            self.reasons.append(reason)
            self.say(str(reason))
