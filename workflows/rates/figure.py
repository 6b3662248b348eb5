"""Draw rates and upper limits against duration, beside those of other surveys. Data and Axes in, Axes out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from shutterless.pipeline.plots.frames import GREY, explain_empty

_COLOURS = colormaps["viridis"]
_DARKEST, _LIGHTEST = 0.0, 0.85  # of the colour map: what is lighter is not seen on white
_ARROW = 0.55  # an arrow ends at this share of its limit
_APART = 0.75  # of a bin of duration: along this share magnitudes stand side by side
_MARKERS = "ovs^DP*X"


def plot_limits(limits: pd.DataFrame, published: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a search's rates (points with intervals) and limits (arrows), and those of others in grey.

    Parameters
    ----------
    limits : DataFrame
        ``duration_low_s``, ``duration_high_s``, ``mag_low``, ``mag_high``, ``rate``, ``rate_low``, ``rate_high``; a
        limit has a ``rate_low`` of 0.
    published : DataFrame
        From `shutterless.workflows.rates.published.read_published`.
    ax : Axes
        Its legend is left to the caller.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Duration of the event (s)", ylabel="Events per square degree and day", xscale="log", yscale="log")
    known = limits[limits["rate_high"].notna()]
    if known.empty and published.empty:
        return explain_empty(ax, "no rates and no limits")
    cells = known[["mag_low", "mag_high"]].drop_duplicates().sort_values("mag_low")
    shades = np.linspace(_DARKEST, _LIGHTEST, max(len(cells), 2))
    for place, (low, high) in enumerate(cells.itertuples(index=False)):
        own = known[known["mag_low"] == low]
        share = 0.5 + _APART * ((place + 0.5) / len(cells) - 0.5)
        duration = own["duration_low_s"] * (own["duration_high_s"] / own["duration_low_s"]) ** share
        label = f"this search, magnitude {low:g} to {high:g}"
        _draw(ax, own.assign(duration=duration), _COLOURS(shades[place]), "o", label)
    for marker, (survey, own) in zip(_cycle(published), published.groupby("survey", sort=False), strict=True):
        bright = own["magnitude"].iloc[0]
        label = survey if np.isnan(bright) else f"{survey}, brighter than {bright:g}"
        middle = np.sqrt(own["duration_low_s"] * own["duration_high_s"])
        limit = own["per_deg2_day"].where(own["is_limit"], own["high"])
        _draw(
            ax,
            own.assign(duration=middle, rate=own["per_deg2_day"], rate_low=own["low"].fillna(0.0), rate_high=limit),
            GREY, marker, label,
        )  # fmt: skip
        ax.hlines(own["per_deg2_day"], own["duration_low_s"], own["duration_high_s"], color=GREY, lw=1.0)
    ax.grid(alpha=0.25)
    return ax


def _cycle(published: pd.DataFrame) -> list[str]:
    return [_MARKERS[k % len(_MARKERS)] for k in range(published["survey"].nunique())]


def _draw(ax: Axes, rows: pd.DataFrame, colour: object, marker: str, label: str) -> None:
    """Points with intervals where ``rate_low`` is above 0, else the upper limit with an arrow."""
    is_limit = rows["rate_low"].to_numpy() <= 0
    x, top = rows["duration"].to_numpy(), rows["rate_high"].to_numpy()
    y = np.where(is_limit, top, rows["rate"].to_numpy())
    below = np.where(is_limit, (1 - _ARROW) * top, y - rows["rate_low"].to_numpy())
    above = np.where(is_limit, 0.0, top - y)
    for uplims in (True, False):
        some = is_limit == uplims
        if some.any():
            ax.errorbar(
                x[some], y[some], yerr=[below[some], above[some]], uplims=uplims, ls="none", marker=marker, ms=4.5,
                capsize=2.5, lw=1.1, color=colour, label=label,
            )  # fmt: skip
            label = "_nolegend_"
