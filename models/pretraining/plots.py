"""Plot the learning curve of a pretraining, and a strip with its reconstruction. Data and Axes in, Axes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from shutterless.models.pretraining.fit import ALL
from shutterless.models.pretraining.reconstruction import Reconstruction
from shutterless.pipeline.plots.frames import BLACK, GREY, SKY_BLUE, explain_empty

PANELS = ("strip", "masked", "reconstruction", "difference")
_GAP_COLUMNS = 2


def plot_pretraining(history: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the ratio of the error to that of predicting 0 against epochs: training, validation, and each source.

    Parameters
    ----------
    history : DataFrame
        Columns ``epoch, split, source, ratio`` of `shutterless.models.pretraining.fit.PretrainingResult`.
    ax : Axes

    Returns
    -------
    Axes

    Notes
    -----
    The dotted line at 1 is the lower limit for white noise.
    """
    ax.set(xlabel="Epoch", ylabel="Error / that of predicting 0")
    if history.empty:
        return explain_empty(ax, "no epochs")
    ax.axhline(1, color=GREY, ls=":", lw=1.2, label="floor of white noise")
    for (split, source), rows in history.groupby(["split", "source"], sort=False):
        look: dict[str, Any] = {"lw": 1.0, "ls": "--", "label": source}
        if source == ALL:
            look = {"lw": 1.8, "color": BLACK if split == "validation" else SKY_BLUE, "label": f"{split}, all"}
        ax.plot(rows["epoch"], rows["ratio"], marker="o", ms=3, **look)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def plot_reconstruction(found: Reconstruction, index: int, ax: Axes, *, limit_sigma: float = 5.0) -> Axes:
    """Show one strip, its visible patches in one turn, its reconstruction and the difference, side by side.

    Parameters
    ----------
    found : Reconstruction
        Every patch of it was predicted in the turn in which it was hidden.
    index : int
        Index of the strip.
    ax : Axes
    limit_sigma : float
        The colours end at plus and minus this.

    Returns
    -------
    Axes

    Notes
    -----
    Time runs down, columns rightward; the rows of a stack (y > 1) are drawn side by side. Masked pixels
    are grey, hidden patches dark.
    """
    strip, guess = (_as_image(values[index]) for values in (found.strips, found.predicted))  # (t, y x)
    n_rows, n_columns = strip.shape
    visible = np.repeat(~found.hidden, n_rows // len(found.hidden))
    panels = (strip, np.where(visible[:, None], strip, np.nan), guess, strip - guess)
    starts = np.arange(len(panels)) * (n_columns + _GAP_COLUMNS)
    colours: dict[str, Any] = {"cmap": colormaps["RdBu_r"].with_extremes(bad="0.7")}
    for name, start, panel in zip(PANELS, starts, panels, strict=True):
        extent = (start - 0.5, start + n_columns - 0.5, n_rows - 0.5, -0.5)
        image = ax.imshow(
            np.ma.masked_invalid(panel), vmin=-limit_sigma, vmax=limit_sigma, extent=extent, aspect="auto",
            interpolation="nearest", **colours,
        )  # fmt: skip
        if name == "masked":
            _darken(~visible, extent, ax)
    ax.set_xlim(-0.5, starts[-1] + n_columns - 0.5)
    ax.set_xticks(starts + (n_columns - 1) / 2, PANELS)
    ax.set(ylabel="Binned row of the strip (time runs down)")
    ax.set_title(f"error / that of predicting 0: {found.strip_ratio[index]:.3f}")
    ax.figure.colorbar(image, ax=ax, label="Residual (σ)", pad=0.02, extend="both")
    return ax


def _as_image(pixels: np.ndarray) -> np.ndarray:
    """Pixels (y, x, t) as an image of time downward, (t, y x)."""
    return pixels.reshape(-1, pixels.shape[-1]).T


def _darken(rows: np.ndarray, extent: tuple[float, float, float, float], ax: Axes) -> None:
    shade = np.where(rows[:, None], 0.55, np.nan)
    ax.imshow(
        np.ma.masked_invalid(shade),
        cmap="gray",
        vmin=0,
        vmax=1.6,
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
