"""How good a calibrated amplifier is: noise against theory, correlations, tails, masks, what the rows shared."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pandas as pd
from scipy.signal import welch
from scipy.stats import gamma, norm, poisson

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.compiled.half_floats import to_single
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

CALM_SIGMA = 5.0  # what lies farther out is an event, an artefact or a tail, and counted as such
LONE_SIGMA = 3.0  # a tail with nothing so far out beside it is one of the noise: 1 % has by chance, most rays have
# a column is restless by itself if its slow or fast variance exceeds 1 by so much ...
MIN_RESTLESS = 0.3
RESTLESS_SIGMA = 6.0  # ... and by so many of its errors ...
PSF_SHARE = 0.5  # ... while its neighbours have less than this share of what a point source would give them
STREAK_PX = 4.0
SPECTRUM_ROWS = 2048  # in each segment of which the spectrum is the mean
FALSE_PEAKS = 0.01  # peaks that the spectrum of noise may have
_COLUMNS_AT_ONCE = 64
_FIRST_BIN, _MEDIAN_BINS = 8, 32  # below the first, 1/f noise leaves no level to compare with


def column_statistics(residual: np.ndarray) -> pd.DataFrame:
    """Measure each column of an amplifier.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.

    Returns
    -------
    DataFrame, x rows
        ``live`` (unmasked pixels), ``noise`` (standard deviation within `CALM_SIGMA`; 1 is theory), ``slow`` (variance
        of the means of `BLOCK_ROWS` rows over its expectation), ``row_correlation`` (of successive rows),
        ``column_correlation`` (with the next column), ``above`` and ``below`` (pixels beyond `CALM_SIGMA`),
        ``lone_above`` and ``lone_below`` (those of them without one beyond `LONE_SIGMA` among the eight around them:
        cosmic rays, trails and events are left out). NaN where nothing is unmasked.
    """
    n_columns = residual.shape[0]
    table = np.empty((n_columns, 9))
    memory = np.empty((_COLUMNS_AT_ONCE + 2, residual.shape[1]), dtype=np.float32)
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        stop = min(start + _COLUMNS_AT_ONCE, n_columns)
        before = min(start, 1)
        columns = to_single(residual[start - before : stop + 1], memory)
        _measure(columns, before, table[start:stop], np.float32(CALM_SIGMA), np.float32(LONE_SIGMA), BLOCK_ROWS)
    counts = ["above", "below", "lone_above", "lone_below"]
    names = ["live", "noise", "slow", "row_correlation", "column_correlation", *counts]
    return pd.DataFrame(table, columns=names).astype(dict.fromkeys(["live", *counts], int))


def restless_columns(statistics: pd.DataFrame, sigma_px: float, bright_x: np.ndarray) -> np.ndarray:
    """Columns that vary alone, as hot pixels that blink and traps do and no star does.

    Parameters
    ----------
    statistics : DataFrame
        From `column_statistics`.
    sigma_px : float
        Width of the point-spread function (pixels).
    bright_x : ndarray, shape (s,)
        Columns of bright streaks: what cleaning leaves of one need not look like a point source, so the columns within
        `STREAK_PX` of it are let be.

    Returns
    -------
    ndarray of bool, shape (x,)
    """
    flanks = PSF_SHARE * float(pixel_profile(1, sigma_px) / pixel_profile(0, sigma_px)) ** 2
    restless = np.zeros(len(statistics), dtype=bool)
    live = np.maximum(statistics["live"].to_numpy(), 1)
    for variance, degrees in (
        (statistics["slow"].to_numpy(), live / BLOCK_ROWS),
        (statistics["noise"].to_numpy() ** 2, live),
    ):
        excess = np.nan_to_num(variance - 1)
        padded = np.pad(excess, 1)
        beside = np.maximum(np.maximum(padded[:-2], padded[2:]), 0)
        error = np.sqrt(2 / np.maximum(degrees, 1))
        restless |= (excess > MIN_RESTLESS) & (excess > RESTLESS_SIGMA * error) & (beside < flanks * excess)
    columns = np.arange(len(statistics))
    for x in bright_x:
        restless[np.abs(columns - x) <= STREAK_PX] = False
    return restless


def summarise_quality(statistics: pd.DataFrame, bad_columns: np.ndarray, n_rows: int) -> dict[str, Any]:
    """Numbers of a whole amplifier for its description.

    Returns
    -------
    dict
        ``live_pixel_rows``, ``noise`` (of all calm pixels), ``masked_fraction``, ``bad_columns`` (how many),
        ``row_correlation``, ``column_correlation`` (medians), ``above`` and ``below`` (pixels beyond `CALM_SIGMA`).
    """
    kept = statistics[~bad_columns]
    live = int(kept["live"].sum())
    noise = kept["noise"].fillna(0).to_numpy()
    return {
        "live_pixel_rows": live,
        "noise": float(np.sqrt(np.sum(noise**2 * kept["live"]) / max(live, 1))),
        "masked_fraction": 1 - live / max(len(statistics) * n_rows, 1),
        "bad_columns": int(bad_columns.sum()),
        "row_correlation": float(kept["row_correlation"].median()),
        "column_correlation": float(kept["column_correlation"].median()),
        "above": int(kept["above"].sum()),
        "below": int(kept["below"].sum()),
    }


def pickup_spectrum(row_offset_e: np.ndarray, readout: Readout) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude spectrum of what all columns of a row share.

    Parameters
    ----------
    row_offset_e : ndarray, shape (t,)
        Electrons; NaN where a row is missing.
    readout : Readout

    Returns
    -------
    frequency_hz, amplitude_e : ndarray, shape (f,)
        Amplitude of a sinusoid that would stand at each frequency, mean power over Hann-windowed segments of
        `SPECTRUM_ROWS` that overlap by half (Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70).
    """
    series = np.asarray(row_offset_e, dtype=np.float64)
    known = np.isfinite(series)
    length = min(SPECTRUM_ROWS, len(series))
    if known.sum() < 2 or length < 4:
        return np.empty(0), np.empty(0)
    series = np.interp(np.arange(len(series)), np.flatnonzero(known), series[known])
    frequency_hz, power = welch(series, readout.row_rate_hz, np.hanning(length), scaling="spectrum")
    return frequency_hz, np.sqrt(2 * power)


