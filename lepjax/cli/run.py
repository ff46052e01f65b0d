"""Train an experiment and start it again when it was killed, stopped or stuck.

usage: lepjax run [--max-restarts N] EXPERIMENT [--field value ...]
       lepjax run [--max-restarts N] launch [--processes P] train EXPERIMENT ...

  --max-restarts N  how often at most; default 10

Each start goes on with the newest good checkpoint. An error in the configuration (exit code 78) ends it, and so does a run
that comes to an end at the same step three times; that step is named. SIGTERM, SIGINT and SIGUSR1 are passed on and end it.
"""

from __future__ import annotations

import re
import sys

from lepjax.cli._open import option
from lepjax.cli.main import commands
from lepjax.core.errors import DONE, UserError
from lepjax.run import supervisor


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    restarts, rest = option(arguments, "--max-restarts", "10")
    if not re.fullmatch("[0-9]+", restarts):
        raise UserError(f"{restarts!r} is no number of restarts", where="run --max-restarts")
    if not rest:
        raise UserError("no experiment", where="run", fix="Such as: lepjax run experiments/quickstart.py")
    command = rest if rest[0] in commands() else ["train", *rest]
    return supervisor.supervise([sys.executable, "-m", "lepjax", *command], int(restarts), say)


def say(line: str) -> None:
    print(f"lepjax: {line}", file=sys.stderr, flush=True)
