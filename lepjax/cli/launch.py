"""Run a command as several processes of one job on this machine.

usage: lepjax launch [--processes N] [--devices-per-process D] [--port P] COMMAND ...

  --processes N            how many; default 2
  --devices-per-process D  simulated CPU devices of each, or its share of the GPUs; default: all GPUs divided, else 1 CPU
  --port P                 where rank 0 listens; default: a free one

COMMAND is a lepjax command with its arguments: lepjax launch --processes 2 --devices-per-process 4 train EXPERIMENT.
Rank 0 prints as always; lines of the others are marked. When one fails, the others are stopped; its exit code is returned.
Under Slurm (srun) and OpenMPI (mpirun) no launch is needed: `srun lepjax train EXPERIMENT` finds its ranks by itself.
"""

from __future__ import annotations

import os
import re
import sys

from lepjax.core.errors import DONE, UserError
from lepjax.run import launching, ranks


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    options = {"--processes": 2, "--devices-per-process": 0, "--port": 0}
    rest = list(arguments)
    while rest and rest[0].startswith("--"):
        flag, separator, value = rest.pop(0).partition("=")
        if flag not in options:
            raise UserError(f"no option {flag!r}", where="launch", fix="See lepjax launch --help.")
        if not separator:
            value = rest.pop(0) if rest else ""
        if not re.fullmatch("[0-9]+", value) or (flag == "--processes" and int(value) < 1):
            raise UserError(f"{value!r} is no number of them", where=f"launch {flag}")
        options[flag] = int(value)
    if not rest:
        raise UserError(
            "no command to run", where="launch", fix="Such as: lepjax launch --processes 2 train EXPERIMENT"
        )
    count, devices = options["--processes"], options["--devices-per-process"]
    job = launching.Job(count, devices, ranks.visible_gpus(os.environ), options["--port"] or launching.free_port())
    return launching.run([sys.executable, "-m", "lepjax", *rest], job)
