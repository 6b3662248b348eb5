"""Fit slow trends of many time series at once by a robust local quadratic."""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA

TREND_CLIP_SIGMA = 3.0
BOX_SIGMA = 4.0  # of the mean of a segment of rows
BINS_PER_WINDOW = 48
_N_PASSES, _N_PLAIN = 6, 2  # passes; the first ones clip bright single rows, before boxes are searched
_ORDER = 2
# of the weight of one row: where few rows are live a trend turns into their mean, and where many are it is not biased
_RIDGE = np.array([1e-9, 1e-3, 1e-3])


def local_trend(series: np.ndarray, window_rows: int, *, spare_boxes: bool = False) -> np.ndarray:
    """Local quadratic trend of time series, outliers clipped.

    Parameters
    ----------
    series : ndarray of float, shape (t, k)
        NaN where masked.
    window_rows : int
        Full width of the window.
    spare_boxes : bool
        Also clip segments of up to a quarter of the window that stand out as a whole. This is safe for white noise
        around a smooth trend. Where the trend is not smooth, it would clip the trend itself and follow the event.

    Returns
    -------
    ndarray of float64, shape (t, k)
        Finite in every row of a series that has a live row.

    Notes
    -----
    At every row a quadratic is fitted to the rows around it with tricube weights (Cleveland 1979, JASA 74, 829). The
    fit is repeated without rows that are `TREND_CLIP_SIGMA` robust scatters off. It is as flexible as a running mean
    over a third of the window: a faint top-hat of a sixteenth of the window loses a fifth of its height, one of an
    eighth 37 %.
    """
    known = np.isfinite(series)
    empty = ~known.any(axis=0)
    values = np.where(known, series, 0.0)
    middle = np.nanmedian(np.where(empty, 0.0, series), axis=0)
    trend, used = np.zeros(series.shape), known
    for step in range(_N_PASSES):
        trend = middle + _fit((values - middle) * used, used, window_rows)
        departure = np.abs(values - trend)
        spread = robust_spread(departure, known)
        used = known & (departure <= TREND_CLIP_SIGMA * spread)
        if spare_boxes and step >= _N_PLAIN:
            used &= ~_in_box(values - trend, used, spread, window_rows)
    return trend


def robust_spread(departure: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Scatter of each series from the median of its known distances ``departure`` (t, k), shape (k,).

    A series without a known row gets the scatter of all, so that none is NaN.
    """
    return MAD_TO_SIGMA * np.nanmedian(np.where(known | ~known.any(axis=0), departure, np.nan), axis=0)


def _in_box(departure: np.ndarray, used: np.ndarray, spread: np.ndarray, window_rows: int) -> np.ndarray:
    """Rows of boxes of up to a quarter of the window whose mean over the rows used stands out, bool (t, k)."""
    scaled = np.where(used, departure, 0.0) / np.maximum(spread, 1e-30)
    total, live = (np.concatenate([np.zeros((1, part.shape[1])), np.cumsum(part, axis=0)]) for part in (scaled, used))
    inside = np.zeros(departure.shape, dtype=bool)
    width = 2
    while width <= min(window_rows // 4, len(departure) // 2):
        snr = (total[width:] - total[:-width]) / np.sqrt(np.maximum(live[width:] - live[:-width], 1))
        starts = np.abs(snr) > BOX_SIGMA
        begun = np.concatenate([np.zeros((1, starts.shape[1]), dtype=np.int64), np.cumsum(starts, axis=0)])
        first, last = np.arange(len(departure)) - width + 1, np.arange(len(departure)) + 1
        limit = len(begun) - 1
        inside |= begun[np.clip(last, 0, limit)] > begun[np.clip(first, 0, limit)]
        width *= 2
    return inside


def _fit(values: np.ndarray, used: np.ndarray, window_rows: int) -> np.ndarray:
    """Weighted quadratic around every row, at the row itself, shape (t, k).

    Rows are binned so that a window has `BINS_PER_WINDOW` bins or a few more, each weighted by its number of rows.
    """
    n_rows = len(values)
    n_bins = max(n_rows // max(window_rows // BINS_PER_WINDOW, 1), 1)
    bin_rows = n_rows / n_bins
    half = max(round(window_rows / (2 * bin_rows)), 1)
    offsets = np.arange(-half, half + 1) / (half + 1)
    kernel = (1 - np.abs(offsets) ** 3) ** 3
    edges = np.round(np.arange(n_bins) * bin_rows).astype(np.int64)
    values, weight = (np.add.reduceat(part, edges, axis=0, dtype=np.float64) for part in (values, used))
    moments = [_correlate(weight, kernel * offsets**power) for power in range(2 * _ORDER + 1)]
    sums = [_correlate(values, kernel * offsets**power) for power in range(_ORDER + 1)]
    normal = np.stack([np.stack([moments[a + b] for b in range(_ORDER + 1)], axis=-1) for a in range(_ORDER + 1)], -2)
    normal = normal + np.diag(_RIDGE)
    curves = np.linalg.solve(normal, np.stack(sums, axis=-1)[..., None])[..., 0]
    return curves[..., 0] if n_bins == n_rows else _between_bins(curves, n_rows, bin_rows, half + 1)


def _between_bins(curves: np.ndarray, n_rows: int, bin_rows: float, unit: int) -> np.ndarray:
    """Evaluate quadratics (b, k, 3) around bin centres, in ``unit`` bins, blended from one to the next; (t, k)."""
    middles = curves[..., 0] - curves[..., 2] * (1 - bin_rows**-2) / (
        12 * unit**2
    )  # of bins, since means of bins were fitted
    position = (np.arange(n_rows) + 0.5) / bin_rows - 0.5
    lower = np.clip(np.floor(position).astype(np.int64), 0, max(len(curves) - 2, 0))
    upper = np.minimum(lower + 1, len(curves) - 1)
    share = np.clip(position - lower, 0, 1)[:, None]
    values = []
    for bins in (lower, upper):
        step = ((position - bins) / unit)[:, None]
        values.append(middles[bins] + curves[bins, :, 1] * step + curves[bins, :, 2] * step**2)
    return (1 - share) * values[0] + share * values[1]


def _correlate(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    from scipy.signal import fftconvolve  # takes a second to import, which a search of frames does not need

    return fftconvolve(values, kernel[::-1, None], mode="same", axes=0)
