"""why.html and why.json: what was found in the data, what was chosen, and because of what."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from lepjax.run import files, page
from lepjax.tune.inspect import Finding
from lepjax.tune.ledger import Reason
from lepjax.tune.result import Result
from lepjax.tune.words import short


def write(
    folder: pathlib.Path,
    findings: Sequence[Finding],
    reasons: Sequence[Reason],
    outcome: dict[str, Any],
    result: Result | None,
    seconds: float,
    budget: float,
) -> None:
    """`outcome`: result.json of the final run; `result`: of the search."""
    scores = {name: value for name, value in outcome.items() if name.startswith(("dev_", "test_"))}
    data = {
        "seconds": round(seconds, 1),
        "budget": budget,
        "scores": scores,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "reasons": [dataclasses.asdict(reason) for reason in reasons],
        "search": None if result is None else result.to_json(),
    }
    files.write_json(folder / "why.json", data)
    files.write_text(folder / "why.html", render(folder, data, result))


def render(folder: pathlib.Path, data: dict[str, Any], result: Result | None) -> str:
    scores = [(name, short(value)) for name, value in data["scores"].items()]
    found = [(f["what"], ("look at this: " if f["warning"] else "") + f["found"]) for f in data["findings"]]
    why = [(r["what"], r["chosen"], r["because"]) for r in data["reasons"]]
    parts = [
        page.pairs("Scores on records that nothing was chosen by", scores),
        page.table("What the data holds", ("what", "found"), found),
        page.table("Why", ("what", "chosen", "because"), why),
    ]
    if result is not None:
        parts.append(f"<h2>Search</h2><div class='wide'>{page.svg(result.plot_history())}</div>")
        parts.append(f"<div class='wide'>{page.svg(result.plot_slice())}</div>")
    spent = f"{data['seconds']:,.0f} s of a budget of {data['budget']:,.0f} s"
    return page.page(f"autotune {folder.name}", spent, parts)
