"""Plot attention, attributions and preferred inputs of a model. Data and Axes in, Axes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from shutterless.pipeline.plots.frames import BLACK, BLUE, GREY, ORANGE, VERMILLION, explain_empty

_GAP = 1  # pixels between the tiles of a gallery
_SHARE_OF_COLOURS = 0.998  # of the attributions; a few extreme pixels would hide the others


def plot_attention(
    rows: np.ndarray,
    ax: Axes,
    *,
    first_row: float = 0,
    rows_per_bin: int = 1,
    marked_rows: tuple[float, float] | None = None,
) -> Axes:
    """Draw the attention to each row of a strip, relative to an even share.

    Parameters
    ----------
    rows : ndarray, shape (t,)
        Share of each binned row (`shutterless.models.explain.attention.StripAttention.rows` of one strip).
    ax : Axes
    first_row : float
        File row of ``rows[0]``.
    rows_per_bin : int
    marked_rows : (float, float), optional
        First and last file row of the event; shaded.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="File row (read order; time runs right)", ylabel="Attention × even share")
    if len(rows) == 0:
        return explain_empty(ax, "no rows")
    edges = first_row - 0.5 + rows_per_bin * np.arange(len(rows) + 1)
    if marked_rows is not None:
        ax.axvspan(marked_rows[0] - 0.5, marked_rows[1] + 0.5, color=ORANGE, alpha=0.35, lw=0, label="event")
    ax.stairs(np.asarray(rows) * len(rows), edges, baseline=None, color=BLUE, lw=1.4, label="attention rollout")
    ax.axhline(1, color=GREY, ls="--", lw=1.0, label="even share")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, max(1.2, 1.1 * len(rows) * float(np.max(rows))))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.1, fontsize=8)
    return ax


def plot_rollout(rollout: np.ndarray, ax: Axes) -> Axes:
    """Show the share of each input token in each output token of an encoder.

    Parameters
    ----------
    rollout : ndarray, shape (1 + n, 1 + n)
        Of one strip; rows sum to one.
    ax : Axes

    Returns
    -------
    Axes

    Notes
    -----
    The diagonal is the share of a token in itself; the colours end at the largest share off the diagonal.
    """
    ax.set(xlabel="Input token (0: static profile; then patches in time)", ylabel="Output token")
    if rollout.size == 0:
        return explain_empty(ax, "no tokens")
    beside = rollout[~np.eye(len(rollout), dtype=bool)]
    top = float(beside.max()) if beside.size else 1.0
    image = ax.imshow(rollout, cmap="viridis", vmin=0, vmax=top or 1.0, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="Share of the input token", pad=0.02, extend="max")
    return ax


def plot_attribution(
    values: np.ndarray,
    ax: Axes,
    *,
    first_row: float = 0,
    first_column: float = 0,
    rows_per_bin: int = 1,
    marked_rows: tuple[float, float] | None = None,
    label: str = "Attribution (logit per pixel)",
) -> Axes:
    """Show the contribution of each pixel of a strip to the event logit, time rightward.

    Parameters
    ----------
    values : ndarray, shape (x, t)
        Purple (positive) favours an event, green does not.
    ax : Axes
    first_row, first_column : float
        File row and column of ``values[0, 0]``.
    rows_per_bin : int
    marked_rows : (float, float), optional
        First and last file row of the event; dotted lines are drawn around them.
    label : str
        Label of the colour bar.

    Returns
    -------
    Axes
    """
    ax.set(xlabel="File row (read order; time runs right)", ylabel="Column x (pixel)")
    if values.size == 0:
        return explain_empty(ax, "no pixels")
    n_columns, n_bins = values.shape
    right, top = first_row + n_bins * rows_per_bin - 0.5, first_column + n_columns - 0.5
    limit = float(np.quantile(np.abs(values), _SHARE_OF_COLOURS)) or float(np.abs(values).max()) or 1.0
    image = ax.imshow(
        values,
        cmap="PRGn_r",
        vmin=-limit,
        vmax=limit,
        extent=(first_row - 0.5, right, first_column - 0.5, top),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )
    if marked_rows is not None:
        for row in (marked_rows[0] - 0.5, marked_rows[1] + 0.5):
            ax.axvline(row, color=BLACK, lw=0.9, ls=":")
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.01, fraction=0.04, extend="both")
    return ax


