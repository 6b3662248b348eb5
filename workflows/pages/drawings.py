"""Make Matplotlib figures for a page without global state: choose pixels, place the legend, inline the figure."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from shutterless.workflows.pages.parts import Picture


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return a figure with a layout that keeps labels apart."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def window(middle: int, length: int, size: int) -> slice:
    """A number of pixels around a middle, moved to lie inside."""
    start = int(np.clip(middle - length // 2, 0, max(size - length, 0)))
    return slice(start, min(start + length, size))


def name_below(drawing: Figure, n_letters: int) -> None:
    """Draw one legend for all axes below them, with a limited number of characters per line."""
    named: dict[str, Artist] = {}
    for ax in drawing.axes:
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    if named:
        n_columns = max(n_letters // max(len(label) for label in named), 1)
        drawing.legend(list(named.values()), list(named), loc="outside lower center", ncols=n_columns, frameon=False)


def picture(drawing: Figure, caption: str, *, alt: str, image: bool = False) -> Picture:
    """Inline a figure.

    Parameters
    ----------
    drawing : Figure
    caption, alt : str
        Text below the figure, and text for readers who cannot see it.
    image : bool
        PNG for pictures of pixels, where SVG would be larger; SVG (sharp in print) otherwise.
    """
    buffer = io.BytesIO()
    kind, options = ("png", {"dpi": 110}) if image else ("svg+xml", {"metadata": {"Date": None}})
    # a fixed salt makes two reports of one folder equal to the byte
    with matplotlib.rc_context({"svg.hashsalt": "shutterless"}):
        drawing.savefig(buffer, format=kind[:3], bbox_inches="tight", **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{data}", caption, alt)
