"""Fine-tune automatically: look at the data, choose a model, search, train the winner, say why.

usage: lepjax autotune --data FOLDER [--models FOLDER ...] [--budget 20m] [--task classification] [--out FOLDER] [--seed N]

  --data FOLDER      train.tsv and perhaps dev.tsv, test.tsv (also .csv, .jsonl, .json, .parquet, .gz), or one table alone,
                     of which a fifth is held out. Columns: text (and text_pair) and label, or the usual names
  --models FOLDER    pretrained encoders in the Hugging Face layout, or folders that hold some; several may follow. Without
                     one that fits, a small one is trained from scratch
  --budget TIME      all in all, such as 90s, 20m, 1.5h; default 20m
  --out FOLDER       default: runs/autotune/<name of the data>. It will hold model/ (transformers loads it), run/ (a run as
                     any other, with report.html), search/ (the trials) and why.html, which explains each choice
"""

from __future__ import annotations

from rich.console import Console

from lepjax.core.errors import DONE, UserError, nearest
from lepjax.run.hush import hush
from lepjax.tune import budget

OPTIONS = ("--data", "--models", "--budget", "--task", "--out", "--seed")


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    given = taken(arguments)
    if "--data" not in given:
        raise UserError("no data", where="autotune", fix="Pass --data FOLDER.")
    seconds = budget.seconds(given.get("--budget", ["20m"])[0])
    seed = given.get("--seed", ["0"])[0]
    if not seed.isdecimal():
        raise UserError(f"{seed!r} is no whole number", where="--seed")
    hush()
    from lepjax.report.html import Report
    from lepjax.tune.autotune import autotune

    console = Console()
    tuned = autotune(
        given["--data"][0],
        given.get("--models", []),
        seconds,
        given.get("--out", [""])[0],
        given.get("--task", ["classification"])[0],
        int(seed),
        callbacks=[Report()],
        console=console,
    )
    for part in ("model", "run/report.html", "why.html"):
        console.print(f"{tuned.folder / part}", highlight=False, soft_wrap=True)
    console.print(f"{tuned.seconds:.0f} s of {seconds:.0f} s", highlight=False)
    return DONE


def taken(arguments: list[str]) -> dict[str, list[str]]:
    """{option: its values}; only --models takes several. Raises `UserError`."""
    given: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        head, separator, value = argument.partition("=")
        if argument.startswith("--"):
            if head not in OPTIONS:
                raise UserError(f"no option {head}", where="autotune", fix=nearest(head, OPTIONS))
            if head in given and head != "--models":
                raise UserError("is given twice", where=head)
            name = head
            given.setdefault(name, []).extend([value] if separator else [])
        elif not name or (given[name] and name != "--models"):
            raise UserError(f"{argument!r} belongs to no option", where="autotune", fix="See lepjax autotune --help.")
        else:
            given[name].append(argument)
    for head, values in given.items():
        if not values or not all(values):
            raise UserError("needs a value", where=head)
    return given