def plot_contributions(values: Sequence[float] | np.ndarray, names: Sequence[str], ax: Axes) -> Axes:
    """Draw the contribution of each named input to the event logit, the largest on top.

    Parameters
    ----------
    values : sequence of float
        Logits.
    names : sequence of str
        One for each value.
    ax : Axes

    Returns
    -------
    Axes
    """
    ax.set(xlabel="Added to the event logit")
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        return explain_empty(ax, "no inputs")
    order = np.argsort(np.abs(values), kind="stable")
    colours = [BLUE if value >= 0 else VERMILLION for value in values[order]]
    ax.barh(range(len(order)), values[order], color=colours, height=0.7)
    ax.set_yticks(range(len(order)), [names[i] for i in order])
    ax.axvline(0, color=BLACK, lw=0.8)
    ax.grid(axis="x", alpha=0.25)
    ax.margins(x=0.22)
    for place, value in enumerate(values[order]):
        ax.annotate(
            f"{value:+.2f}",
            (value, place),
            xytext=(3 if value >= 0 else -3, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value >= 0 else "right",
            fontsize=8,
        )
    return ax


def plot_gallery(
    strips: np.ndarray,
    ax: Axes,
    *,
    titles: Sequence[str] = (),
    n_across: int = 4,
    limit: float | None = None,
    label: str = "Residual (σ)",
) -> Axes:
    """Show several small strips side by side on one colour scale, each with time rightward and columns upward.

    Parameters
    ----------
    strips : ndarray, shape (k, x, t)
    ax : Axes
    titles : sequence of str
        Written above each strip.
    n_across : int
        Strips in one line.
    limit : float, optional
        The colours end at plus and minus this; the largest absolute value if left out.
    label : str
        Of the colour bar.

    Returns
    -------
    Axes
    """
    ax.set_axis_off()
    if len(strips) == 0:
        return explain_empty(ax, "no strips")
    n, n_columns, n_rows = strips.shape
    n_across = min(n_across, n)
    limit = limit or float(np.nanmax(np.abs(strips))) or 1.0
    # a title needs a sixth of the height of the Axes over its line at most
    head = max(_GAP, round(0.34 * n_columns)) if titles else _GAP
    colours: dict[str, Any] = {"cmap": colormaps["RdBu_r"].with_extremes(bad="0.6"), "vmin": -limit, "vmax": limit}
    gap = max(_GAP, round(0.06 * n_rows))
    for i, strip in enumerate(strips):
        line, place = divmod(i, n_across)
        left, bottom = place * (n_rows + gap), -line * (n_columns + head)
        extent = (left, left + n_rows, bottom, bottom + n_columns)
        image = ax.imshow(
            np.ma.masked_invalid(strip),
            **colours,
            extent=extent,
            aspect="auto",
            interpolation="nearest",
            origin="lower",
        )
        ax.plot(*_border(extent), color=GREY, lw=0.6)
        if i < len(titles):
            ax.text(left, bottom + n_columns + 0.05 * head, titles[i], fontsize=8, va="bottom", ha="left")
    n_lines = -(-n // n_across)
    ax.set_xlim(-0.5, n_across * (n_rows + gap) - gap + 0.5)
    ax.set_ylim(-(n_lines - 1) * (n_columns + head) - 0.5, n_columns + head)
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.02, fraction=0.03, extend="both")
    return ax


def _border(extent: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    left, right, bottom, top = extent
    return [left, right, right, left, left], [bottom, bottom, top, top, bottom]
