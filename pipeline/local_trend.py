"""Slow trends of many time series at once: a robust local quadratic through what is live."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

CLIP_SIGMA = 3.0
_N_PASSES = 6
_ORDER = 2
_RIDGE = np.array([1e-9, 1e-3, 1e-3])  # of the weight: where few rows are live a trend turns into their mean
_MAD = 1.4826


def local_trend(series: np.ndarray, window_rows: int) -> np.ndarray:
    """Local quadratic trend of time series, blind to what stands out of it.

    Parameters
    ----------
    series : ndarray of float, shape (t, k)
        NaN where masked.
    window_rows : int
        Full width of the window.

    Returns
    -------
    ndarray of float64, shape (t, k)
        Finite in every row of a series that has a live row.

    Notes
    -----
    At every row a quadratic is fitted to the rows around it with tricube weights (Cleveland 1979, JASA 74, 829), and
    again without those that stand `CLIP_SIGMA` robust scatters off it. Trends over a window or more are followed, events
    of a few hundredths of it stay: a top-hat of a twentieth of the window loses about a tenth of its height before
    clipping, nothing of note after.
    """
    half = max(window_rows // 2, 1)
    offsets = np.arange(-half, half + 1) / (half + 1)
    kernel = (1 - np.abs(offsets) ** 3) ** 3
    known = np.isfinite(series)
    empty = ~known.any(axis=0)
    values = np.where(known, series, 0.0)
    middle = np.nanmedian(np.where(empty, 0.0, series), axis=0)
    trend, used = np.zeros(series.shape), known
    for _ in range(_N_PASSES):
        trend = middle + _fit((values - middle) * used, used, kernel, offsets)
        apart = np.abs(values - trend)
        spread = _MAD * np.nanmedian(np.where(known | empty, apart, np.nan), axis=0)
        used = known & (apart <= CLIP_SIGMA * spread)
    return trend


def _fit(values: np.ndarray, used: np.ndarray, kernel: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Weighted quadratic around every row, at the row itself, shape (t, k)."""
    moments = [_correlate(used.astype(np.float64), kernel * offsets**power) for power in range(2 * _ORDER + 1)]
    sums = [_correlate(values, kernel * offsets**power) for power in range(_ORDER + 1)]
    normal = np.stack([np.stack([moments[a + b] for b in range(_ORDER + 1)], axis=-1) for a in range(_ORDER + 1)], -2)
    normal = normal + np.maximum(moments[0], 1e-6)[..., None, None] * np.diag(_RIDGE)
    return np.linalg.solve(normal, np.stack(sums, axis=-1)[..., None])[..., 0, 0]


def _correlate(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return fftconvolve(values, kernel[::-1, None], mode="same", axes=0)
