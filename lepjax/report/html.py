"""report.html: one file without scripts or links that shows what a run did."""

from __future__ import annotations

import html
import io
import json
from typing import Any

from lepjax.report.curves import Curve, curve_svg
from lepjax.report.figures import figure_svg
from lepjax.run import files
from lepjax.run.callbacks import Callback
from lepjax.run.directory import RunDirectory
from lepjax.run.final import Section
from lepjax.run.train import Outcome

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c2530; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.where { color: #66707c; } .curves { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.curves svg { width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6eaee; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre.long { white-space: pre-wrap; }
pre { background: #f5f7f9; padding: 1rem; overflow-x: auto; font-size: 13px; line-height: 1.4; }
"""


class Report(Callback):
    """Writes report.html when the run has come to an end (also an early one)."""

    def concluded(self, outcome: Outcome) -> None:
        files.write_text(outcome.directory.report, render(outcome.directory, outcome.result, outcome.sections))


def render(directory: RunDirectory, result: dict[str, Any], sections: tuple[Section, ...]) -> str:
    """The page, from what lies in the run directory and the sections of the final evaluations."""
    out = io.StringIO()
    name = f"{directory.path.parent.name} / {directory.path.name}"
    out.write(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{_text(name)}</title><style>{STYLE}</style>"
    )
    state = result["status"] + (f": {result['reason']}" if result["reason"] else "")
    out.write(f"<h1>{_text(name)}</h1><p class='where'>{_text(state)} after {result['steps']:,} steps</p>")
    out.write(_table("Result", _scalars(result)))
    for section in sections:
        out.write(_table(section.title, section.table) if section.table else f"<h2>{_text(section.title)}</h2>")
        if section.text:
            out.write(f"<pre>{_text(section.text)}</pre>")
        if section.figures:
            out.write(f"<div class='curves'>{''.join(map(figure_svg, section.figures))}</div>")
        if section.appendix:
            out.write(f"<pre class='long'>{_text(section.appendix)}</pre>")
    out.write("<h2>Curves</h2><div class='curves'>")
    for curve in curves(directory.read_metrics()):
        out.write(curve_svg(curve))
    out.write("</div>")
    out.write(_table("Seconds by phase", tuple(result["seconds"].items())))
    for title, file in (("Experiment", "experiment.json"), ("Machine and versions", "manifest.json")):
        data = files.read_json(directory.path / file)
        out.write(f"<h2>{title}</h2><pre>{_text(json.dumps(data, indent=2))}</pre>")
    return out.getvalue() + "</html>\n"


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


def _table(title: str, rows: tuple[tuple[str, Any], ...]) -> str:
    body = "".join(
        f"<tr><td>{_text(label)}</td><td class='n'>{_text(_number(value))}</td></tr>" for label, value in rows
    )
    return f"<h2>{_text(title)}</h2><table>{body}</table>"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def _text(value: Any) -> str:
    return html.escape(str(value))
