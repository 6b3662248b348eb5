"""Numbers as pages write them."""

from __future__ import annotations

from typing import Any

import pandas as pd


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


def unbroken(text: str) -> str:
    """Text that a narrow page does not break; it scrolls instead."""
    return text.replace(" ", "\u00a0")
