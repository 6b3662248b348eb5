"""Find the lag of each star of an amplifier, and the rows in which one star departs from all others.

The air moves two stars at the same moment, but they show it in different rows, as their ``y0`` differ. A star's own
time is row - ``y0``. Where ``y0`` is not known, cross-correlation of the series gives the lag between two stars.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA, keep_known, median, median_absolute
from shutterless.pipeline.compiled.running_means import cumulate, window_mean

MIN_LAG_SIGNIFICANCE = 5.0  # of the cross-correlation's peak, over its own scatter
MIN_OVERLAP = 0.3  # of a star's rows with those of the others at the lag in question
OUTLIER_SIGMA = 5.0
_SUMMED_ROWS = 512  # summed in single precision before they are added to the rest


class LagFinder:
    """Sum of stars at the same own time, row - ``y0``, with which another star is correlated to find its lag.

    Parameters
    ----------
    reference : float
        A lag (rows); others may differ from it by ``max_lag``.
    max_lag : int
        Rows.
    n_rows, n_channels : int
        Shape of each star's series.
    coarse_rows : int
        Lags are searched on means of this many rows.
    """

    def __init__(self, reference: float, max_lag: int, n_rows: int, n_channels: int, coarse_rows: int) -> None:
        self._highest, self._coarse_rows = reference + max_lag, coarse_rows
        self._n_bins, self._n_lags = n_rows // coarse_rows, 2 * max_lag // coarse_rows + 1
        self._total = np.zeros((n_channels, self._n_bins + self._n_lags))
        self._weight = np.zeros(self._n_bins + self._n_lags)
        self._size = next_fast_len(self._n_bins + self._n_lags, real=True)
        self._spectra: np.ndarray | None = None  # of the sum, (c + 1, f); computed by `find`

    def add(self, star: np.ndarray, valid: np.ndarray, lag: float) -> None:
        """Add a star of known lag to the sum: ``star`` (c, t), ``valid`` (t,)."""
        start = int(np.clip(round((self._highest - lag) / self._coarse_rows), 0, self._n_lags))
        here = slice(start, start + self._n_bins)
        self._total[:, here] += _coarse(_standardise(star, valid), self._coarse_rows)
        self._weight[here] += _coarse(valid, self._coarse_rows)
        self._spectra = None

    def find(self, star: np.ndarray, valid: np.ndarray) -> float:
        """Find the lag of a star (rows).

        Parameters
        ----------
        star : ndarray, shape (c, t)
        valid : ndarray of bool, shape (t,)

        Returns
        -------
        float
            NaN where the peak of the cross-correlation is below `MIN_LAG_SIGNIFICANCE` times its own scatter.
        """
        own, live = _coarse(_standardise(star, valid), self._coarse_rows), _coarse(valid, self._coarse_rows)
        score, overlap = self._slide(own, live)
        usable = overlap > MIN_OVERLAP * max(float(live.sum()), 1.0)
        if not usable.any():
            return float("nan")
        score = np.where(usable, score / np.sqrt(np.maximum(overlap, 1.0)), 0.0)
        best = int(np.argmax(score))
        scatter = MAD_TO_SIGMA * median_absolute(score[usable].astype(np.float32))
        stands_out = score[best] > MIN_LAG_SIGNIFICANCE * scatter > 0
        return self._highest - self._coarse_rows * best if stands_out else float("nan")

    def _slide(self, own: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of products with the mean star, and number of rows that both have, at every lag."""
        if self._spectra is None:
            mean = self._total / np.sqrt(np.maximum(self._weight, 1.0))
            self._spectra = rfft(np.vstack([mean, self._weight > 0]), self._size)
        product = self._spectra * np.conj(rfft(np.vstack([own, live]), self._size))
        # up to the difference in length the cyclic correlation does not wrap around
        score, overlap = irfft(np.stack([product[:-1].sum(axis=0), product[-1]]), self._size)[:, : self._n_lags + 1]
        return score, overlap


def find_lags(
    series: np.ndarray, valid: np.ndarray, lags: np.ndarray, max_lag: int, coarse_rows: int
) -> tuple[np.ndarray, LagFinder]:
    """Find the lags of stars, in rows by which their own time lags behind the file row, where they are unknown.

    Parameters
    ----------
    series : ndarray, shape (s, c, t)
        States of ``s`` stars in ``c`` channels, the brightest star first.
    valid : ndarray of bool, shape (s, t)
    lags : ndarray of float64, shape (s,)
        NaN where unknown. If all are unknown, lags are relative to the first star.
    max_lag : int
        Largest difference between two stars.
    coarse_rows : int
        As in `LagFinder`.

    Returns
    -------
    lags : ndarray of float64, shape (s,)
        NaN where no lag stands out.
    finder : LagFinder
        Holds every star whose lag is known.
    """
    lags = np.array(lags, dtype=np.float64)
    if np.all(np.isnan(lags)):
        lags[0] = 0.0
    finder = LagFinder(float(np.nanmedian(lags)), max_lag, series.shape[2], series.shape[1], coarse_rows)
    for star in np.flatnonzero(~np.isnan(lags)):
        finder.add(series[star], valid[star], lags[star])
    for _ in range(2):  # a lag not found in the first pass may be found against more aligned stars
        for star in np.flatnonzero(np.isnan(lags)):
            lags[star] = finder.find(series[star], valid[star])
            if not np.isnan(lags[star]):
                finder.add(series[star], valid[star], lags[star])
    return lags, finder


