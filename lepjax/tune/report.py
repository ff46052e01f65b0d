"""report.html of a sweep: the winner and how much of it is luck, the plots, and every trial."""

from __future__ import annotations

import jax

from lepjax.run import files, page
from lepjax.tune.plots import short
from lepjax.tune.result import Result
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED


def write(result: Result) -> None:
    """Writes report.html and result.json into the sweep's folder."""
    files.write_json(result.directory / "result.json", result.to_json())
    files.write_text(result.directory / "report.html", render(result))


def render(result: Result) -> str:
    parts = [page.pairs("Result", _facts(result))]
    if result.command:
        parts.append(f"<h2>Train the winner alone</h2><pre>{page.text(result.command)}</pre>")
    for title, figure in (
        ("History", result.plot_history()),
        ("Importance", result.plot_importance()),
        ("Slices", result.plot_slice()),
        ("Parallel coordinates", result.plot_parallel()),
    ):
        parts.append(f"<h2>{title}</h2><div class='wide'>{page.svg(figure)}</div>")
    parts.append(page.pairs("Space", [(name, repr(dimension)) for name, dimension in result.space.items()]))
    columns = ("trial", "state", result.metric, *result.space, "steps", "seconds", "note")
    sign = 1.0 if result.mode == "min" else -1.0
    ranked = sorted(result.trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.ordinal))
    rows = [
        [
            t.ordinal,
            t.state,
            short(t.score),
            *(short(t.values.get(n)) for n in result.space),
            t.steps,
            t.seconds,
            t.note,
        ]
        for t in ranked
    ]
    parts.append(page.table("All trials", columns, rows))
    device = jax.devices()[0]
    machine = [("jax", jax.__version__), ("devices", f"{len(jax.devices())} x {device.device_kind}")]
    parts.append(page.pairs("Machine", machine))
    return page.page(f"sweep {result.study_name}", f"{result.metric}, {result.mode}; {result.study_url}", parts)


def _facts(result: Result) -> list[tuple[str, object]]:
    best = result.best
    rows: list[tuple[str, object]] = []
    if best is not None:
        rows.append((f"best {result.metric} (trial {best.ordinal})", short(best.score)))
        if len(best.by_seed) > 1:
            rows.append(("its seeds", ", ".join(map(short, best.by_seed))))
        if result.rescored is not None:
            rows.append(("on fresh seeds", result.told_again()))
        rows += [(name, short(value)) for name, value in best.values.items()]
    rows += [(state, result.count(state)) for state in (COMPLETE, PRUNED, FAILED)]
    rows += [("compiled programs", result.compiles), ("shapes", result.groups), ("steps in all", result.trial_steps)]
    return [*rows, ("trials per minute", result.trials_per_minute)]
