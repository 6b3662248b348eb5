"""Plot a sweep: the loss of each trial, loss against model size, importance of hyperparameters."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shutterless.pipeline.plots.frames import GREY, explain_empty
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.pages.figures import detector_styles
from shutterless.workflows.training.sweeps.study import COMPLETE, N_FOR_IMPORTANCE, PRUNED, UNUSABLE

LOSS_LABEL = "Validation loss (nats per strip)"
_WORST_SHOWN = 3.0  # times the spread between the best and the median trial: bad trials do not squeeze the others


def draw_sweep(trials: pd.DataFrame, importance: pd.DataFrame) -> Figure:
    """Draw loss against trial and against size, and the importance of each family's hyperparameters."""
    families = list(dict.fromkeys(trials["family"]))
    figure = new_figure(11, 8)
    rows = figure.add_gridspec(2, 1, height_ratios=(1.1, 1))
    top, bottom = rows[0].subgridspec(1, 2), rows[1].subgridspec(1, len(families))
    _plot_trials(trials, figure.add_subplot(top[0]))
    _plot_sizes(trials, figure.add_subplot(top[1]))
    for place, family in enumerate(families):
        ax = figure.add_subplot(bottom[place])
        _plot_importance(importance[importance["family"] == family], ax, family=family)
    return figure


def _plot_trials(trials: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the validation loss of each trial in order of execution, and the best so far.

    Parameters
    ----------
    trials : DataFrame
        ``family, trial, state, validation_loss``; trials that were cut short are hollow, at their best loss.
    ax : Axes

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Trial of the family", ylabel=LOSS_LABEL)
    rows = trials[trials["state"].isin([COMPLETE, PRUNED, UNUSABLE])].copy()
    rows["place"] = rows.groupby("family").cumcount() + 1  # interrupted trials leave no gap
    rows = rows.dropna(subset=["validation_loss"])
    if rows.empty:
        return explain_empty(ax, "no trials")
    for name, style in detector_styles(dict.fromkeys(rows["family"])).items():
        own = rows[rows["family"] == name]
        _draw_points(own, "place", ax, name, style)
        done = own[own["state"] == COMPLETE]
        if len(done):
            steps = [*done["place"], own["place"].max()]
            best = [*done["validation_loss"].cummin(), done["validation_loss"].min()]
            ax.step(steps, best, where="post", color=style["color"], lw=1.3)
    if rows["state"].eq(PRUNED).any():
        ax.plot([], [], ls="none", marker="o", mfc="white", color=GREY, label="cut short")
    _limit_losses(rows, ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.plot([], [], color=GREY, lw=1.3, label="best so far")
    # above the axes: inside it would hide trials
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5, columnspacing=1, handletextpad=0.4)
    return ax


def _plot_sizes(trials: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the validation loss against the number of parameters.

    Parameters
    ----------
    trials : DataFrame
        ``family, state, validation_loss, n_parameters``.
    ax : Axes

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Parameters", ylabel=LOSS_LABEL, xscale="log")
    rows = trials[trials["state"].isin([COMPLETE, PRUNED])].dropna(subset=["validation_loss", "n_parameters"])
    if rows.empty:
        return explain_empty(ax, "no trials")
    for name, style in detector_styles(dict.fromkeys(rows["family"])).items():
        own = rows[rows["family"] == name]
        _draw_points(own, "n_parameters", ax, name, style)
        done = own[own["state"] == COMPLETE]
        best = done.nsmallest(1, "validation_loss")
        ax.plot(best["n_parameters"], best["validation_loss"], "o", mfc="none", mec=style["color"], ms=14)
    _limit_losses(rows, ax)
    ax.set_title("ring: best of the family", fontsize="medium")
    return ax


def _plot_importance(importance: pd.DataFrame, ax: Axes, *, family: str) -> Axes:
    """Draw the share of the spread between good trials and the others that each hyperparameter explains.

    Parameters
    ----------
    importance : DataFrame
        ``hyperparameter, importance`` of one family.
    ax : Axes
    family : str

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Importance (share)", xlim=(0, 1))
    ax.set_title(family, fontsize="medium")
    if importance.empty:
        ax.set_yticks([])
        return explain_empty(ax, f"fewer than {N_FOR_IMPORTANCE}\ncompleted trials")
    rows = importance.sort_values("importance", kind="stable")
    ax.barh(range(len(rows)), rows["importance"], color=detector_styles([family])[family]["color"])
    ax.set_yticks(range(len(rows)), rows["hyperparameter"])
    ax.set_axisbelow(True)
    ax.grid(axis="x", alpha=0.25)
    return ax


def _draw_points(rows: pd.DataFrame, across: str, ax: Axes, name: str, style: dict) -> None:
    look = {"color": style["color"], "marker": style["marker"], "ls": "none", "ms": 5}
    for state, fill in ((PRUNED, "white"), (COMPLETE, style["color"])):
        part = rows[rows["state"] == state]
        label = name if state == COMPLETE else None
        ax.plot(part[across].astype(float), part["validation_loss"].astype(float), mfc=fill, label=label, **look)


def _limit_losses(rows: pd.DataFrame, ax: Axes) -> None:
    """End the axis where the trials thin out, and state how many lie beyond."""
    losses = rows["validation_loss"].astype(float)
    spread = losses.median() - losses.min()
    top = losses.median() + _WORST_SHOWN * spread
    ax.grid(alpha=0.25)
    if spread > 0 and losses.max() > top:
        ax.set_ylim(losses.min() - 0.3 * spread, top)
        n_beyond = int((losses > top).sum())
        ax.text(0.98, 0.98, f"{n_beyond} above", transform=ax.transAxes, ha="right", va="top", color=GREY)
