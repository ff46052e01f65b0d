"""What was done to a run, what came of it, and how sure that makes."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from lepjax.run import files


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One fault and what came of it."""

    kind: str
    what: str
    """The fault, such as the phase it hit or the file it damaged."""
    bad: str = ""
    """What broke, in words; empty: nothing."""
    came: str = "went on"
    """What came of it where nothing broke: went on, refused, ..."""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A kind of fault that could not be tried here."""

    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    target: str
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    seconds: dict[str, float]
    """Wall time by kind, the undisturbed run included."""

    @property
    def bad(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.bad]

    def to_json(self) -> dict[str, Any]:
        kinds = dict.fromkeys(outcome.kind for outcome in self.outcomes)
        return {
            "target": self.target,
            "bad": len(self.bad),
            "kinds": {kind: self._kind(kind) for kind in kinds},
            "skipped": [dataclasses.asdict(skipped) for skipped in self.skipped],
            "seconds": {kind: round(seconds, 1) for kind, seconds in self.seconds.items()},
            "outcomes": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }

    def _kind(self, kind: str) -> dict[str, Any]:
        of_kind = [outcome for outcome in self.outcomes if outcome.kind == kind]
        return {
            "done": len(of_kind),
            "bad": sum(bool(outcome.bad) for outcome in of_kind),
            "hit": dict(collections.Counter(outcome.what for outcome in of_kind).most_common()),
            "came": dict(collections.Counter(outcome.came for outcome in of_kind if not outcome.bad)),
            "bound": bound(of_kind),
        }

    def to_text(self) -> str:
        told = self.to_json()
        text = [f"chaos    {self.target}"]
        for kind, of_kind in told["kinds"].items():
            came = ", ".join(f"{count} {came}" for came, count in of_kind["came"].items())
            text.append(f"{kind:<12} {of_kind['done']} done, bad = {of_kind['bad']}; {came or '-'}; {of_kind['bound']}")
            text += [f"    {count:>4}  {what}" for what, count in list(of_kind["hit"].items())[:12]]
            if (more := len(of_kind["hit"]) - 12) > 0:
                text.append(f"          and {more} more, in the JSON")
        text += [f"{skipped.kind:<12} skipped: {skipped.reason}" for skipped in self.skipped]
        text += [f"bad          {outcome.kind}, {outcome.what}: {outcome.bad}" for outcome in self.bad]
        text.append("seconds      " + ", ".join(f"{kind} {seconds:,.0f}" for kind, seconds in self.seconds.items()))
        text.append(f"bad = {len(self.bad)} of {len(self.outcomes)}")
        return "\n".join(text) + "\n"

    def write(self, folder: pathlib.Path) -> None:
        files.write_text(folder / "chaos.json", json.dumps(self.to_json(), indent=2) + "\n")
        files.write_text(folder / "chaos.txt", self.to_text())


def bound(outcomes: Sequence[Outcome]) -> str:
    """What so many trials allow to say: 0 of N leaves less than 3 / N per fault at 95 % (the rule of three)."""
    bad, done = sum(bool(outcome.bad) for outcome in outcomes), len(outcomes)
    return f"{bad / done:.1%} were bad" if bad else f"less than {min(3 / done, 1):.1%} per fault at 95 %"