def pickup_peaks(frequency_hz: np.ndarray, amplitude_e: np.ndarray, n_rows: int) -> pd.DataFrame:
    """Lines of a spectrum that stand above what surrounds them by more than noise would.

    Parameters
    ----------
    frequency_hz, amplitude_e : ndarray, shape (f,)
        From `pickup_spectrum`.
    n_rows : int
        Of the series, which says over how many segments the spectrum is a mean.

    Returns
    -------
    DataFrame
        ``frequency_hz`` and ``amplitude_e`` of the sinusoid, ``times_median`` (its bin over the median of those
        around); the strongest first. Noise alone has 0.02 to 0.04 of them, more than `FALSE_PEAKS`,
        for medians of few bins scatter.

    Notes
    -----
    The mean power of ``n`` Hann windows that overlap by half is gamma-distributed for noise, of shape
    ``n / (1 + (n - 1) / 18 n)``, since neighbouring ones are correlated by 1/6 (Welch 1967). A sinusoid between two
    bins, ``d`` from the nearest, has ``(1 + d) / (2 - d)`` as much in the next as in that, and there
    ``sinc(d) / (1 - d²)`` of its amplitude, as the transform of a Hann window says.
    """
    length = min(SPECTRUM_ROWS, n_rows)
    n = (n_rows - length) // max(length // 2, 1) + 1
    shape = n / (1 + 2 / 36 * (n - 1) / n)
    limit = np.sqrt(gamma.isf(FALSE_PEAKS / max(len(amplitude_e), 1), shape) / gamma.median(shape))
    rows = []
    for k in range(_FIRST_BIN, len(amplitude_e) - 1):
        reach = min(k // 2, _MEDIAN_BINS)  # narrower where 1/f noise is steep
        ratio = amplitude_e[k] / np.median(amplitude_e[k - reach : k + reach + 1])
        if ratio > limit and amplitude_e[k] == amplitude_e[k - 2 : k + 3].max():
            side = 1 if amplitude_e[k + 1] > amplitude_e[k - 1] else -1
            beside = amplitude_e[k + side] / amplitude_e[k]
            offset = float(np.clip((2 * beside - 1) / (1 + beside), 0, 0.5))
            amplitude = amplitude_e[k] * (1 - offset**2) / np.sinc(offset)
            rows.append((frequency_hz[k] + side * offset * frequency_hz[1], amplitude, ratio))
    peaks = pd.DataFrame(rows, columns=["frequency_hz", "amplitude_e", "times_median"], dtype=float)
    return peaks.sort_values("times_median", ascending=False, ignore_index=True)


def expected_tails(level_e: float, electronic_e: float, limit: float = CALM_SIGMA) -> tuple[float, float]:
    """Probability of a pixel below -limit and above limit sigma, of Poisson and Gaussian electronic noise.

    Parameters
    ----------
    level_e : float
        Electrons per pixel.
    electronic_e : float
        Read noise and digitisation (electrons, rms).
    limit : float
        In units of √(level + electronic²).

    Returns
    -------
    below, above : float
        A Gaussian has 2.9e-7 in each beyond 5; the skewness of Poisson moves them apart.
    """
    sigma = np.sqrt(level_e + electronic_e**2)
    counts = np.arange(poisson.ppf(1e-14, level_e), poisson.isf(1e-14, level_e) + 1)
    weight, offset = poisson.pmf(counts, level_e), counts - level_e
    below = np.sum(weight * norm.cdf((-limit * sigma - offset) / electronic_e))
    return float(below), float(np.sum(weight * norm.sf((limit * sigma - offset) / electronic_e)))


def masked_fractions(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each column and of each row is masked.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        NaN where masked.

    Returns
    -------
    by_column : ndarray of float64, shape (x,)
    by_row : ndarray of float64, shape (t,)
        Of the columns that are not masked from end to end; 1 where there is none.
    """
    n_columns, n_rows = residual.shape
    by_column, in_row, n_live = np.empty(n_columns), np.zeros(n_rows), 0
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        masked = np.isnan(residual[start : start + _COLUMNS_AT_ONCE])
        by_column[start : start + len(masked)] = masked.mean(axis=1)
        live = ~masked.all(axis=1)
        in_row += masked[live].sum(axis=0)
        n_live += int(live.sum())
    return by_column, in_row / n_live if n_live else np.ones(n_rows)


def noise_over_time(residual: np.ndarray, n_bins: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Noise of some columns in segments of rows.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    n_bins : int
        At most.

    Returns
    -------
    edges : ndarray of int, shape (n + 1,)
        First row of each segment, and the number of rows.
    noise : ndarray of float64, shape (n,)
        Standard deviation within `CALM_SIGMA`; 1 is theory, NaN where nothing is unmasked.
    """
    n_columns, n_rows = residual.shape
    edges = np.linspace(0, n_rows, min(n_bins, n_rows) + 1).astype(int)
    squares, counts = np.zeros(n_rows), np.zeros(n_rows)
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        part = residual[start : start + _COLUMNS_AT_ONCE].astype(np.float32)
        calm = np.abs(part) < CALM_SIGMA
        squares += np.sum(np.where(calm, part, 0) ** 2, axis=0)
        counts += calm.sum(axis=0)
    squares, counts = (np.add.reduceat(values, edges[:-1]) for values in (squares, counts))
    return edges, np.sqrt(np.divide(squares, counts, out=np.full(len(counts), np.nan), where=counts > 0))


@numba.njit(cache=True, nogil=True)
def _is_lone(residual, x, t, limit):  # pragma: no cover - compiled
    """Whether none of the eight pixels around one is beyond the limit."""
    for column in range(max(x - 1, 0), min(x + 2, residual.shape[0])):
        for row in range(max(t - 1, 0), min(t + 2, residual.shape[1])):
            if (column != x or row != t) and abs(residual[column, row]) > limit:
                return False
    return True


@numba.njit(cache=True, nogil=True)
def _measure(residual, first, table, calm, lone, block_rows):  # pragma: no cover - compiled
    """Statistics of columns from the first on, one for each row of the table; those around are for comparison."""
    n_rows = residual.shape[1]
    nobody = np.full(block_rows, np.nan, dtype=np.float32)
    before = np.empty(block_rows, dtype=np.float32)
    for i in range(table.shape[0]):
        x = first + i
        live = within = above = below = lone_above = lone_below = pairs = across = blocks = 0
        squares = lagged = beside = slow = 0.0
        for start in range(0, n_rows, block_rows):
            values = residual[x, start : start + block_rows]
            neighbours = residual[x + 1, start : start + block_rows] if x + 1 < residual.shape[0] else nobody
            before[0] = residual[x, start - 1] if start else np.float32(np.nan)
            before[1 : len(values)] = values[:-1]
            seen, calm_rows, far, total, squared = _sum_block(values, calm)
            live += seen
            within += calm_rows
            squares += squared
            n, product = _sum_products(values, before, calm)
            pairs += n
            lagged += product
            n, product = _sum_products(values, neighbours, calm)
            across += n
            beside += product
            if len(values) == block_rows and 2 * calm_rows > block_rows:
                slow += total * total / calm_rows
                blocks += 1
            for t in range(start, start + len(values) if far else start):
                if residual[x, t] > calm:
                    above += 1
                    lone_above += _is_lone(residual, x, t, lone)
                elif residual[x, t] < -calm:
                    below += 1
                    lone_below += _is_lone(residual, x, t, lone)
        variance = squares / within if within else np.nan
        table[i, 0] = live
        table[i, 1] = np.sqrt(variance)
        table[i, 2] = slow / blocks if blocks else np.nan
        table[i, 3] = lagged / pairs / variance if pairs and variance > 0 else np.nan
        table[i, 4] = beside / across / variance if across and variance > 0 else np.nan
        table[i, 5], table[i, 6] = above, below
        table[i, 7], table[i, 8] = lone_above, lone_below


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _sum_block(values, calm):  # pragma: no cover - compiled
    """Live values, calm ones, those beyond, and sum and sum of squares of the calm ones."""
    live, calm_rows, far = np.int32(0), np.int32(0), np.int32(0)
    total, squares = np.float32(0), np.float32(0)
    for t in range(len(values)):
        value = values[t]
        known, inside, outside = value == value, abs(value) < calm, abs(value) > calm
        live += np.int32(1) if known else np.int32(0)
        calm_rows += np.int32(1) if inside else np.int32(0)
        far += np.int32(1) if outside else np.int32(0)
        kept = value if inside else np.float32(0)
        total += kept
        squares += kept * kept
    return live, calm_rows, far, total, squares


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _sum_products(values, others, calm):  # pragma: no cover - compiled
    """Pairs that are calm, and the sum of their products."""
    pairs, total = np.int32(0), np.float32(0)
    for t in range(len(values)):
        inside = (abs(values[t]) < calm) & (abs(others[t]) < calm)
        pairs += np.int32(1) if inside else np.int32(0)
        total += values[t] * others[t] if inside else np.float32(0)
    return pairs, total
