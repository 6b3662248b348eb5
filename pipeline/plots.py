"""Pictures of pixels: a frame, its streaks, a candidate's strip and light curve. Data and Axes in, Axes out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from astropy.visualization import ZScaleInterval
from matplotlib import colormaps
from matplotlib.axes import Axes

# Okabe & Ito's palette: told apart with every common colour blindness
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY_BLUE, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#777777"


def plot_frame(
    pixels: np.ndarray,
    ax: Axes,
    *,
    first_row: int = 0,
    first_column: int = 0,
    marked: tuple[float, float] | None = None,
    unit: str = "ADU",
    contrast: float = 0.25,
) -> Axes:
    """Show a piece of one amplifier in read order, time downward.

    Parameters
    ----------
    pixels : ndarray, shape (t, x)
        Rows downward, columns rightward.
    ax : Axes
    first_row, first_column : int
        File row and column of ``pixels[0, 0]``.
    marked : (float, float), optional
        Column and file row of a place to draw a circle around.
    unit : str
        Unit of the pixel values, for the colour bar.
    contrast : float
        Of the ZScale stretch; smaller is softer.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Column x (pixel, read order)", ylabel="File row (read order; time runs down)")
    if pixels.size == 0:
        return say_nothing(ax, "no pixels")
    low, high = ZScaleInterval(contrast=contrast).get_limits(pixels)
    n_rows, n_columns = pixels.shape
    extent = (first_column - 0.5, first_column + n_columns - 0.5, first_row + n_rows - 0.5, first_row - 0.5)
    image = ax.imshow(
        pixels, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="auto", interpolation="nearest", origin="upper"
    )
    if marked is not None:
        ax.plot(*marked, ls="none", marker="o", ms=22, mfc="none", mec=ORANGE, mew=1.6)
    ax.figure.colorbar(image, ax=ax, label=f"Pixel value ({unit}), ZScale", pad=0.02, extend="both")
    return ax


def plot_streaks(profile_e: np.ndarray, streaks: pd.DataFrame, ax: Axes, *, n_labels: int = 12) -> Axes:
    """Draw the time-collapsed profile of an amplifier and mark its streaks.

    Parameters
    ----------
    profile_e : ndarray, shape (x,)
        Mean over time of each column (electrons per row); NaN where masked.
    streaks : DataFrame
        Columns ``x`` (pixel) and ``mag`` (NaN where unknown).
    ax : Axes
    n_labels : int
        How many of the brightest streaks get their magnitude written beside them.

    Returns
    -------
    Axes

    Notes
    -----
    The scale is logarithmic where all columns are positive: stars on one amplifier span four decades.
    """
    ax.set(xlabel="Column x (pixel, read order)", ylabel="Mean over time (e⁻ per row and column)")
    if profile_e.size == 0:
        return say_nothing(ax, "no columns")
    columns = np.arange(profile_e.size)
    ax.plot(columns, profile_e, color=BLUE, lw=0.9, label="time-collapsed profile")
    known = np.isfinite(profile_e)
    if known.any() and profile_e[known].min() > 0:
        ax.set_yscale("log")
    if len(streaks):
        level = _height_at(profile_e, streaks["x"].to_numpy(dtype=float))
        ax.plot(streaks["x"], level, ls="none", marker="v", ms=5, mfc="none", mec=VERMILLION, label="streaks")
        _label_brightest(streaks, level, ax, n_labels)
    ax.set_xlim(-0.5, profile_e.size - 0.5)
    ax.margins(y=0.15)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.1)
    return ax


def _height_at(profile_e: np.ndarray, x: np.ndarray) -> np.ndarray:
    nearest = np.clip(np.rint(x), 0, profile_e.size - 1).astype(int)
    return profile_e[nearest]


def _label_brightest(streaks: pd.DataFrame, level: np.ndarray, ax: Axes, n_labels: int) -> None:
    named = streaks.assign(level=level).dropna(subset=["mag", "level"]).nsmallest(n_labels, "mag")
    for x, height, mag in named[["x", "level", "mag"]].to_numpy(dtype=float):
        ax.annotate(f"{mag:.1f}", (x, height), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)


def plot_strip(
    residual: np.ndarray,
    ax: Axes,
    *,
    first_row: float = 0,
    first_column: int = 0,
    rows_per_bin: int = 1,
    marked_rows: tuple[float, float] | None = None,
    limit_sigma: float = 6.0,
) -> Axes:
    """Show a strip of residuals, time rightward.

    Parameters
    ----------
    residual : ndarray, shape (x, t)
        Residual in units of σ; NaN (masked) is grey.
    ax : Axes
    first_row, first_column : float, int
        File row and column of ``residual[0, 0]``.
    rows_per_bin : int
        Rows that one element of axis t stands for.
    marked_rows : (float, float), optional
        First and last file row of the event; dotted lines are drawn around them.
    limit_sigma : float
        The colours end at plus and minus this.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="File row (read order; time runs right)", ylabel="Column x (pixel)")
    if residual.size == 0:
        return say_nothing(ax, "no pixels")
    n_columns, n_bins = residual.shape
    extent = (
        first_row - 0.5,
        first_row + n_bins * rows_per_bin - 0.5,
        first_column - 0.5,
        first_column + n_columns - 0.5,
    )
    image = ax.imshow(
        np.ma.masked_invalid(residual),
        cmap=colormaps["RdBu_r"].with_extremes(bad="0.6"),
        vmin=-limit_sigma,
        vmax=limit_sigma,
        extent=extent,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )
    if marked_rows is not None:
        for row in (marked_rows[0] - 0.5, marked_rows[1] + 0.5):
            ax.axvline(row, color=BLACK, lw=0.9, ls=":")
    ax.figure.colorbar(image, ax=ax, label="Residual (σ)", pad=0.01, fraction=0.04, extend="both")
    return ax


def plot_light_curve(
    seconds: np.ndarray, value_sigma: np.ndarray, ax: Axes, *, marked_s: tuple[float, float] | None = None
) -> Axes:
    """Draw a light curve in units of its own noise.

    Parameters
    ----------
    seconds : ndarray, shape (t,)
        Time of each value (s).
    value_sigma : ndarray, shape (t,)
        Flux minus its baseline, in σ; NaN leaves a gap.
    ax : Axes
    marked_s : (float, float), optional
        Beginning and end of the event (s); shaded.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Time (s)", ylabel="Flux (σ)")
    if len(seconds) == 0:
        return say_nothing(ax, "no rows")
    if marked_s is not None:
        ax.axvspan(*marked_s, color=ORANGE, alpha=0.35, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.step(seconds, value_sigma, where="mid", color=BLUE, lw=1.0)
    if len(seconds) > 1:
        ax.set_xlim(seconds[0], seconds[-1])
    return ax


def say_nothing(ax: Axes, text: str) -> Axes:
    """Write into an empty Axes why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
    return ax
