"""What the stars of an amplifier do together in star time: series aligned, and each star predicted by the others.

What the air does to two stars at once is seen in two different rows, ``y0`` apart. Where ``y0`` is not known, the lag
between two stars is found from the series themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate

COARSE_ROWS = 4  # lags are searched on means of so many rows first; motion changes in about 30
MIN_LAG_SIGNIFICANCE = 5.0  # of the cross-correlation's peak, over its own scatter
MIN_OVERLAP = 0.3  # of a star's rows with those of the others at the lag in question
REFINE_ROWS = 12  # to either side of a lag, known or found coarsely, that a better one is looked for
MAX_SHARE = 0.25  # of the weight of all stars that one may have: nobody's flare becomes everybody's dip
OUTLIER_WINDOWS = (1, 9, 65, 513)  # rows over which a star is compared with what the others predict
OUTLIER_SIGMA = 5.0
MIN_GAIN = 0.01  # of the variance of all stars together that the others must predict before anything is believed
_RIDGE = 1e-4


class LagFinder:
    """Stars laid over each other in star time, against which the lag of another can be found.

    Parameters
    ----------
    reference : float
        A lag; others may differ from it by ``max_lag``.
    max_lag : int
        Rows.
    n_rows, n_channels : int
        Shape of each star's series.
    """

    def __init__(self, reference: float, max_lag: int, n_rows: int, n_channels: int) -> None:
        self._highest = reference + max_lag
        self._n_bins, self._n_lags = n_rows // COARSE_ROWS, 2 * max_lag // COARSE_ROWS + 1
        self._total = np.zeros((n_channels, self._n_bins + self._n_lags))
        self._weight = np.zeros(self._n_bins + self._n_lags)

    def add(self, star: np.ndarray, valid: np.ndarray, lag: float) -> None:
        """Lay a star of known lag over the others: ``star`` (c, t), ``valid`` (t,)."""
        start = int(np.clip(round((self._highest - lag) / COARSE_ROWS), 0, self._n_lags))
        here = slice(start, start + self._n_bins)
        self._total[:, here] += _coarse(_standardise(star, valid))
        self._weight[here] += _coarse(valid.astype(np.float64))

    def find(self, star: np.ndarray, valid: np.ndarray) -> float:
        """Lag of a star.

        Parameters
        ----------
        star : ndarray, shape (c, t)
        valid : ndarray of bool, shape (t,)

        Returns
        -------
        float
            NaN where the peak of the cross-correlation is below `MIN_LAG_SIGNIFICANCE` times its own scatter.
        """
        own, seen = _coarse(_standardise(star, valid)), _coarse(valid.astype(np.float64))
        mean = self._total / np.sqrt(np.maximum(self._weight, 1.0))
        score = sum(_slide(channel, one) for channel, one in zip(mean, own, strict=True))
        overlap = _slide((self._weight > 0).astype(np.float64), seen)
        usable = overlap > MIN_OVERLAP * max(float(seen.sum()), 1.0)
        if not usable.any():
            return float("nan")
        score = np.where(usable, score / np.sqrt(np.maximum(overlap, 1.0)), 0.0)
        best = int(np.argmax(score))
        scatter = 1.4826 * float(np.median(np.abs(score[usable])))
        stands_out = score[best] > MIN_LAG_SIGNIFICANCE * scatter > 0
        return self._highest - COARSE_ROWS * best if stands_out else float("nan")


def find_lags(series: np.ndarray, valid: np.ndarray, lags: np.ndarray, max_lag: int) -> tuple[np.ndarray, LagFinder]:
    """Find by how many rows each star's time lags behind row time, where it is not known.

    Parameters
    ----------
    series : ndarray, shape (s, c, t)
        What ``s`` stars do in ``c`` channels, most telling star first.
    valid : ndarray of bool, shape (s, t)
    lags : ndarray of float64, shape (s,)
        NaN where unknown; without any known one they count from the first star.
    max_lag : int
        Largest difference between two stars.

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
    finder = LagFinder(float(np.nanmedian(lags)), max_lag, series.shape[2], series.shape[1])
    for star in np.flatnonzero(~np.isnan(lags)):
        finder.add(series[star], valid[star], lags[star])
    for _ in range(2):  # who was not found at first may be once the others are aligned
        for star in np.flatnonzero(np.isnan(lags)):
            lags[star] = finder.find(series[star], valid[star])
            if not np.isnan(lags[star]):
                finder.add(series[star], valid[star], lags[star])
    return lags, finder


