"""Draw simulated data: pixels in electrons, events, series and profiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize

from shutterless.pipeline.plots.frames import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    explain_empty,
)

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
_DASHES = ("-", "--", "-.", ":")
_GREYS = colormaps["gray"].with_extremes(bad="#c08070")
_FEW_ROWS = 120  # below, each row is drawn with its width


def plot_pixels(
    pixels: np.ndarray,
    ax: Axes,
    *,
    limits: tuple[float, float],
    softening: float | None = None,
    first_row: float = 0,
    first_column: float = 0,
    bins: tuple[int, int] = (1, 1),
    unit: str = "e⁻",
) -> Axes:
    """Show pixels in grey between two given values, time downward.

    Parameters
    ----------
    pixels : ndarray, shape (t, x)
        Rows downward, columns rightward; NaN (masked) is reddish.
    ax : Axes
    limits : (float, float)
        Values of black and white. Pictures with the same limits can be compared.
    softening : float, optional
        The grey scale is linear up to about this value and logarithmic above (``asinh``); linear without.
    first_row, first_column : float
        Row and column of ``pixels[0, 0]``.
    bins : (int, int)
        Rows and columns in one element.
    unit : str
        Of the values, for the colour bar.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the limits do not rise.
    """
    if not limits[0] < limits[1]:
        raise ValueError(f"limits {limits} must be two values in rising order: black and white")
    ax.set(xlabel="Column (px)", ylabel="Row (time runs down)")
    if pixels.size == 0:
        return explain_empty(ax, "no pixels")
    n_rows, n_columns = pixels.shape[0] * bins[0], pixels.shape[1] * bins[1]
    extent = (first_column - 0.5, first_column + n_columns - 0.5, first_row + n_rows - 0.5, first_row - 0.5)
    norm = Normalize(*limits) if softening is None else AsinhNorm(softening, *limits)
    image = ax.imshow(
        np.ma.masked_invalid(pixels), cmap=_GREYS, norm=norm, extent=extent, aspect="auto", interpolation="nearest"
    )
    low, high = np.nanmin(pixels) < limits[0], np.nanmax(pixels) > limits[1]
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    bar = ax.figure.colorbar(image, ax=ax, label=unit, pad=0.03, extend=beyond[bool(low), bool(high)])
    if softening is not None:
        ticks = _round_values(*limits, softening)
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
        bar.minorticks_off()
    return ax


def _round_values(low: float, high: float, softening: float) -> list[float]:
    """0 between two limits, and 1, 2 and 5 times powers of ten where the scale is no longer linear."""
    decades = 10.0 ** np.arange(np.floor(np.log10(softening)) - 1, np.ceil(np.log10(max(high, softening))) + 1)
    steps = np.outer(decades, (1, 2, 5)).ravel()
    return [0.0] * (low <= 0) + [float(step) for step in steps if max(low, softening / 4) <= step <= high]


def time_unit(span_s: float) -> tuple[str, float]:
    """Unit in which a span of time is readable, ``"ms"`` or ``"s"``, and its number in a second."""
    return ("ms", 1e3) if abs(span_s) < 1.5 else ("s", 1.0)


def plot_event(
    seconds: np.ndarray,
    flux: np.ndarray,
    ax: Axes,
    *,
    measured: np.ndarray | None = None,
    rows_per_point: int = 1,
    unit: str = "Flux / star's own",
) -> Axes:
    """Draw the light curve of an event by rows, without and with noise.

    Parameters
    ----------
    seconds : ndarray, shape (t,)
        Time of each row (s).
    flux : ndarray, shape (t,)
        Mean of each row.
    ax : Axes
    measured : ndarray, shape (t,), optional
        The same with noise, drawn as points.
    rows_per_point : int
        Rows that are averaged for a point; an incomplete last point is left out.
    unit : str
        Label of the vertical axis.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the arrays are not equally long.
    """
    lengths = [len(values) for values in (seconds, flux, measured) if values is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"seconds, flux and measured have {lengths} rows; they must have as many")
    if len(seconds) == 0:
        return explain_empty(ax, "no rows")
    name, factor = time_unit(seconds[-1] - seconds[0])
    if measured is not None:
        points = len(seconds) // rows_per_point
        folded = (points, rows_per_point)
        times, values = (array[: points * rows_per_point].reshape(folded).mean(axis=1) for array in (seconds, measured))
        ax.plot(factor * times, values, ls="none", marker=".", ms=4, mec="none", mfc=GREY)
    ax.plot(
        factor * seconds, flux, color=BLUE, lw=1.3, drawstyle="steps-mid" if len(seconds) < _FEW_ROWS else "default"
    )
    ax.set(xlabel=f"Time ({name})", ylabel=unit, xlim=(factor * seconds[0], factor * seconds[-1]))
    return ax


def plot_series(
    x: np.ndarray, curves: Mapping[str, np.ndarray], ax: Axes, *, xlabel: str, ylabel: str, steps: bool = False
) -> Axes:
    """Draw one or several curves over the same values, with a legend if there are several.

    Parameters
    ----------
    x : ndarray, shape (n,)
    curves : mapping of str to ndarray, shape (n,)
        By their names; NaN leaves a gap.
    ax : Axes
    xlabel, ylabel : str
        With their units.
    steps : bool
        Draw steps with the width of pixels or rows, rather than a curve.

    Returns
    -------
    Axes
    """
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(x) == 0 or not curves:
        return explain_empty(ax, "nothing to draw")
    for index, (name, values) in enumerate(curves.items()):
        style = "steps-mid" if steps else "default"
        dash = _DASHES[index % len(_DASHES)]
        ax.plot(x, values, color=_COLOURS[index % len(_COLOURS)], lw=1.2, ls=dash, drawstyle=style, label=name)
    ax.set_xlim(x[0], x[-1])
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize="small")
    return ax


def plot_noise_by_magnitude(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the noise around streaks over its expectation, against the magnitude of their star, after each step.

    Parameters
    ----------
    table : DataFrame
        One row for each step of the calibration, in order, and one column for each magnitude, whose label is that
        number; NaN without a star.
    ax : Axes

    Returns
    -------
    Axes
        Logarithmic, as magnitudes are, with a line at 1 for photon and read noise only.
    """
    ax.set(xlabel="Magnitude of the star (r)", ylabel="σ found / σ expected")
    if table.empty:
        return explain_empty(ax, "no streaks")
    mags = table.columns.to_numpy(dtype=float)
    for index, (name, values) in enumerate(table.iterrows()):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        ax.plot(mags, values.to_numpy(dtype=float), color=colour, ls=dash, marker="o", ms=4, lw=1.3, label=str(name))
    ax.axhline(1.0, color=GREY, lw=0.8)
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize="small")
    return ax
