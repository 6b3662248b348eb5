"""Draw frames, their streaks, a candidate's strip and light curve, and the quality of a calibrated amplifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Okabe & Ito's palette, distinguishable with every common colour blindness
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY_BLUE, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#777777"
NOISE_RANGE = (0.9, 1.5)  # of the noise of columns as drawn; values outside are drawn on the edge
_UNSMOOTHED: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
_LEAST_APART = 0.06  # distance of labelled ticks, as a share of the axis
_NAMES_APART = 0.035  # distance of labelled streaks, as a share of the columns
_LABEL_APART = 0.65  # distance of labels of a spectrum, in the logarithm of the frequency


def plot_frame(
    pixels: np.ndarray,
    ax: Axes,
    *,
    first_row: int = 0,
    first_column: int = 0,
    row_step: int = 1,
    marked: tuple[float, float] | None = None,
    unit: str = "ADU",
    limit_sigma: float | None = None,
) -> Axes:
    """Show a piece of one amplifier in read order, time downward, raw or calibrated.

    Parameters
    ----------
    pixels : ndarray, shape (t, x)
        Rows downward, columns rightward.
    ax : Axes
    first_row, first_column : int
        File row and column of ``pixels[0, 0]``.
    row_step : int
        File rows from one given row to the next, if not all are drawn.
    marked : (float, float), optional
        Column and file row of a place to draw a circle around.
    unit : str
        Unit of the pixel values, for the colour bar.
    limit_sigma : float, optional
        If given, the pixels are residuals in units of σ, NaN (masked) is grey, and the colours end at plus and minus
        this.

    Returns
    -------
    Axes

    Notes
    -----
    Grey of raw pixels is linear in the noise of the sky, which is a third of the scale, and logarithmic above it, since
    stars on one amplifier span four decades.
    """
    ax.set(xlabel="Column x (pixel, read order)", ylabel="File row (read order; time runs down)")
    if pixels.size == 0:
        return explain_empty(ax, "no pixels")
    n_rows, n_columns = pixels.shape
    last_row = first_row + (n_rows - 1) * row_step
    extent = (first_column - 0.5, first_column + n_columns - 0.5, last_row + row_step / 2, first_row - row_step / 2)
    if limit_sigma is None:
        colours, label = _sky_colours(pixels), f"Pixel value ({unit})"
    else:
        colours, label = _residual_colours(limit_sigma), "Residual (σ)"
    image = ax.imshow(np.ma.masked_invalid(pixels), **colours, extent=extent, **_UNSMOOTHED, origin="upper")
    if marked is not None:
        ax.plot(*marked, ls="none", marker="o", ms=22, mfc="none", mec=ORANGE, mew=1.6)
    bar = ax.figure.colorbar(image, ax=ax, label=label, pad=0.02, extend="both")
    if limit_sigma is None:
        ticks = _sky_ticks(image.norm)
        bar.set_ticks(ticks, labels=[f"{tick:,.0f}" for tick in ticks])
        bar.minorticks_off()
    return ax


def _sky_colours(pixels: np.ndarray) -> dict[str, Any]:
    """Grey scale of raw pixels: the sky is dark grey with its noise visible, the brightest star nearly white."""
    live = pixels[np.isfinite(pixels)].astype(np.float64)
    low, middle, top = (float(value) for value in np.percentile(live, (0.5, 25, 99.8))) if live.size else (0, 0, 1)
    softening = max(middle - low, 1e-6 * abs(middle), 1e-30)  # about 2.5 σ of the sky
    norm = FuncNorm(
        (lambda value: np.arcsinh((value - low) / softening), lambda value: low + softening * np.sinh(value)),
        vmin=low,
        vmax=max(top, low + 3 * softening),
    )
    return {"cmap": "gray", "norm": norm}


def _sky_ticks(norm: Any, n_ticks: int = 6) -> list[float]:
    """Values at equal distances along the scale, to two digits."""
    values = norm.inverse(np.linspace(0, 1, n_ticks))
    digits = 10.0 ** np.floor(np.log10(np.maximum(np.diff(values).min(), 1e-12)))
    return sorted({float(value) for value in np.round(values / digits) * digits})


def _residual_colours(limit_sigma: float) -> dict[str, Any]:
    return {"cmap": colormaps["RdBu_r"].with_extremes(bad="0.6"), "vmin": -limit_sigma, "vmax": limit_sigma}


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
        Number of the brightest streaks that are labelled with their magnitude.

    Returns
    -------
    Axes

    Notes
    -----
    The scale is logarithmic if all columns are positive, since stars on one amplifier span four decades.
    """
    ax.set(xlabel="Column x (pixel, read order)", ylabel="Mean over time (e⁻ per row and column)")
    if profile_e.size == 0:
        return explain_empty(ax, "no columns")
    columns = np.arange(profile_e.size)
    ax.plot(columns, profile_e, color=BLUE, lw=0.9, label="time-collapsed profile")
    known = np.isfinite(profile_e)
    if known.any() and profile_e[known].min() > 0:
        ax.set_yscale("log")
    if len(streaks):
        level = _height_at(profile_e, streaks["x"].to_numpy(dtype=float))
        ax.plot(streaks["x"], level, ls="none", marker="v", ms=5, mfc="none", mec=VERMILLION, label="streaks")
        _label_brightest(streaks, level, ax, n_labels, profile_e.size)
    ax.set_xlim(-0.5, profile_e.size - 0.5)
    ax.margins(y=0.15)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.1)
    return ax


