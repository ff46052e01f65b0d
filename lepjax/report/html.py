"""report.html: one file without scripts or links that shows what a run did."""

from __future__ import annotations

import io
import json
from typing import Any

from lepjax.report.curves import Curve, curve_svg
from lepjax.report.figures import figure_svg
from lepjax.run import files, page
from lepjax.run.callbacks import Callback
from lepjax.run.directory import RunDirectory
from lepjax.run.final import Section
from lepjax.run.train import Outcome


class Report(Callback):
    """Writes report.html when the run has come to an end (also an early one)."""

    def concluded(self, outcome: Outcome) -> None:
        files.write_text(outcome.directory.report, render(outcome.directory, outcome.result, outcome.sections))


def render(directory: RunDirectory, result: dict[str, Any], sections: tuple[Section, ...]) -> str:
    """The page, from what lies in the run directory and the sections of the final evaluations."""
    out = io.StringIO()
    name = f"{directory.path.parent.name} / {directory.path.name}"
    state = result["status"] + (f": {result['reason']}" if result["reason"] else "")
    out.write(page.pairs("Result", _scalars(result)))
    for section in sections:
        out.write(page.pairs(section.title, section.table) if section.table else f"<h2>{page.text(section.title)}</h2>")
        if section.text:
            out.write(f"<pre>{page.text(section.text)}</pre>")
        if section.figures:
            out.write(f"<div class='curves'>{''.join(map(figure_svg, section.figures))}</div>")
        if section.appendix:
            out.write(f"<pre class='long'>{page.text(section.appendix)}</pre>")
    out.write("<h2>Curves</h2><div class='curves'>")
    for curve in curves(directory.read_metrics()):
        out.write(curve_svg(curve))
    out.write("</div>")
    out.write(page.pairs("Seconds by phase", tuple(result["seconds"].items())))
    for title, file in (("Experiment", "experiment.json"), ("Machine and versions", "manifest.json")):
        data = files.read_json(directory.path / file)
        out.write(f"<h2>{title}</h2><pre>{page.text(json.dumps(data, indent=2))}</pre>")
    return page.page(name, f"{state} after {result['steps']:,} steps", [out.getvalue()])


def curves(lines: list[dict[str, Any]]) -> list[Curve]:
    """One curve per metric name; training and evaluation of the same metric share an axis."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        for key, value in line.items():
            split, _, metric = key.partition("_")
            if metric and value is not None:
                panels.setdefault(metric, {}).setdefault(split, []).append((line["step"], value))
    first = ["loss", "bits_per_byte", "accuracy", "learning_rate", "grad_norm", "tokens_per_second"]
    skip = {"nll", "skipped", "loss_scale"}  # `loss` shows the first; the others stand in the result
    if any(value for split in panels.get("skipped", {}).values() for _, value in split):
        skip = {"nll"}
    order = [name for name in first if name in panels] + sorted(set(panels) - set(first) - skip)
    drawn = [name for name in order if any(len(points) > 1 for points in panels[name].values())]  # a point is no curve
    return [Curve(name.replace("_", " "), panels[name]) for name in drawn]


def _scalars(result: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    flat = [(k, v) for k, v in result.items() if isinstance(v, (int, float, str)) and k not in ("reason", "status")]
    if best := result.get("best"):
        flat.append((f"best {best['metric']} (step {best['step']})", best["value"]))
    return tuple(flat)
