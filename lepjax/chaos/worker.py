"""A fresh process that goes on with many runs, one after another, by the ordinary path of `lepjax train`.

python -m lepjax.chaos.worker JOBS.json TOLD.jsonl    [experiment as in experiment.json, ...] -> {"code", "told"} per line
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import sys
from typing import Any

from rich.console import Console

from lepjax.core.errors import guarded
from lepjax.core.serialise import from_json
from lepjax.run.train import train


def main(jobs: list[dict[str, Any]], told: pathlib.Path) -> None:
    for job in jobs:
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            console = Console(file=heard, width=1000)
            code = guarded(lambda job=job, console=console: train(from_json(job), console=console).code)  # type: ignore[misc]
        with open(told, "a", encoding="utf-8") as file:
            file.write(json.dumps({"code": code, "told": heard.getvalue()}) + "\n")


if __name__ == "__main__":
    main(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")), pathlib.Path(sys.argv[2]))