def _standardise(star: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Channels (c, t) of unit scatter around 0, limited to 3, and 0 where masked."""
    if not valid.any():
        return np.zeros(star.shape)
    values = star - np.median(star[:, valid], axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(values[:, valid]), axis=1, keepdims=True)
    return np.where(valid, np.clip(values / np.maximum(spread, 1e-12), -3, 3), 0.0)


def _slide(long: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Sum of products at every place of a short series inside a long one."""
    return correlate(long, short, mode="valid", method="fft")


def _coarse(series: np.ndarray) -> np.ndarray:
    n = series.shape[-1] // COARSE_ROWS * COARSE_ROWS
    return series[..., :n].reshape(*series.shape[:-1], -1, COARSE_ROWS).mean(axis=-1)


def refine_lag(star: np.ndarray, valid: np.ndarray, predicted: np.ndarray) -> int:
    """Rows by which a star's channels lag behind a prediction of them.

    Parameters
    ----------
    star, predicted : ndarray, shape (c, t)
    valid : ndarray of bool, shape (t,)

    Returns
    -------
    int
        Between ``-REFINE_ROWS`` and ``REFINE_ROWS``.
    """
    own = _standardise(star, valid)
    scale = np.maximum(predicted.std(axis=1, keepdims=True), 1e-12)
    padded = np.pad(predicted / scale, ((0, 0), (REFINE_ROWS, REFINE_ROWS)))
    n_rows = own.shape[1]
    score = [np.sum(padded[:, shift : shift + n_rows] * own) for shift in range(2 * REFINE_ROWS + 1)]
    return REFINE_ROWS - int(np.argmax(score))


class SharedSeries:
    """One channel of the stars of an amplifier in star time, and what the others say of each.

    Parameters
    ----------
    series : ndarray, shape (s, t)
        Each star's values around its own mean.
    valid : ndarray of bool, shape (s, t)
    weight : ndarray, shape (s,)
        Inverse variance of a star's values in one row.
    lags : ndarray of int, shape (s,)
    windows : sequence of int
        Rows over which the others may be averaged; how much each counts is fitted to all stars together.
    """

    def __init__(
        self, series: np.ndarray, valid: np.ndarray, weight: np.ndarray, lags: np.ndarray, windows: Sequence[int]
    ) -> None:
        self.n_rows = series.shape[1]
        self.first = -int(lags.max())  # star time of the first entry
        self.windows = tuple(windows)
        weight = np.minimum(weight, MAX_SHARE * weight.sum())
        size = self.n_rows + int(lags.max() - lags.min())
        total, sums = np.zeros(size), np.zeros(size)
        parts = [(w * np.where(v, s, 0.0), w * v) for s, v, w in zip(series, valid, weight, strict=True)]
        places = [slice(start, start + self.n_rows) for start in lags.max() - lags]
        for place, (part, own) in zip(places, parts, strict=True):
            total[place] += part
            sums[place] += own
        known = sums > 0.5 * np.median(sums[sums > 0])
        mean_noise = float(np.mean(1 / sums[known]))
        self.variance = max(float(np.var(total[known] / sums[known])) - mean_noise, 1e-3 * mean_noise)
        self._smooth = [(_box(total, window), _box(sums, window)) for window in self.windows]
        features = np.stack(
            [self._features(place, (part, own)) for place, (part, own) in zip(places, parts, strict=True)]
        )
        self.coefficients, self.gain = self._fit(features, series, valid, weight)
        #: what the others say of each star, shape (s, t)
        self.predicted = np.einsum("w,swt->st", self.coefficients, features)

    def _features(self, place: slice, own: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Means of the stars over each window, drawn towards 0 where few are seen; without ``own``; shape (w, t)."""
        features = np.empty((len(self.windows), place.stop - place.start))
        for feature, window, (total, sums) in zip(features, self.windows, self._smooth, strict=True):
            part, count = total[place], sums[place]
            if own is not None:
                part, count = part - _box(own[0], window), np.maximum(count - _box(own[1], window), 0)
            feature[:] = part / (count + 1 / (self.variance * window))
        return features

    def _fit(
        self, features: np.ndarray, series: np.ndarray, valid: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Share of each window, by least squares over all stars, and the share of their variance so predicted."""
        normal = np.zeros((len(self.windows), len(self.windows)))
        right = np.zeros(len(self.windows))
        for star, seen, own, w in zip(features, valid, series, weight, strict=True):
            normal += w * star[:, seen] @ star[:, seen].T
            right += w * star[:, seen] @ own[seen]
        coefficients = np.linalg.solve(normal + _RIDGE * np.diag(np.diag(normal)) + 1e-30 * np.eye(len(normal)), right)
        power = sum(w * np.sum(own[seen] ** 2) for seen, own, w in zip(valid, series, weight, strict=True))
        return coefficients, float(coefficients @ right / max(power, 1e-30))

    def at(self, lag: int) -> np.ndarray:
        """What all stars together say of one more star, not among them, with a given lag; shape (t,)."""
        size = len(self._smooth[0][0])
        start = -lag - self.first
        inside = slice(max(start, 0), max(min(start + self.n_rows, size), 0))
        out = np.zeros(self.n_rows)
        if inside.stop > inside.start:
            out[inside.start - start : inside.stop - start] = self.coefficients @ self._features(inside)
        return out


def _box(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window; nothing lies beyond the ends."""
    return values if window == 1 else uniform_filter1d(values, window, mode="constant")


def find_outliers(series: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rows in which a star departs from what the others do, in means of any of `OUTLIER_WINDOWS`.

    Parameters
    ----------
    series, predicted : ndarray, shape (t,)
    valid : ndarray of bool, shape (t,)

    Returns
    -------
    ndarray of bool, shape (t,)
        An event on one star must not be taken for something shared. The scatter it is compared with is the star's own.
    """
    departure = np.where(valid, series - predicted, 0.0)
    outlying = np.zeros(len(series), dtype=bool)
    for window in OUTLIER_WINDOWS:
        if 4 * window > len(series):
            break
        mean = _box(departure, window)
        spread = 1.4826 * np.median(np.abs(mean[valid])) if valid.any() else 0.0
        far = np.abs(mean) > OUTLIER_SIGMA * max(spread, 1e-12)
        outlying |= _box(far.astype(np.float64), window) > 0 if window > 1 else far
    return outlying
