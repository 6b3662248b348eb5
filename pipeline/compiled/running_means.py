"""Compute means over centred windows of a series from its cumulative sums."""

from __future__ import annotations

import numba
import numpy as np

_SUMMED_ROWS = 512  # summed in single precision before they are added to the rest


@numba.njit(cache=True, nogil=True)
def cumulate(values):  # pragma: no cover - compiled
    """Sums of the first 0, 1, ..., n values; float64, shape (n + 1,)."""
    sums = np.empty(len(values) + 1)
    total = 0.0
    sums[0] = 0.0
    for t in range(len(values)):
        total += values[t]
        sums[t + 1] = total
    return sums


@numba.njit(cache=True, nogil=True)
def window_mean(sums, window, out):  # pragma: no cover - compiled
    """Mean over a centred window of an odd number of rows; values beyond the ends count as 0.

    Parameters
    ----------
    sums : ndarray of float64, shape (n + 1,)
        From `cumulate`.
    window : int
        Odd.
    out : ndarray, shape (n,)
    """
    n, half, share = len(out), window // 2, 1.0 / window
    begin, end = min(half, n), max(min(n - half, n), min(half, n))
    for t in range(begin):
        out[t] = (sums[min(t + half + 1, n)] - sums[max(t - half, 0)]) * share
    inner, high, low = out[begin:end], sums[begin + half + 1 :], sums[begin - half :]  # indices from 0 vectorise
    for t in range(end - begin):
        inner[t] = (high[t] - low[t]) * share
    for t in range(end, n):
        out[t] = (sums[n] - sums[max(t - half, 0)]) * share


@numba.njit(cache=True, nogil=True, error_model="numpy")
def neighbour_mean(values, sums, window, out):  # pragma: no cover - compiled
    """Mean of the other values in a centred window, which is cut off at the ends; otherwise as `window_mean`."""
    n, half = len(values), window // 2
    begin, end = min(half, n), max(n - half, min(half, n))
    share = 1.0 / (window - 1)
    for t in range(begin):
        out[t] = _others(values, sums, t, half)
    inner, own, high, low = out[begin:end], values[begin:end], sums[begin + half + 1 :], sums[begin - half :]
    for t in range(end - begin):
        inner[t] = (high[t] - low[t] - own[t]) * share
    for t in range(end, n):
        out[t] = _others(values, sums, t, half)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _others(values, sums, t, half):  # pragma: no cover - compiled
    low, high = max(t - half, 0), min(t + half + 1, len(values))
    return (sums[high] - sums[low] - values[t]) / (high - low - 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def neighbour_errors(values, n_windows):  # pragma: no cover - compiled
    """Mean square of a series minus its `neighbour_mean`, for windows of 5, 9, 17, 33, ... rows.

    Parameters
    ----------
    values : ndarray of float32, shape (t,)
    n_windows : int

    Returns
    -------
    ndarray of float64, shape (n_windows,)
        Infinite where the window is longer than the series.

    Notes
    -----
    A sum over ``2^k`` rows is the sum of two over half as many. So the compiler handles eight or sixteen rows at once,
    which it cannot in a cumulative sum. One more row makes the window symmetric.
    """
    n, pad = len(values), 1 << (n_windows + 1)
    errors = np.full(n_windows, np.inf)
    padded = np.zeros(n + 2 * pad, dtype=np.float32)
    padded[pad : pad + n] = values
    sums, doubled = np.empty_like(padded), np.zeros_like(padded)
    _add_later(padded, 1, doubled)
    for i in range(n_windows):
        sums, doubled = doubled, sums
        half = 2 << i
        _add_later(sums, half, doubled)
        if 2 * half + 1 <= n:
            errors[i] = _neighbour_error(values, doubled[pad - half :], half) / n
    return errors


@numba.njit(cache=True, nogil=True)
def _add_later(values, later, out):  # pragma: no cover - compiled
    """Write the sum of each value and the one ``later`` rows after it; the last rows are 0."""
    after = values[later:]
    for t in range(len(after)):
        out[t] = values[t] + after[t]
    out[len(values) - later :] = 0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _neighbour_error(values, sums, half):  # pragma: no cover - compiled
    """Sum of squares of values minus the means of ``half`` rows to either side; ``sums`` lack a window's last row."""
    n, total = len(values), 0.0
    for edge in range(min(2 * half, n)):
        t = edge if edge < half else n - 1 - (edge - half)
        low, high = max(t - half, 0), min(t + half + 1, n)
        end = values[t + half] if t + half < n else np.float32(0)
        total += (values[t] - (sums[t] + end - values[t]) / (high - low - 1)) ** 2
    share = np.float32(1 / (2 * half))
    for start in range(half, n - half, _SUMMED_ROWS):
        stop, part = min(start + _SUMMED_ROWS, n - half), np.float32(0)
        own, before, last = values[start:stop], sums[start:stop], values[start + half : stop + half]
        for t in range(stop - start):
            left = own[t] - (before[t] + last[t] - own[t]) * share
            part += left * left
        total += part
    return total
