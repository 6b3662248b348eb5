"""Average one quantity over the stars of an amplifier, and predict each star's from the others.

Series are aligned by each star's own time, row - ``y0``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from shutterless.pipeline.compiled.running_means import cumulate, window_mean

MAX_SHARE = 0.25  # of all weight that one star may have, so that its flare makes no dip in the others
MIN_GAIN = 0.01  # of the variance of all stars that the other stars must predict for a channel to be used
_RIDGE = 1e-4


class SharedSeries:
    """One channel of the stars of an amplifier, and the prediction for each star from the others.

    Parameters
    ----------
    series : ndarray, shape (s, t)
        Each star's values around its own mean.
    valid : ndarray of bool, shape (s, t)
    weight : ndarray, shape (s,)
        Inverse variance of a star's values in one row.
    lags : ndarray of int, shape (s,)
        File row at which each star's own time is 0.
    windows : sequence of int
        Rows over which the other stars are averaged; the weight of each window is fitted to all stars together.
    """

    def __init__(
        self, series: np.ndarray, valid: np.ndarray, weight: np.ndarray, lags: np.ndarray, windows: Sequence[int]
    ) -> None:
        self.n_rows = series.shape[1]
        self.first = -int(lags.max())  # own time of the first entry
        self.windows = tuple(windows)
        series, valid = np.ascontiguousarray(series, dtype=np.float32), np.ascontiguousarray(valid)
        weight = np.minimum(weight, MAX_SHARE * weight.sum())
        starts = lags.max() - lags
        total, sums = np.zeros((2, self.n_rows + int(lags.max() - lags.min())))
        for start, own, used, w in zip(starts, series, valid, weight, strict=True):
            _lay_over(own, used, w, start, total, sums)
        known = sums > 0.5 * np.median(sums[sums > 0])
        mean_noise = float(np.mean(1 / sums[known]))
        self.variance = max(float(np.var(total[known] / sums[known])) - mean_noise, 1e-3 * mean_noise)
        rows = np.array(self.windows, dtype=np.int64)
        smooth_total, smooth_sums = _smooth(total, self.windows), _smooth(sums, self.windows)
        drawn = 1 / (self.variance * rows)  # weight of a prior at 0
        features = np.empty((len(series), len(self.windows), self.n_rows), dtype=np.float32)
        normal, right, power = np.zeros((len(drawn), len(drawn))), np.zeros(len(drawn)), 0.0
        for start, own, used, w, feature in zip(starts, series, valid, weight, features, strict=True):
            here = slice(start, start + self.n_rows)
            _predict_star(own, used, w, smooth_total[:, here], smooth_sums[:, here], drawn, rows, feature)
            power += w * _add_products(feature, own, used, w, normal, right)
        normal = normal + np.triu(normal, 1).T
        self.coefficients = np.linalg.solve(
            normal + _RIDGE * np.diag(np.diag(normal)) + 1e-30 * np.eye(len(normal)), right
        )
        self.gain = float(self.coefficients @ right / max(power, 1e-30))
        #: prediction for each star from the others, float32, shape (s, t)
        self.predicted = np.empty((len(series), self.n_rows), dtype=np.float32)
        for feature, prediction in zip(features, self.predicted, strict=True):
            _combine(self.coefficients, feature, prediction)
        self._mean_prediction = np.empty(len(total), dtype=np.float32)
        _combine(self.coefficients, smooth_total / (smooth_sums + drawn[:, None]), self._mean_prediction)

    def at(self, lag: int) -> np.ndarray:
        """Prediction from all stars for one more star of a given lag, shape (t,)."""
        start = -lag - self.first
        inside = slice(max(start, 0), max(min(start + self.n_rows, len(self._mean_prediction)), 0))
        out = np.zeros(self.n_rows, dtype=np.float32)
        if inside.stop > inside.start:
            out[inside.start - start : inside.stop - start] = self._mean_prediction[inside]
        return out


def _smooth(values: np.ndarray, windows: Sequence[int]) -> np.ndarray:
    """Means over each window, shape (w, t)."""
    sums, out = cumulate(values), np.empty((len(windows), len(values)))
    for window, mean in zip(windows, out, strict=True):
        window_mean(sums, window, mean)
    return out


@numba.njit(cache=True, nogil=True)
def _lay_over(series, used, weight, start, total, sums):  # pragma: no cover - compiled
    """Add one star to the weighted sum of all and to the sum of weights, from entry ``start`` on."""
    for t in range(len(series)):
        w = weight if used[t] else 0.0
        total[start + t] += w * series[t]
        sums[start + t] += w


@numba.njit(cache=True, nogil=True)
def _predict_star(series, used, weight, total, sums, drawn, windows, features):  # pragma: no cover - compiled
    """Write means of the other stars over each window to ``features`` (w, t), drawn towards 0 where few have rows.

    ``total`` and ``sums`` (w, t) are the means over each window of values and weights of all stars.
    """
    n = len(series)
    count = np.empty(n)
    part = np.empty(n)
    for t in range(n):
        count[t] = weight if used[t] else 0.0
        part[t] = count[t] * series[t]
    part_sums, count_sums = cumulate(part), cumulate(count)
    for i in range(len(windows)):
        window_mean(part_sums, windows[i], part)
        window_mean(count_sums, windows[i], count)
        feature, all_parts, all_counts, floor = features[i], total[i], sums[i], drawn[i]
        for t in range(n):
            feature[t] = (all_parts[t] - part[t]) / (max(all_counts[t] - count[t], 0.0) + floor)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _combine(coefficients, features, out):  # pragma: no cover - compiled
    """Write the sum of features (w, t) times coefficients to ``out``, without the threads of a matrix product."""
    out[:] = 0
    for i in range(len(features)):
        share, feature = np.float32(coefficients[i]), features[i]
        for t in range(len(out)):
            out[t] += share * np.float32(feature[t])


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _add_products(features, series, used, weight, normal, right):  # pragma: no cover - compiled
    """Add one star to the upper half of the normal matrix and the right side; return its unweighted power."""
    n = len(series)
    for i in range(len(features)):
        one = features[i]
        for j in range(i, len(features)):
            other, total = features[j], 0.0
            for t in range(n):
                total += np.float64(one[t]) * other[t] if used[t] else 0.0
            normal[i, j] += weight * total
        total = 0.0
        for t in range(n):
            total += np.float64(one[t]) * series[t] if used[t] else 0.0
        right[i] += weight * total
    total = 0.0
    for t in range(n):
        total += np.float64(series[t]) * series[t] if used[t] else 0.0
    return total
