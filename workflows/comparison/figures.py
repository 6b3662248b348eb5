"""Plot several models together: completeness, calibration, learning curves, metric against size. Data and Axes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from shutterless.models.evaluation.metrics import wilson_interval
from shutterless.pipeline.plots.frames import explain_empty
from shutterless.workflows.pages.figures import detector_styles

_THIN = 0.8


def pool_completeness(tables: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Completeness of models against ρ, averaged over their seeds.

    Parameters
    ----------
    tables : mapping of str to sequence of DataFrame
        The logged table ``completeness`` of each model and seed.

    Returns
    -------
    DataFrame
        Input of `shutterless.workflows.pages.figures.plot_completeness`. All seeds have the same events, so the
        intervals (Wilson) are for the number of events of one seed.
    """
    pooled = []
    for model, seeds in tables.items():
        rows = pd.concat([table[table["kind"] == "all"] for table in seeds])
        bins = rows.groupby(["rho_low", "rho_high"], as_index=False)[["n", "found"]].mean()
        low, high = wilson_interval(bins["found"], bins["n"])
        pooled.append(bins.assign(detector=model, completeness=bins["found"] / bins["n"], low=low, high=high))
    return pd.concat(pooled, ignore_index=True) if pooled else pd.DataFrame({"detector": [], "completeness": []})


def pool_reliability(tables: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Reliability averaged over seeds, for `shutterless.workflows.pages.figures.plot_reliability`."""
    pooled = []
    for model, seeds in tables.items():
        rows = pd.concat(seeds).query("n > 0")
        sums = rows.assign(p=rows["mean_probability"] * rows["n"], o=rows["observed_fraction"] * rows["n"])
        bins = sums.groupby("bin_low", as_index=False)[["n", "p", "o"]].sum()
        means = bins.assign(mean_probability=bins["p"] / bins["n"], observed_fraction=bins["o"] / bins["n"])
        pooled.append(means.assign(detector=model, n=bins["n"] / len(seeds)))
    empty = pd.DataFrame({name: [] for name in ("detector", "n", "mean_probability", "observed_fraction")})
    return pd.concat(pooled, ignore_index=True) if pooled else empty


def plot_overlaid_losses(
    histories: Mapping[str, Sequence[pd.DataFrame]],
    split: str,
    ax: Axes,
    *,
    named: Iterable[str] = (),
    legend: bool = True,
) -> Axes:
    """Draw the losses of several models against optimiser steps, a line for each seed.

    Parameters
    ----------
    histories : mapping of str to sequence of DataFrame
        ``step, split, loss`` of each model and seed.
    split : str
        ``"train"`` or ``"validation"``.
    ax : Axes
    named : iterable of str
        All models of the other figures, so that each has the same colour here.
    legend : bool
        Whether to name the models.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Optimiser step", ylabel=f"{'Training' if split == 'train' else 'Validation'} loss (nats per strip)")
    styles = detector_styles([*named, *(model for model in histories if model not in set(named))])
    drawn = False
    for model, seeds in histories.items():
        look = {**styles[model], "marker": None} if split == "train" else styles[model]
        label: str | None = model
        for history in seeds:
            part = history[(history["split"] == split) & np.isfinite(history["loss"])].sort_values("step")
            if len(part):
                ax.plot(part["step"], part["loss"], label=label, ms=4, lw=1.3 if len(seeds) == 1 else _THIN, **look)
                drawn, label = True, None
    if not drawn:
        return explain_empty(ax, "no steps")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    ax.yaxis.set_major_formatter("{x:.3g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def plot_size(models: pd.DataFrame, metric: str, ax: Axes, *, legend: bool = True) -> Axes:
    """Draw a metric against the number of parameters, with the spread over seeds.

    Parameters
    ----------
    models : DataFrame
        ``model, n_parameters, mean, spread``; models without parameters stand at the left edge.
    metric : str
        For the label.
    ax : Axes
    legend : bool
        Whether to name the models.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Learned parameters", ylabel=metric)
    rows = models.dropna(subset=["n_parameters", "mean"])
    if rows.empty:
        return explain_empty(ax, "no sizes")
    sizes = rows.loc[rows["n_parameters"] > 0, "n_parameters"]
    smallest, largest = (float(sizes.min()), float(sizes.max())) if len(sizes) else (1.0, 10.0)
    ax.set_xscale("symlog", linthresh=smallest / 3, linscale=0.5)
    for model, style in detector_styles(rows["model"]).items():
        row = rows[rows["model"] == model].iloc[0]
        error = 0.0 if pd.isna(row["spread"]) else row["spread"]
        place = [row["n_parameters"]], [row["mean"]]
        ax.errorbar(*place, yerr=[error], ms=7, capsize=3, label=model, **{**style, "ls": "none"})
    powers = range(int(np.floor(np.log10(smallest))), int(np.log10(largest)) + 1)
    ticks = [tick for power in powers for tick in (10.0**power, 3 * 10.0**power) if smallest / 2 <= tick <= 2 * largest]
    ax.set_xticks([0.0, *ticks], ["0", *(f"{tick:,.0f}" for tick in ticks)])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-smallest / 6 if rows["n_parameters"].eq(0).any() else smallest / 2, 2 * largest)
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax
