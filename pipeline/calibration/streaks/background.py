"""Estimate the background under the streaks of a collapsed profile: sky, ghosts, slow changes over the columns."""

from __future__ import annotations

import numba
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import grey_closing, grey_opening, uniform_filter1d

KNOT_COLUMNS = 16  # a ghost 30 columns wide is followed, a streak is not
_LEAST_KNOTS = 4  # of the cubic; fewer are joined by straight lines


def sky_level(profile_e: np.ndarray) -> float:
    """Level of columns without a star: median of the shortest tenth of the sorted values, in their lower half."""
    values = np.sort(profile_e)
    n = min(max(values.size // 10, 2), values.size)
    widths = values[n - 1 :] - values[: values.size - n + 1]
    start = int(np.argmin(widths[: max(widths.size // 2, 1)]))
    return float(np.median(values[start : start + n]))


def open_background(profile_e: np.ndarray, n_columns: int) -> np.ndarray:
    """Estimate the background before any streak is known: a grey opening removes peaks narrower than ``n_columns``.

    Parameters
    ----------
    profile_e : ndarray, shape (x,)
    n_columns : int
        Odd.

    Returns
    -------
    ndarray of float64, shape (x,)
        The opening is never above the profile, so this is about two standard deviations of the noise too low.
    """
    without_traps = grey_closing(profile_e, 3, mode="nearest")
    return uniform_filter1d(grey_opening(without_traps, n_columns, mode="nearest"), n_columns // 2, mode="nearest")


def follow_background(level_e: np.ndarray, knot_columns: int = KNOT_COLUMNS) -> np.ndarray:
    """Background of a profile without its streaks, shape (x,): `smooth_background`, applied three times.

    The median over a bump is below its middle; each pass adds the background of what the last left.
    """
    background = np.zeros(level_e.size)
    for _ in range(3):
        background += smooth_background(level_e - background, knot_columns)
    return background


def smooth_background(residual_e: np.ndarray, knot_columns: int = KNOT_COLUMNS) -> np.ndarray:
    """Medians over windows of columns, joined smoothly.

    Parameters
    ----------
    residual_e : ndarray, shape (x,)
        Profile minus streaks (electrons per pixel); NaN in bad columns.
    knot_columns : int
        Columns from one median to the next. The windows overlap by half of this. A monotone cubic joins the medians and
        is constant towards the edges. If all columns of a window are NaN, its neighbours are joined.

    Returns
    -------
    ndarray of float64, shape (x,)
    """
    n_columns = residual_e.size
    edges = np.round(np.linspace(0, n_columns, max(round(n_columns / knot_columns), 1) + 1)).astype(np.int64)
    level = _window_medians(residual_e, edges, knot_columns // 4)
    middle = ((edges[:-1] + edges[1:] - 1) / 2)[np.isfinite(level)]
    level = level[np.isfinite(level)]
    if level.size == 0:
        return np.zeros(n_columns)
    columns = np.clip(np.arange(n_columns), middle[0], middle[-1])
    if level.size < _LEAST_KNOTS:
        return np.interp(columns, middle, level)
    return PchipInterpolator(middle, level)(columns)


@numba.njit(cache=True, nogil=True)
def _window_medians(values, edges, margin):  # pragma: no cover - compiled
    medians = np.empty(len(edges) - 1)
    for i in range(len(medians)):
        window = values[max(edges[i] - margin, 0) : edges[i + 1] + margin]
        window = window[~np.isnan(window)]
        medians[i] = np.median(window) if len(window) else np.nan
    return medians
