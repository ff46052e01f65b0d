"""Find what made a run's numbers go wrong.

usage: lepjax debug nan RUN_DIR_OR_EXPERIMENT [--step T] [--field value ...]

Replays the run up to the first step that was skipped because something was not finite (or looks at step T, as metrics.jsonl
counts), and names the module or the gradient where it arose and the records that caused it. Nothing in the run is changed.
"""

from __future__ import annotations

from lepjax import experiment as experiments
from lepjax.cli import _load, _open
from lepjax.core.errors import DONE, UserError, nearest
from lepjax.run.backend import use_compile_cache
from lepjax.run.blame import blame
from lepjax.run.replay import replay, skipped_after


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    if arguments[0] != "nan":
        raise UserError(f"no such question {arguments[0]!r}", where="lepjax debug", fix=nearest(arguments[0], ["nan"]))
    text, rest = _open.option(arguments[1:], "--step", "")
    if not rest:
        raise UserError("no run is named", where="lepjax debug nan", fix="Name a run directory or an experiment file.")
    directory, experiment = _load.run_of(rest[0], rest[1:])
    if text:
        if not text.isdigit() or text == "0":
            raise UserError(f"{text!r} is no step", where="--step", fix="Use a whole number from 1 on.")
        found = (int(text) - 1, int(text))
    else:
        first = skipped_after(directory.read_metrics())
        if first is None:
            print(f"{directory.path}: no logged step tells of one that was not finite; --step T looks at one")
            return DONE
        found = first
    use_compile_cache()
    built = experiments.build(experiment, passes=directory.passes())
    step = replay(directory, built, *found, say=print)
    if step is None:
        return DONE
    print(f"step {step.step} of {directory.path} was skipped (batch {step.cursor} of the plan)")
    for line in blame(built, step):
        print(line)
    return DONE
