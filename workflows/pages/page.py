"""One self-contained HTML page: text escaped, figures inlined, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid #0072B2; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
nav { font-size: .9rem; } nav a { margin-right: .9rem; white-space: nowrap; } a { color: #00598c; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #d5d5d5; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } td.number, th.number { text-align: right; }
td { overflow-wrap: break-word; max-width: 26rem; } td.number, td.word { white-space: nowrap; }
figure { margin: .8rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .86rem; color: #444; }
pre { background: #f6f6f6; border: 1px solid #ddd; padding: .7rem; font-size: .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
td.marked { background: #fbe0cf; font-weight: 700; }
.left-out { color: #555; font-style: italic; }
.note { color: #444; font-size: .9rem; }
.verdict { white-space: pre-line; border-left: 4px solid #0072B2;
  padding: .3rem .9rem; background: #f2f7fb; font-size: 1.05rem; }
.card { border: 1px solid #ccc; border-radius: 4px; padding: .2rem 1rem .6rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr max-content 1fr; gap: .1rem .9rem; font-size: .86rem;
  margin: .4rem 0; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } nav { display: none; }
  .scroll { overflow: visible; }
  figure, .card, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } pre { max-height: none; } }
"""


def paragraph(text: str, css_class: str = "") -> str:
    """Return an escaped paragraph."""
    attribute = f' class="{escape(css_class)}"' if css_class else ""
    return f"<p{attribute}>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Return escaped text as it stands."""
    return f"<pre>{escape(text)}</pre>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Collection[tuple[int, int]] = ()) -> str:
    """Return an HTML table of cells that are formatted text; columns that hold only numbers are set flush right.

    Cells ``marked`` by their row and column, from 0, are set off from the others.
    """
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(_looks_numeric(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str], tag: str, place: int = -1) -> str:
        known = enumerate(zip(cells, numeric, strict=True))
        return "".join(
            f"<{tag}{_cell_class(cell, right, (place, i) in marked)}>{escape(cell)}</{tag}>"
            for i, (cell, right) in known
        )

    body = "\n".join(f"<tr>{line(row, 'td', place)}</tr>" for place, row in enumerate(rows))
    head = f"<thead><tr>{line(header, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _cell_class(cell: str, right: bool, set_off: bool) -> str:
    """Numbers flush right; single words as long as a time stamp or shorter are not broken."""
    kind = "number" if right else "word" if len(cell) <= 26 and " " not in cell else ""
    if set_off:
        return f' class="marked {kind}"'
    return f" class={kind}" if kind else ""


def _looks_numeric(cell: str) -> bool:
    first = cell.lstrip("−-+ ")[:1]
    return cell in ("", "–") or (first.isdigit() and cell.count("-") < 2 and not any(c.isalpha() for c in cell))


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and values."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"


def figure(drawing: Figure, caption: str, *, alt: str, image: bool = False) -> str:
    """Inline a Matplotlib figure.

    Parameters
    ----------
    drawing : Figure
    caption, alt : str
        Text below the figure, and text for who cannot see it.
    image : bool
        PNG for pictures of pixels, where SVG would be larger; SVG (sharp in print) otherwise.
    """
    buffer = io.BytesIO()
    kind, options = ("png", {"dpi": 110}) if image else ("svg+xml", {"metadata": {"Date": None}})
    # a fixed salt makes two reports of one folder equal to the byte
    with matplotlib.rc_context({"svg.hashsalt": "shutterless"}):
        drawing.savefig(buffer, format=kind[:3], bbox_inches="tight", **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:image/{kind};base64,{data}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return a figure outside any global state, with the layout that keeps labels apart."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def number(value: Any, pattern: str = "{:.3g}") -> str:
    """Format a number for people; a dash where it is unknown."""
    return "–" if value is None or pd.isna(value) else pattern.format(value).replace("-", "−")


def between(value: Any, low: Any, high: Any, pattern: str = "{:.2f}") -> str:
    """Format a value with its bounds, ``0.72 (0.66–0.78)``."""
    if value is None or pd.isna(value):
        return "–"
    if pd.isna(low) or pd.isna(high):
        return number(value, pattern)
    return f"{number(value, pattern)} ({number(low, pattern)}–{number(high, pattern)})"


def page(title: str, subtitle: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """Return the whole document from ``(anchor, heading, HTML body)`` of each section."""
    sections = list(sections)
    links = "\n".join(f'<a href="#{escape(anchor)}">{escape(heading)}</a>' for anchor, heading, _ in sections)
    bodies = "\n".join(
        f'<section id="{escape(anchor)}">\n<h2>{escape(heading)}</h2>\n{body}\n</section>'
        for anchor, heading, body in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{paragraph(subtitle)}\n<nav>{links}</nav>\n{bodies}\n</body>\n</html>\n"
    )
