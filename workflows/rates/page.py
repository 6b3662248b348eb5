"""Write the page of rates and limits, and its figure as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from shutterless.pipeline.files import write_text, written_whole
from shutterless.workflows.pages.drawings import name_below, new_figure, picture
from shutterless.workflows.pages.formats import Columns, between, number, tabulate, three_digits, unbroken
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Bullets, Paragraph, Part, Section, Table
from shutterless.workflows.rates.figure import plot_limits
from shutterless.workflows.rates.limits import RateLimits
from shutterless.workflows.rates.published import read_published

PAGE = "limits.html"
_SIZE = (6.5, 5.6)  # inches, narrow enough to be read on a telephone
_NAMES_BESIDE = 88  # characters of a line of the legend


def write_limits_page(limits: RateLimits, searches: Sequence[Path], evaluation: Path, out: Path) -> Path:
    """Write `PAGE`, ``limits.png`` and ``limits.svg``; return the path of the page."""
    out, published = Path(out), read_published()
    out.mkdir(parents=True, exist_ok=True)
    drawing = new_figure(*_SIZE)
    plot_limits(limits.table, published, drawing.add_subplot())
    name_below(drawing, _NAMES_BESIDE)
    for name in ("limits.png", "limits.svg"):
        with written_whole(out / name) as partial:
            drawing.savefig(partial, format=name[-3:], dpi=200, bbox_inches="tight")
    caption = (
        f"Points are rates with {100 * limits.confidence:g} % intervals, arrows upper limits. Bars along the axis are "
        "the durations of other surveys."
    )
    shown = picture(drawing, caption, alt="events per square degree and day against duration")
    sections = [
        Section("limits", "Rates and limits", [Paragraph(limits.text(), "verdict"), shown]),
        Section("table", "By duration and magnitude", _write_cells(limits)),
        Section("published", "Other surveys", [_write_published(published)]),
        Section("method", "How they are measured", [Bullets(_describe(limits, searches, evaluation))]),
    ]
    write_text(out / PAGE, page("Rates of events", ", ".join(str(folder) for folder in searches), sections))
    return out / PAGE


def _write_cells(limits: RateLimits) -> list[Part]:
    """Table of the cells that are known, and what the others lack."""
    columns: Columns = {
        "Duration (s)": lambda row: unbroken(f"{row['duration_low_s']:g}–{row['duration_high_s']:g}"),
        "Magnitude": lambda row: unbroken(f"{row['mag_low']:g}–{row['mag_high']:g}"),
        "Found": ("n_found", "{:.0f}"),
        "False alarms expected": ("background", "{:.2g}"),
        "Completeness": lambda row: unbroken(
            between(row["completeness"], row["completeness_low"], row["completeness_high"])
        ),
        "Rate per deg² and day": lambda row: three_digits(row["rate"]) if row["rate_low"] > 0 else "–",
        "Interval or limit": lambda row: unbroken(
            f"{three_digits(row['rate_low'])}–{three_digits(row['rate_high'])}"
            if row["rate_low"] > 0
            else f"< {three_digits(row['rate_high'])}"
        ),
        "Method": "method",
    }
    unknown = limits.table[limits.table["rate_high"].isna()]
    parts: list[Part] = [Paragraph("No cell has a rate or a limit.", "left-out")]
    if len(limits.known):
        parts = [replace(tabulate(limits.known, columns), sortable=True)]
    counts = unknown["note"].str.replace(r"^\S+ events of", "too few events of", regex=True)
    counts = counts.str.replace(r"^none of \S+", "none of the", regex=True).value_counts()
    if len(unknown):
        why = "; ".join(f"{reason.partition(',')[0]}: {n}" for reason, n in counts.items())
        parts.append(Paragraph(f"Cells without a rate, by reason: {why}. `limits.csv` has all of them.", "note"))
    return parts


def _write_published(published: pd.DataFrame) -> Table:
    columns: Columns = {
        "Survey": "survey",
        "Duration (s)": lambda row: unbroken(
            f"{row['duration_low_s']:g}"
            + (f"–{row['duration_high_s']:g}" if row["duration_high_s"] > row["duration_low_s"] else "")
        ),
        "Brighter than": lambda row: number(row["magnitude"], "{:g}"),
        "Per deg² and day": lambda row: unbroken(
            f"< {row['per_deg2_day']:g}"
            if row["is_limit"]
            else f"{row['per_deg2_day']:.3g} ({row['low']:.2g}–{row['high']:.2g})"
        ),
        "Confidence": lambda row: number(100 * row["confidence"], "{:g} %"),
        "Note": "note",
        "Reference": "reference",
    }
    links = {(k, 6): source for k, source in enumerate(published["source"])}
    return replace(tabulate(published, columns), links=links)


def _describe(limits: RateLimits, searches: Sequence[Path], evaluation: Path) -> list[str]:
    level = f"{100 * limits.confidence:g} %"
    return [
        f"Exposure: {limits.exposure_deg2_day:.4g} deg² day. An amplifier sees its columns times the rows of a "
        "transit, as long as rows are read. Masked pixels, the ramp and what follows the closing of the shutter are "
        "taken off.",
        f"Completeness: events of {', '.join(limits.kinds)} in `{evaluation}` with a score above the threshold of "
        "each searched amplifier. It holds if those frames are as deep as the searched ones; a limit is no "
        "better than that.",
        "Magnitude: of the light that an event adds in the row of its peak. A flash shorter than a row is as faint as "
        "it looks in one.",
        "Found: groups of candidates that brighten, each counted once, whatever they are. Satellites and aircraft "
        "among them are not taken out.",
        "False alarms: those that the evaluation counted above the same thresholds, by live time. The searches "
        f"themselves state {limits.expected_false_alarms:.3g} in all cells together, dips among them.",
        f"Where nothing was found: the Poisson limit ({level}), whatever the background. Elsewhere the interval of "
        "Feldman & Cousins (1998), averaged over the errors of completeness and background (Conrad et al. 2003).",
    ]