def _standardise(star: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Channels (c, t) of unit scatter around 0, limited to 3, and 0 where masked; float32."""
    out = np.empty(star.shape, dtype=np.float32)
    for channel, values in zip(out, np.ascontiguousarray(star, dtype=np.float32), strict=True):
        _standardise_one(values, valid, channel)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _standardise_one(values, valid, out):  # pragma: no cover - compiled
    """Twin of `_standardise` for one channel."""
    known = np.empty_like(values)
    n = keep_known(values, valid, known)
    centre = np.float32(median(known[:n])) if n else np.float32(0)
    for t in range(n):
        known[t] -= centre
    inverse = np.float32(1 / max(MAD_TO_SIGMA * median_absolute(known[:n]), 1e-12)) if n else np.float32(0)
    for t in range(len(values)):
        value = min(max((values[t] - centre) * inverse, np.float32(-3)), np.float32(3))
        out[t] = value if valid[t] else np.float32(0)


def _coarse(series: np.ndarray, n_rows: int) -> np.ndarray:
    """Means of ``n_rows`` rows each along the last axis; float64."""
    n = series.shape[-1] // n_rows
    total = np.zeros((*series.shape[:-1], n))
    for phase in range(n_rows):
        total += series[..., phase : n * n_rows : n_rows]
    return total / n_rows


def refine_lag(star: np.ndarray, valid: np.ndarray, predicted: np.ndarray, reach: int) -> int:
    """Measure by how many rows a star's channels lag behind their prediction.

    Parameters
    ----------
    star, predicted : ndarray, shape (c, t)
    valid : ndarray of bool, shape (t,)
    reach : int
        Largest lag that is tried (rows).

    Returns
    -------
    int
        Between ``-reach`` and ``reach``.
    """
    scale = np.maximum(predicted.std(axis=1, keepdims=True), 1e-12)
    padded = np.pad((predicted / scale).astype(np.float32), ((0, 0), (reach, reach)))
    return reach - int(np.argmax(_slide_sums(padded, _standardise(star, valid))))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _slide_sums(long, short):  # pragma: no cover - compiled
    """Sums of products of ``short`` (c, t) with ``long`` at every offset at which it fits inside."""
    n_rows = short.shape[1]
    sums = np.zeros(long.shape[1] - n_rows + 1)
    for channel in range(len(short)):
        for start in range(0, n_rows, _SUMMED_ROWS):
            own = short[channel, start : start + _SUMMED_ROWS]
            for shift in range(len(sums)):
                other, total = long[channel, start + shift : start + shift + len(own)], np.float32(0)
                for t in range(len(own)):
                    total += own[t] * other[t]
                sums[shift] += total
    return sums


def find_outliers(series: np.ndarray, predicted: np.ndarray, valid: np.ndarray, windows: Sequence[int]) -> np.ndarray:
    """Find rows in which a star departs from its prediction, in the mean over any of some windows.

    Parameters
    ----------
    series, predicted : ndarray, shape (t,)
    valid : ndarray of bool, shape (t,)
    windows : sequence of int
        Odd numbers of rows.

    Returns
    -------
    ndarray of bool, shape (t,)
        True where an event on this star may be. The departure is compared with the star's own scatter.
    """
    departure = np.where(valid, series - predicted, 0.0).astype(np.float32)
    outlying = np.zeros(len(series), dtype=bool)
    usable = np.array([window for window in windows if 4 * window <= len(series)], dtype=np.int64)
    _mark_outliers(departure, valid, usable, OUTLIER_SIGMA, outlying)
    return outlying


@numba.njit(cache=True, nogil=True)
def _mark_outliers(departure, valid, windows, limit, outlying):  # pragma: no cover - compiled
    """Twin of `find_outliers`: mark all rows of a window whose mean is far from 0."""
    n = len(departure)
    mean, known, sums = np.empty_like(departure), np.empty_like(departure), cumulate(departure)
    for window in windows:
        window_mean(sums, window, mean)
        n_known = keep_known(mean, valid, known)
        far = limit * max(MAD_TO_SIGMA * median_absolute(known[:n_known]) if n_known else 0.0, 1e-12)
        half, free = window // 2, 0  # rows before ``free`` are marked already
        for t in range(n):
            if abs(mean[t]) > far:
                for row in range(max(t - half, free), min(t + half + 1, n)):
                    outlying[row] = True
                free = min(t + half + 1, n)
