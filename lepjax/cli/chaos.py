"""Break runs of an experiment on purpose, and judge what is resumed by its losses.

usage: lepjax chaos EXPERIMENT [--kills N] [--points [N]] [--flips N] [--truncations N] [--deletions N] [--signals N]
                               [--processes N] [--races N] [--disk] [--draw N] [--folder FOLDER] [--field value ...]

  --kills N        kill -9 at random instants and inside saves as they happen; default 20
  --points [N]     kill -9 at N system calls of a save, and a quarter as many failing calls (needs strace); default 0,
                   without a number: at every call
  --flips N        single flipped bits; default 30
  --truncations N  files cut short; default 5
  --deletions N    missing files; default: each file once
  --signals N      SIGTERM, SIGINT and SIGUSR1 in every phase; default 10
  --processes N    of the run that gets the signals; default 1
  --races N        two commands on one run directory at the same time; default 5
  --disk           disks that are full, too small or read-only (all but a limit on file sizes need root)
  --draw N         another number draws other instants and other bits; default 0
  --folder FOLDER  where the runs and the report (chaos.txt, chaos.json) go; must be new; default: runs/chaos-<name>

Every fault is judged by the resumed command: its losses are those of an undisturbed run hex for hex, and no committed
step is lost. A number of 0 leaves a kind out. Exits with 0 when nothing was bad, else with 70. Needs Linux.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from lepjax.chaos.trial import Subject, nothing_left
from lepjax.chaos.trials import EVERY, Plan, Trials
from lepjax.cli import _load, _open, _overrides
from lepjax.core.errors import BUG, DONE, UserError

ALONE = {"--points": EVERY, "--disk": 1}  # what a flag without a number means


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    if sys.platform != "linux":
        raise UserError(f"needs Linux, this is {sys.platform}", where="chaos")
    target, rest = arguments[0], _numbered(arguments[1:])
    counts: dict[str, int] = {}
    for field in dataclasses.fields(Plan):
        text, rest = _open.option(rest, f"--{field.name}", str(field.default))
        if not (text.isascii() and text.isdigit()):
            raise UserError(f"{text!r} is no number", where=f"chaos --{field.name}")
        counts[field.name] = int(text)
    place, rest = _open.option(rest, "--folder", "")
    loaded = _load.from_file(target, rest)
    experiment = _overrides.apply(loaded.experiment, loaded.rest, target, command="chaos", own=loaded.own)
    folder = pathlib.Path(place or f"runs/chaos-{loaded.name}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError("is not empty", where=str(folder), fix="Pass another --folder.")
    with nothing_left():
        report = Trials(experiment, Subject(target, tuple(rest)), Plan(**counts), folder).run()
    print(report.to_text(), end="")
    print(f"report   {folder / 'chaos.txt'}")
    return BUG if report.bad else DONE


def _numbered(arguments: list[str]) -> list[str]:
    """Flags that may stand alone get their number."""
    given = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        alone = argument in ALONE and not following.isdigit()
        given.append(f"{argument}={ALONE[argument]}" if alone else argument)
    return given
