"""Plot the performance of detectors: completeness, learning curves, calibration. Data and Axes in, Axes out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import ndtr

from shutterless.models.evaluation.metrics import wilson_interval
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

_FIXED = {"template-bank": (BLACK, "s"), "transformer": (BLUE, "o"), "cnn": (VERMILLION, "^"), "mlp": (GREEN, "D")}
_SPARE = ((PURPLE, "v"), (ORANGE, "P"), (SKY_BLUE, "X"), (GREY, "*"))
_SIDEWAYS = 0.25  # of a bin: largest sideways offset of points, so that error bars do not overlap


def detector_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each detector, the same in every figure."""
    spare = cycle(_SPARE)
    chosen = {name: _FIXED[name] if name in _FIXED else next(spare) for name in dict.fromkeys(names)}
    return {name: {"color": colour, "marker": marker, "ls": "-"} for name, (colour, marker) in chosen.items()}


def plot_completeness(table: pd.DataFrame, ax: Axes, *, eta: float | None = None, legend: bool = True) -> Axes:
    """Draw completeness against optimal S/N, with its bounds, for each detector.

    Parameters
    ----------
    table : DataFrame
        Rows of one event kind: ``detector, rho_low, rho_high, completeness, low, high``.
    ax : Axes
    eta : float, optional
        Threshold of a perfectly matched detector at the same false-alarm rate; draws Φ(ρ − η), the upper limit.
    legend : bool
        Whether to name the curves.

    Returns
    -------
    Axes

    Notes
    -----
    For a known shape in Gaussian noise the matched filter is N(ρ, 1), so it exceeds η with probability Φ(ρ − η)
    (Kay 1998, Fundamentals of Statistical Signal Processing II, §4.3). Points in one bin are offset sideways.
    """
    ax.set(xlabel="Optimal S/N ρ of the event", ylabel="Completeness", ylim=(-0.03, 1.03))
    table = table.dropna(subset=["completeness"])
    if table.empty:
        return explain_empty(ax, "no events")
    names = list(dict.fromkeys(table["detector"]))
    styles = detector_styles(names)
    shifts = np.linspace(-_SIDEWAYS, _SIDEWAYS, len(names)) / 2 if len(names) > 1 else [0.0]
    for name, shift in zip(names, shifts, strict=True):
        rows = table[table["detector"] == name].sort_values("rho_low")
        x = _bin_centres(rows["rho_low"], rows["rho_high"], shift)
        error = _error_bars(rows["completeness"], rows["low"], rows["high"])
        ax.errorbar(x, rows["completeness"], yerr=error, label=name, ms=5, lw=1.3, elinewidth=0.9, **styles[name])
    if eta is not None:
        rho = np.linspace(*ax.get_xlim(), 200)
        ax.plot(rho, ndtr(rho - eta), color=GREY, ls="--", lw=1.5, label=f"optimum Φ(ρ − {eta:.2f})")
        ax.set_xlim(rho[0], rho[-1])
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def _bin_centres(low: pd.Series, high: pd.Series, shift: float) -> np.ndarray:
    """Centres of bins moved by a fraction of their width; an open last bin stands at its lower edge."""
    low_edge, high_edge = low.to_numpy(dtype=float), high.to_numpy(dtype=float)
    width = np.where(np.isfinite(high_edge), high_edge - low_edge, 0.0)
    return low_edge + (0.5 + shift) * width


def _error_bars(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Distances to the bounds, shape (2, n); an unknown bound draws no bar."""
    distances = np.stack([value - low, high - value]).astype(float)
    return np.clip(np.nan_to_num(distances), 0.0, None)


def plot_comparison(summary: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the completeness of each detector with its bounds; the best is at the top.

    Parameters
    ----------
    summary : DataFrame
        One row per detector: ``detector, completeness, completeness_low, completeness_high``.
    ax : Axes

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Completeness over all counted events", xlim=(-0.02, 1.02))
    rows = summary.dropna(subset=["completeness"]).sort_values("completeness", kind="stable")
    if rows.empty:
        return explain_empty(ax, "no detectors")
    styles = detector_styles(summary["detector"])
    error = _error_bars(rows["completeness"], rows["completeness_low"], rows["completeness_high"])
    for place, (name, value) in enumerate(zip(rows["detector"], rows["completeness"], strict=True)):
        bars = error[:, place : place + 1]
        ax.errorbar([value], [place], xerr=bars, ms=7, capsize=3, **{**styles[name], "ls": "none"})
    ax.set_yticks(range(len(rows)), rows["detector"])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="x", alpha=0.25)
    return ax


def plot_learning_curves(history: pd.DataFrame, ax: Axes, *, legend: bool = True) -> Axes:
    """Draw training and validation loss of one model against optimiser steps.

    Parameters
    ----------
    history : DataFrame
        Columns ``step, split, loss``; ``split`` is ``train`` or ``validation``.
    ax : Axes
    legend : bool
        Whether to name the curves.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Optimiser step", ylabel="Loss (nats per strip)")
    rows = history.dropna(subset=["loss"])
    if rows.empty:
        return explain_empty(ax, "no steps")
    looks: dict[str, dict[str, Any]] = {
        "train": {"color": SKY_BLUE, "lw": 1.2},
        "validation": {"color": VERMILLION, "lw": 1.4, "marker": "o", "ms": 4},
    }
    for split, look in looks.items():
        part = rows[rows["split"] == split].sort_values("step")
        if len(part):
            ax.plot(part["step"], part["loss"], label=split, **look)
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(frameon=False)
    return ax


def plot_reliability(table: pd.DataFrame, ax: Axes, *, legend: bool = True) -> Axes:
    """Draw the fraction of events among strips against their predicted probability (95 % Wilson intervals).

    Parameters
    ----------
    table : DataFrame
        ``detector, n, mean_probability, observed_fraction``; bins without strips are left out.
    ax : Axes
    legend : bool
        Whether to name the curves.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Mean predicted probability", ylabel="Observed fraction of events", xlim=(-0.02, 1.02))
    ax.set_ylim(-0.02, 1.02)
    rows = table[table["n"] > 0].dropna(subset=["mean_probability", "observed_fraction"])
    if rows.empty:
        return explain_empty(ax, "no strips")
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2, label="perfectly calibrated")
    for name, style in detector_styles(dict.fromkeys(rows["detector"])).items():
        part = rows[rows["detector"] == name].sort_values("mean_probability")
        n = part["n"].to_numpy(float)
        low, high = wilson_interval(part["observed_fraction"].to_numpy(float) * n, n)
        error = _error_bars(part["observed_fraction"], pd.Series(low, part.index), pd.Series(high, part.index))
        x, y = part["mean_probability"], part["observed_fraction"]
        ax.errorbar(x, y, yerr=error, label=name, ms=5, lw=1.2, elinewidth=0.9, **style)
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax
