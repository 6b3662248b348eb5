"""Format numbers and tables for pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from shutterless.workflows.pages.parts import Table

# For each heading the source of its cells: the text in a column of the DataFrame, a number in a column with its
# pattern, or a function of the row.
Columns = dict[str, str | tuple[str, str] | Callable[[Any], str]]


def number(value: Any, pattern: str = "{:.3g}") -> str:
    """Format a number for people; a dash where it is unknown."""
    return "–" if value is None or pd.isna(value) else pattern.format(value).replace("-", "−")


def three_digits(value: float) -> str:
    """A number with three digits and without an exponent where that is readable, such as 3,370."""
    return f"{float(f'{value:.3g}'):,g}"


def between(value: Any, low: Any, high: Any, pattern: str = "{:.2f}") -> str:
    """Format a value with its bounds, ``0.72 (0.66–0.78)``."""
    if value is None or pd.isna(value):
        return "–"
    if pd.isna(low) or pd.isna(high):
        return number(value, pattern)
    return f"{number(value, pattern)} ({number(low, pattern)}–{number(high, pattern)})"


def unbroken(text: str) -> str:
    """Text that a narrow page does not break but scrolls."""
    return text.replace(" ", "\u00a0")


def tabulate(rows: pd.DataFrame | Iterable[Any], columns: Columns, *, drop_empty: bool = False) -> Table:
    """Return a table with a line for each row of a DataFrame, or for each item of a sequence.

    ``drop_empty`` leaves out columns that hold only dashes.
    """
    items = [row for _, row in rows.iterrows()] if isinstance(rows, pd.DataFrame) else list(rows)
    cells = {heading: [_write_cell(item, wanted) for item in items] for heading, wanted in columns.items()}
    kept = [heading for heading, texts in cells.items() if not drop_empty or set(texts) - {"–", ""}]
    return Table(kept, list(zip(*(cells[heading] for heading in kept), strict=True)))


def _write_cell(row: Any, wanted: str | tuple[str, str] | Callable[[Any], str]) -> str:
    if isinstance(wanted, str):
        return str(row[wanted])
    return number(row[wanted[0]], wanted[1]) if isinstance(wanted, tuple) else wanted(row)
