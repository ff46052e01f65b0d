"""Evaluate the newest checkpoint of a run, or its best.

usage: lepjax eval RUN_DIR_OR_EXPERIMENT [--checkpoint last|best|STEP] [--field value ...]

Prints `<split>_<metric>` for every split, one per line.
"""

from __future__ import annotations

from lepjax.cli import _load, _open
from lepjax.core.errors import DONE
from lepjax.run.evaluation import Evaluator
from lepjax.run.open import open_run


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    checkpoint, rest = _open.option(arguments, "--checkpoint", "last")
    directory, experiment = _load.run_of(rest[0], rest[1:])
    trained, step = open_run(directory, experiment, checkpoint)
    print(f"{directory.path} at step {step}")
    evaluator = Evaluator(trained.built)
    for name, value in {**evaluator(trained.state), **evaluator.final(trained.state)}.items():
        print(f"{name} {value:.6f}")
    return DONE
