"""Break runs of an experiment on purpose, and judge what is resumed by its losses.

usage: lepjax chaos EXPERIMENT [--kills 20] [--draw 0] [--folder FOLDER] [--field value ...]

  --kills N        kill -9 at random instants and inside saves as they happen
  --draw N         another number draws other instants and other bits; default 0
  --folder FOLDER  where the runs and the report (chaos.txt, chaos.json) go; must be new; default: chaos-<name>

Every fault is judged by the resumed command: its losses are those of an undisturbed run hex for hex, and no committed
step is lost. Exits with 0 when nothing was bad, else with 70. Needs Linux.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from lepjax.chaos.trial import Subject
from lepjax.chaos.trials import Plan, suffer
from lepjax.cli import _load, _open, _overrides
from lepjax.core.errors import BUG, DONE, UserError


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    if sys.platform != "linux":
        raise UserError(f"needs Linux, this is {sys.platform}", where="chaos")
    target, rest = arguments[0], arguments[1:]
    counts: dict[str, int] = {}
    for field in dataclasses.fields(Plan):
        text, rest = _open.option(rest, f"--{field.name}", str(field.default))
        if not text.isdigit():
            raise UserError(f"{text!r} is no number of them", where=f"chaos --{field.name}")
        counts[field.name] = int(text)
    loaded = _load.from_file(target, rest)
    place, rest = _open.option(rest, "--folder", f"chaos-{loaded.name}")
    folder = pathlib.Path(place)
    if folder.exists() and any(folder.iterdir()):
        raise UserError("is not empty", where=place, fix="Pass another --folder.")
    report = suffer(Subject(target, tuple(rest)), Plan(**counts), folder)
    print(report.to_text(), end="")
    print(f"report   {folder / 'chaos.txt'}")
    return BUG if report.bad else DONE