def _height_at(profile_e: np.ndarray, x: np.ndarray) -> np.ndarray:
    nearest = np.clip(np.rint(x), 0, profile_e.size - 1).astype(int)
    return profile_e[nearest]


def _label_brightest(streaks: pd.DataFrame, level: np.ndarray, ax: Axes, n_labels: int, n_columns: int) -> None:
    """Label the brightest where no brighter one is labelled nearby."""
    known = streaks.assign(level=level).dropna(subset=["mag", "level"]).sort_values("mag")
    taken: list[float] = []
    for x, height, mag in known[["x", "level", "mag"]].to_numpy(dtype=float):
        if len(taken) == n_labels:
            return
        if any(abs(x - other) < _NAMES_APART * n_columns for other in taken):
            continue
        taken.append(x)
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
        Rows in one element of axis t.
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
        return explain_empty(ax, "no pixels")
    n_columns, n_bins = residual.shape
    extent = (
        first_row - 0.5,
        first_row + n_bins * rows_per_bin - 0.5,
        first_column - 0.5,
        first_column + n_columns - 0.5,
    )
    image = ax.imshow(
        np.ma.masked_invalid(residual), **_residual_colours(limit_sigma), extent=extent, **_UNSMOOTHED, origin="lower"
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
        return explain_empty(ax, "no rows")
    if marked_s is not None:
        ax.axvspan(*marked_s, color=ORANGE, alpha=0.35, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.step(seconds, value_sigma, where="mid", color=BLUE, lw=1.0)
    if len(seconds) > 1:
        ax.set_xlim(seconds[0], seconds[-1])
    return ax


def plot_column_noise(
    level_e: np.ndarray,
    noise: np.ndarray,
    groups: Mapping[str, np.ndarray],
    ax: Axes,
    *,
    magnitudes: Mapping[str, float] | None = None,
) -> Axes:
    """Draw the noise of each column over photon and read noise, against its level.

    Parameters
    ----------
    level_e : ndarray, shape (x,)
        Mean level of each column (electrons per pixel).
    noise : ndarray, shape (x,)
        Measured noise over theory; NaN is left out.
    groups : mapping of str to ndarray of bool, shape (x,)
        Up to three kinds of columns by their names; later ones are drawn over earlier ones.
    ax : Axes
    magnitudes : mapping of str to float, optional
        Levels (electrons) in the middle of stars of some magnitudes, for the axis above.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Mean level of the column (e⁻ per pixel; sky at the left)", ylabel="Noise / theory")
    drawn = np.isfinite(noise) & (level_e > 0)
    if not drawn.any():
        return explain_empty(ax, "no columns")
    for (name, group), colour in zip(groups.items(), (ORANGE, BLUE, BLACK), strict=False):
        inside = drawn & group & (noise >= NOISE_RANGE[0]) & (noise <= NOISE_RANGE[1])
        label = f"{name} ({(drawn & group).sum()})"
        ax.plot(level_e[inside], noise[inside], ls="none", marker=".", ms=4, color=colour, label=label)
    _mark_outside(level_e[drawn], noise[drawn], ax)
    ax.axhspan(0.98, 1.02, color=GREEN, alpha=0.2, lw=0, label="1.00 ± 0.02")
    ax.axhline(1.05, color=GREY, ls="--", lw=1.2, label="1.05")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(level_e[drawn].min() / 1.03, level_e[drawn].max() * 1.1)
    ax.set_ylim(NOISE_RANGE[0] - 0.01, NOISE_RANGE[1] + 0.02)
    _add_magnitudes(magnitudes or {}, ax)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=1.6)
    return ax


def _add_magnitudes(magnitudes: Mapping[str, float], ax: Axes) -> None:
    """Label levels on the axis above where labels have room."""
    low, high = np.log(ax.get_xlim())
    shown: dict[str, float] = {}
    for name, level in sorted(magnitudes.items(), key=lambda item: -item[1]):
        nearest = min(shown.values(), default=np.inf)
        if low < np.log(level) < high and np.log(nearest / level) > _LEAST_APART * (high - low):
            shown[name] = level
    if shown:
        above = ax.secondary_xaxis("top")
        above.set_xticks(list(shown.values()), list(shown))
        above.set_xticks([], minor=True)
        above.set_xlabel("Magnitude of a star with this level in its middle column")


def _mark_outside(level_e: np.ndarray, noise: np.ndarray, ax: Axes) -> None:
    low, high = NOISE_RANGE
    for side, edge, outside, marker in (("below", low, noise < low, "v"), ("above", high, noise > high, "^")):
        if outside.any():
            label, edges = f"{side} {edge:g} ({outside.sum()})", np.full(outside.sum(), edge)
            ax.plot(level_e[outside], edges, ls="none", marker=marker, ms=5, color=VERMILLION, label=label)


def plot_noise_over_time(edges: np.ndarray, noise: np.ndarray, ax: Axes) -> Axes:
    """Draw the noise of sky columns over theory against the row.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
        First file row of each segment, and the row after the last.
    noise : ndarray, shape (n,)
        NaN leaves a gap.
    ax : Axes

    Returns
    -------
    Axes
    """
    ax.set(xlabel="File row (read order)", ylabel="Noise / theory")
    if not np.isfinite(noise).any():
        return explain_empty(ax, "no sky columns")
    ax.axhspan(0.98, 1.02, color=GREEN, alpha=0.2, lw=0)
    ax.stairs(noise, edges - 0.5, baseline=None, color=ORANGE, lw=1.4)
    ax.set_xlim(edges[0] - 0.5, edges[-1] - 0.5)
    ax.set_ylim(min(0.96, np.nanmin(noise) - 0.01), max(1.06, np.nanmax(noise) + 0.01))
    return ax


def plot_pickup(
    frequency_hz: np.ndarray,
    amplitude_e: np.ndarray,
    peaks: pd.DataFrame,
    ax: Axes,
    *,
    row_rate_hz: float,
    n_labels: int = 6,
) -> Axes:
    """Draw the amplitude spectrum of the signal that the columns of a row share, and label its lines.

    Parameters
    ----------
    frequency_hz, amplitude_e : ndarray, shape (f,)
        Amplitude (electrons) of a sinusoid at each frequency; the first is 0 Hz and not drawn.
    peaks : DataFrame
        Columns ``frequency_hz`` and ``amplitude_e``; the strongest first.
    ax : Axes
    row_rate_hz : float
        Rows per second; labels give periods in rows.
    n_labels : int
        Largest number of labelled peaks, where labels have room. The others are only marked.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Frequency (Hz)", ylabel="Amplitude (e⁻)")
    drawn = (frequency_hz > 0) & (amplitude_e > 0)
    if not drawn.any():
        return explain_empty(ax, "no rows")
    ax.loglog(frequency_hz[drawn], amplitude_e[drawn], color=BLUE, lw=0.9)
    if len(peaks):
        ax.plot(peaks["frequency_hz"], peaks["amplitude_e"], ls="none", marker="v", ms=5, mfc="none", mec=VERMILLION)
    named: list[float] = []
    for frequency, amplitude in peaks[["frequency_hz", "amplitude_e"]].to_numpy():
        if len(named) < n_labels and all(abs(np.log(frequency / other)) > _LABEL_APART for other in named):
            named.append(frequency)
            words = f"{frequency:.1f} Hz\n{row_rate_hz / frequency:.2f} rows"
            at = (frequency, amplitude)
            ax.annotate(words, at, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.margins(y=0.25)
    ax.grid(alpha=0.25)
    return ax


def plot_masked(
    fraction: np.ndarray, ax: Axes, *, n_bins: int = 128, marked: np.ndarray | None = None, along: str = "Column x"
) -> Axes:
    """Draw the masked fraction along columns or rows, in bins.

    Parameters
    ----------
    fraction : ndarray, shape (n,)
        Masked fraction of each column or row.
    ax : Axes
    n_bins : int
        Largest number of bins; their sizes differ by one at most.
    marked : ndarray of int, optional
        Columns to mark below, which are masked from end to end.
    along : str
        Name of the axis of ``fraction``.

    Returns
    -------
    Axes
    """
    ax.set(xlabel=f"{along} (read order)", ylabel="Masked (%)")
    if fraction.size == 0:
        return explain_empty(ax, "no pixels")
    edges = np.linspace(0, fraction.size, min(n_bins, fraction.size) + 1).astype(int)
    mean = np.add.reduceat(fraction, edges[:-1]) / np.diff(edges)
    ax.stairs(100 * mean, edges - 0.5, fill=True, color=SKY_BLUE, lw=0)
    ax.set_xlim(-0.5, fraction.size - 0.5)
    ax.set_ylim(0, max(1.0, 110 * mean.max()))
    if marked is not None and len(marked):
        ax.plot(marked, np.zeros(len(marked)), ls="none", marker="|", ms=9, color=VERMILLION, clip_on=False)
    return ax if mean.any() else explain_empty(ax, "none")


def explain_empty(ax: Axes, text: str) -> Axes:
    """Write into an empty Axes why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
    return ax
