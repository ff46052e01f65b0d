"""Find a learning rate to begin with, or the largest batch that fits.

usage: lepjax find lr EXPERIMENT [--low 1e-7] [--high 10] [--steps 100] [--out FILE] [--field value ...]
       lepjax find batch EXPERIMENT [--most ROWS] [--sizes 8] [--out FILE] [--field value ...]

`lr` raises the learning rate exponentially over a few steps with the experiment's own optimizer and batches, without its
schedule, until the loss diverges. `batch` reads off compiled steps how much memory batches need, takes a step with the
largest that fits (at most --most rows, by default all records), and measures the throughput of smaller ones, --sizes in all:
each is a compile.

Each draws a picture (.svg or .png; default: runs/NAME/find_lr.svg, find_batch.svg). No run is made or changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lepjax.cli import _load, _open, _overrides
from lepjax.core.errors import DONE, UserError, nearest
from lepjax.experiment import Experiment
from lepjax.run.backend import use_compile_cache
from lepjax.tune import batch_finder, finder_plots, lr_finder


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    kinds: dict[str, Callable[[list[str]], int]] = {"lr": _lr, "batch": _batch}
    if arguments[0] not in kinds:
        raise UserError(f"cannot find {arguments[0]!r}", where="lepjax find", fix=nearest(arguments[0], kinds))
    return kinds[arguments[0]](arguments[1:])


def _lr(arguments: list[str]) -> int:
    low, rest = _number(arguments, "--low", 1e-7)
    high, rest = _number(rest, "--high", 10.0)
    steps, rest = _number(rest, "--steps", 100)
    lr_finder.spaced(low, high, steps)  # what is wrong with them is told before the data is read
    experiment, path = _opened("lr", rest)
    curve = lr_finder.find_lr(experiment, low, high, steps)
    end = f"diverged by {curve.rates[-1]:.2e}" if curve.diverged else f"did not diverge up to {curve.rates[-1]:.2e}"
    print(f"loss       {curve.losses[0]:.4f} at the start, {curve.smooth.min():.4f} at best (smoothed); {end}")
    print(f"steepest   {curve.steepest:.2e}   the loss falls fastest")
    print(f"lowest/10  {curve.tenth:.2e}   a tenth of the rate with the lowest loss, {curve.lowest:.2e}")
    if curve.breaks is not None:
        print(f"breaks     {curve.breaks:.2e}   from here on the loss is more than {lr_finder.BROKEN:g} times its best")
    print(f"given      {experiment.optimizer.learning_rate:.2e}   the experiment's own")
    print(f"caveats    {lr_finder.CAVEATS}")
    _drawn(finder_plots.lr_figure(curve), path)
    return DONE


def _batch(arguments: list[str]) -> int:
    most, rest = _number(arguments, "--most", 0)
    sizes, rest = _number(rest, "--sizes", batch_finder.SIZES)
    experiment, path = _opened("batch", rest)
    found = batch_finder.find_batch(experiment, most=most, sizes=sizes)
    for point in found.points:
        print(f"{point.rows:>9,} rows  {1000 * point.seconds:>9,.2f} ms  {point.per_second:>12,.0f} {found.unit}/s")
    why = "memory is the bound" if found.bound == "memory" else "no more were allowed or are there"
    print(f"largest    {found.largest:,} rows ({why}); {found.needed:,.0f} of {found.limit:,.0f} bytes per device")
    print(f"knee       {found.knee:,} rows give {batch_finder.KNEE:.0%} of the best throughput")
    print(f"given      {experiment.data.batch_size:,} rows, the experiment's own")
    print(f"caveats    {batch_finder.CAVEATS}")
    _drawn(finder_plots.batch_figure(found), path)
    return DONE


def _opened(kind: str, arguments: list[str]) -> tuple[Experiment, Any]:
    """The experiment, and where its picture goes."""
    where = f"lepjax find {kind}"
    out, rest = _open.option(arguments, "--out", "")
    if not rest or rest[0].startswith("--"):
        raise UserError("no experiment", where=where, fix="Name an experiment file.")
    loaded = _load.from_file(rest[0], rest[1:])
    path = finder_plots.check_path(out or f"runs/{loaded.name}/find_{kind}.svg")
    use_compile_cache()
    return _overrides.apply(loaded.experiment, loaded.rest, rest[0], f"find {kind}", loaded.own), path


def _number(arguments: list[str], name: str, default: Any) -> tuple[Any, list[str]]:
    text, rest = _open.option(arguments, name, str(default))
    try:
        return type(default)(text), rest
    except ValueError:
        raise UserError(f"{text!r} is no number", where=name) from None


def _drawn(figure: Any, path: Any) -> None:
    finder_plots.save(figure, path)
    print(f"picture    {path}")
