"""report.html of a sweep: the winner and how much of it is luck, the plots, and every trial."""

from __future__ import annotations

import platform
from importlib import metadata

import jax

import lepjax
from lepjax.run import files, page
from lepjax.tune.result import Result
from lepjax.tune.storage import shown
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED
from lepjax.tune.words import short, told_value


def write(result: Result) -> None:
    """Writes report.html and result.json into the sweep's folder."""
    files.write_json(result.directory / "result.json", result.to_json())
    files.write_text(result.directory / "report.html", render(result))


def render(result: Result) -> str:
    """The page, which needs no other file."""
    parts = [page.pairs("Result", _facts(result))]
    if luck := result.told_again():
        parts.append(f"<p>On fresh seeds: {page.text(luck)}.</p>")
    if result.command:
        parts.append(f"<h2>Train the winner alone</h2><pre class='long'>{page.text(result.command)}</pre>")
    for title, figure in (
        ("History", result.plot_history()),
        ("Curves", result.plot_curves()),
        ("Importance", result.plot_importance()),
        ("Slices", result.plot_slice()),
        ("Parallel coordinates", result.plot_parallel()),
    ):
        parts.append(f"<h2>{title}</h2><div class='wide'>{page.svg(figure)}</div>")
    parts.append(page.pairs("Space", [(name, repr(dimension)) for name, dimension in result.space.items()]))
    columns = ("trial", "state", result.metric, *result.space, "steps", "seconds", "note")
    parts.append(f"<div class='wide'>{page.table('All trials', columns, _rows(result))}</div>")
    parts.append(page.pairs("Machine", _machine()))
    where = f"{result.metric}, {result.mode}; {shown(result.study_url)}"
    return page.page(f"sweep {result.study_name}", where, parts)


def _facts(result: Result) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if (best := result.best) is None:
        rows.append((f"best {result.metric}", "none: no trial came to its end"))
    else:
        rows.append((f"best {result.metric} (trial {best.ordinal})", short(best.score)))
        if len(best.by_seed) > 1:
            rows.append(("its seeds", ", ".join(map(short, best.by_seed))))
        rows += [(name, told_value(value)) for name, value in best.values.items()]
    rows += [(state, result.count(state)) for state in (COMPLETE, PRUNED, FAILED)]
    rows += [("compiled programs", result.compiles), ("shapes", result.groups), ("steps in all", result.trial_steps)]
    return [*rows, ("trials per minute", result.trials_per_minute), ("seconds", result.seconds)]


def _rows(result: Result) -> list[list[object]]:
    return [
        [
            trial.ordinal,
            trial.state,
            short(trial.score),
            *(told_value(trial.values[name]) if name in trial.values else "-" for name in result.space),
            trial.steps,
            trial.seconds,
            trial.note,
        ]
        for trial in result.ranked
    ]


def _machine() -> list[tuple[str, object]]:
    versions = {"lepjax": lepjax.__version__, "jax": jax.__version__, "optuna": metadata.version("optuna")}
    devices = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    return [*versions.items(), ("python", platform.python_version()), ("devices", devices)]
