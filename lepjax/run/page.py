"""The pieces of a report: one file without scripts or links."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c2530; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.where { color: #66707c; } .curves { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.wide { overflow-x: auto; } .curves svg, .wide svg { width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6eaee; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre.long { white-space: pre-wrap; }
pre { background: #f5f7f9; padding: 1rem; overflow-x: auto; font-size: 13px; line-height: 1.4; }
"""


def page(title: str, where: str, parts: Iterable[str]) -> str:
    """A whole document: a heading, a line below it, and its parts (HTML)."""
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{text(title)}</title><style>{STYLE}</style>"
    return "".join([head, f"<h1>{text(title)}</h1><p class='where'>{text(where)}</p>", *parts, "</html>\n"])


def pairs(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    """A table of names and values under a heading."""
    body = "".join(f"<tr><td>{text(label)}</td><td class='n'>{text(number(value))}</td></tr>" for label, value in rows)
    return f"<h2>{text(title)}</h2><table>{body}</table>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a heading for each column."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td class='n'>{text(number(x))}</td>" for x in row) + "</tr>" for row in rows)
    return f"<h2>{text(title)}</h2><table><tr>{head}</tr>{body}</table>"


def svg(figure: Figure) -> str:
    """The figure as an <svg> element."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]


def number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def text(value: Any) -> str:
    return html.escape(str(value))
