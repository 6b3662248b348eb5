"""Plot the map of a night's triggers and their outlier scores. Data and Axes in, Axes out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from shutterless.models.explain.embedding import OUTLIER
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

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILLION)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_embedding(
    points: pd.DataFrame,
    ax: Axes,
    *,
    explained: np.ndarray | None = None,
    names: pd.DataFrame | None = None,
    n_outliers: int = 0,
) -> Axes:
    """Draw the first two principal components of a night's strips, by cluster.

    Parameters
    ----------
    points : DataFrame
        Of `shutterless.models.explain.embedding.EmbeddingMap`.
    ax : Axes
    explained : ndarray, optional
        Share of the variance in each component, for the labels of the axes.
    names : DataFrame, optional
        ``cluster`` and ``name`` (`shutterless.models.explain.embedding.name_clusters`).
    n_outliers : int
        Number of the oddest points that are ringed and numbered from 1, the oddest.

    Returns
    -------
    Axes
    """
    share = [f" ({100 * value:.0f} % of the variance)" for value in (explained if explained is not None else [])[:2]]
    labels = [f"Principal component {i + 1}{share[i] if i < len(share) else ''}" for i in range(2)]
    ax.set(xlabel=labels[0], ylabel=labels[1])
    if points.empty:
        return explain_empty(ax, "no strips")
    known = {} if names is None else dict(zip(names["cluster"], names["name"], strict=True))
    for cluster in sorted(points["cluster"].unique(), key=lambda number: (number != OUTLIER, number)):
        part = points[points["cluster"] == cluster]
        label = known.get(cluster, f"{'in no cluster' if cluster == OUTLIER else f'cluster {cluster}'} ({len(part)})")
        outside = cluster == OUTLIER
        colour, marker = _COLOURS[cluster % len(_COLOURS)], _MARKERS[cluster % len(_MARKERS)]
        ax.plot(
            part["component_1"],
            part["component_2"],
            ls="none",
            marker="." if outside else marker,
            ms=4,
            color=GREY if outside else colour,
            alpha=0.7,
            mew=0,
            label=label,
        )
    _ring(points.nlargest(n_outliers, "outlier_score"), ax)
    ax.margins(0.06)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False, fontsize=9, markerscale=1.6)
    return ax


def _ring(oddest: pd.DataFrame, ax: Axes) -> None:
    x, y = oddest["component_1"].to_numpy(), oddest["component_2"].to_numpy()
    ax.plot(x, y, ls="none", marker="o", ms=11, mfc="none", mec=BLACK, mew=0.9)
    for number, place in enumerate(zip(x, y, strict=True), start=1):
        ax.annotate(str(number), place, xytext=(6, 5), textcoords="offset points", fontsize=8)


def plot_outlier_scores(points: pd.DataFrame, ax: Axes, *, kinds: np.ndarray | None = None, n_shown: int = 200) -> Axes:
    """Draw the outlier scores in falling order, coloured by their kinds in a simulation.

    Parameters
    ----------
    points : DataFrame
        With ``outlier_score``.
    ax : Axes
    kinds : ndarray of str, optional
        One for each point.
    n_shown : int
        Number of the oddest points to draw.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Rank (1: the oddest)", ylabel="Outlier score (robust σ)")
    if points.empty:
        return explain_empty(ax, "no strips")
    order = np.argsort(-points["outlier_score"].to_numpy(), kind="stable")[:n_shown]
    rank, score = np.arange(1, len(order) + 1), points["outlier_score"].to_numpy()[order]
    ax.plot(rank, score, color=GREY, lw=0.8)
    shown = np.full(len(order), "strips", object) if kinds is None else np.asarray(kinds, dtype=object)[order]
    for i, kind in enumerate(sorted(set(shown))):
        own, colour = shown == kind, _COLOURS[i % len(_COLOURS)]
        marker = _MARKERS[i % len(_MARKERS)]
        ax.plot(rank[own], score[own], ls="none", marker=marker, ms=4.5, color=colour, label=f"{kind} ({own.sum()})")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.grid(alpha=0.25)
    if kinds is not None:
        ax.legend(frameon=False, fontsize=9)
    return ax
