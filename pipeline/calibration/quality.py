"""Measure the quality of a calibrated amplifier: noise over theory, correlations, tails, masks, pickup."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.compiled.half_floats import to_single
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

TAIL_SIGMA = 5.0  # pixels beyond are tails: events, artefacts or rare noise; they are counted and left out of the noise
# a tail pixel is isolated if no neighbour is beyond this: 1 % of noise tails have such a neighbour, and most rays
ISOLATED_SIGMA = 3.0
# a column is variable if its slow or fast variance exceeds 1 by this ...
MIN_EXCESS_VARIANCE = 0.3
MIN_EXCESS_SIGMA = 6.0  # ... and by this many of its errors ...
PSF_SHARE = 0.5  # ... and if its neighbours vary less than this share of what a point source would give them
STREAK_PX = 4.0
SPECTRUM_ROWS = 2048  # samples in each of the segments over which the spectrum is averaged
FALSE_PEAKS = 0.01  # expected number of peaks in a spectrum of noise
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
        ``live`` (unmasked pixels), ``noise`` (standard deviation within `TAIL_SIGMA`; 1 is theory), ``slow`` (variance
        of the means of `BLOCK_ROWS` rows over its expectation), ``row_correlation`` (of successive rows),
        ``column_correlation`` (with the next column), ``above`` and ``below`` (pixels beyond `TAIL_SIGMA`),
        ``isolated_above`` and ``isolated_below`` (those with all eight neighbours within `ISOLATED_SIGMA`, which leaves
        out cosmic rays, trails and events). NaN where nothing is unmasked.
    """
    n_columns = residual.shape[0]
    table = np.empty((n_columns, 9))
    memory = np.empty((_COLUMNS_AT_ONCE + 2, residual.shape[1]), dtype=np.float32)
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        stop = min(start + _COLUMNS_AT_ONCE, n_columns)
        before = min(start, 1)
        columns = to_single(residual[start - before : stop + 1], memory)
        _measure(columns, before, table[start:stop], np.float32(TAIL_SIGMA), np.float32(ISOLATED_SIGMA), BLOCK_ROWS)
    counts = ["above", "below", "isolated_above", "isolated_below"]
    names = ["live", "noise", "slow", "row_correlation", "column_correlation", *counts]
    return pd.DataFrame(table, columns=names).astype(dict.fromkeys(["live", *counts], int))


def variable_columns(statistics: pd.DataFrame, sigma_px: float, bright_x: np.ndarray) -> np.ndarray:
    """Find columns that vary without their neighbours: blinking hot pixels and traps, but no stars.

    Parameters
    ----------
    statistics : DataFrame
        From `column_statistics`.
    sigma_px : float
        Width of the point-spread function (pixels).
    bright_x : ndarray, shape (s,)
        Columns of bright streaks. Columns within `STREAK_PX` of one are never reported, since what cleaning leaves of a
        streak need not look like a point source.

    Returns
    -------
    ndarray of bool, shape (x,)
    """
    flanks = PSF_SHARE * float(pixel_profile(1, sigma_px) / pixel_profile(0, sigma_px)) ** 2
    variable = np.zeros(len(statistics), dtype=bool)
    live = np.maximum(statistics["live"].to_numpy(), 1)
    for variance, degrees in (
        (statistics["slow"].to_numpy(), live / BLOCK_ROWS),
        (statistics["noise"].to_numpy() ** 2, live),
    ):
        excess = np.nan_to_num(variance - 1)
        padded = np.pad(excess, 1)
        beside = np.maximum(np.maximum(padded[:-2], padded[2:]), 0)
        error = np.sqrt(2 / np.maximum(degrees, 1))
        variable |= (excess > MIN_EXCESS_VARIANCE) & (excess > MIN_EXCESS_SIGMA * error) & (beside < flanks * excess)
    columns = np.arange(len(statistics))
    for x in bright_x:
        variable[np.abs(columns - x) <= STREAK_PX] = False
    return variable


def summarise_quality(statistics: pd.DataFrame, bad_columns: np.ndarray, n_rows: int) -> dict[str, Any]:
    """Summarise the quality of a whole amplifier for its description.

    Returns
    -------
    dict
        ``live_pixel_rows``, ``noise`` (of pixels within `TAIL_SIGMA`), ``masked_fraction``, ``bad_columns`` (how many),
        ``row_correlation``, ``column_correlation`` (medians), ``above`` and ``below`` (pixels beyond `TAIL_SIGMA`).
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
    """Amplitude spectrum of the offset that all columns of a row share.

    Parameters
    ----------
    row_offset_e : ndarray, shape (t,)
        Electrons; NaN where a row is missing.
    readout : Readout

    Returns
    -------
    frequency_hz, amplitude_e : ndarray, shape (f,)
        Amplitude of a sinusoid at each frequency, from the mean power of Hann-windowed segments of `SPECTRUM_ROWS` rows
        that overlap by half (Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70).
    """
    from scipy.signal import welch  # slow to import, and no search needs it

    series = np.asarray(row_offset_e, dtype=np.float64)
    known = np.isfinite(series)
    length = min(SPECTRUM_ROWS, len(series))
    if known.sum() < 2 or length < 4:
        return np.empty(0), np.empty(0)
    series = np.interp(np.arange(len(series)), np.flatnonzero(known), series[known])
    frequency_hz, power = welch(series, readout.row_rate_hz, np.hanning(length), scaling="spectrum")
    return frequency_hz, np.sqrt(2 * power)


def pickup_peaks(frequency_hz: np.ndarray, amplitude_e: np.ndarray, n_rows: int) -> pd.DataFrame:
    """Find the lines of a spectrum that exceed their surroundings by more than noise does.

    Parameters
    ----------
    frequency_hz, amplitude_e : ndarray, shape (f,)
        From `pickup_spectrum`.
    n_rows : int
        Length of the series, which gives the number of segments in the mean.

    Returns
    -------
    DataFrame
        ``frequency_hz`` and ``amplitude_e`` of the sinusoid, ``times_median`` (its bin over the median of the bins
        around it); the strongest first. Noise alone gives 0.02 to 0.04 lines, more than `FALSE_PEAKS`, since medians of
        few bins scatter.

    Notes
    -----
    The mean power of ``n`` Hann windows that overlap by half is gamma-distributed for noise, of shape
    ``n / (1 + (n - 1) / 18 n)``, since neighbouring windows are correlated by 1/6 (Welch 1967). By the transform of a
    Hann window, a sinusoid ``d`` bins from the nearest one has ``sinc(d) / (1 - d²)`` of its amplitude there, and
    ``(1 + d) / (2 - d)`` times that in the next.
    """
    from scipy.stats import gamma  # slow to import, and no search needs it

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


def expected_tails(level_e: float, electronic_e: float, limit: float = TAIL_SIGMA) -> tuple[float, float]:
    """Probabilities that Poisson and Gaussian electronic noise put a pixel below -limit and above limit sigma.

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
        2.9e-7 each for a Gaussian and a limit of 5; the skewness of Poisson noise makes them differ.
    """
    from scipy.stats import norm, poisson  # slow to import, and no search needs it

    sigma = np.sqrt(level_e + electronic_e**2)
    counts = np.arange(poisson.ppf(1e-14, level_e), poisson.isf(1e-14, level_e) + 1)
    weight, offset = poisson.pmf(counts, level_e), counts - level_e
    below = np.sum(weight * norm.cdf((-limit * sigma - offset) / electronic_e))
    return float(below), float(np.sum(weight * norm.sf((limit * sigma - offset) / electronic_e)))


def masked_fractions(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masked fraction of each column and of each row.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        NaN where masked.

    Returns
    -------
    by_column : ndarray of float64, shape (x,)
    by_row : ndarray of float64, shape (t,)
        Over the columns that are not masked from end to end; 1 if there is none.
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
        Standard deviation within `TAIL_SIGMA`; 1 is theory, NaN where nothing is unmasked.
    """
    n_columns, n_rows = residual.shape
    edges = np.linspace(0, n_rows, min(n_bins, n_rows) + 1).astype(int)
    squares, counts = np.zeros(n_rows), np.zeros(n_rows)
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        part = residual[start : start + _COLUMNS_AT_ONCE].astype(np.float32)
        inside = np.abs(part) < TAIL_SIGMA
        squares += np.sum(np.where(inside, part, 0) ** 2, axis=0)
        counts += inside.sum(axis=0)
    squares, counts = (np.add.reduceat(values, edges[:-1]) for values in (squares, counts))
    return edges, np.sqrt(np.divide(squares, counts, out=np.full(len(counts), np.nan), where=counts > 0))


@numba.njit(cache=True, nogil=True)
def _is_isolated(residual, x, t, limit):  # pragma: no cover - compiled
    """Whether none of a pixel's eight neighbours is beyond the limit."""
    for column in range(max(x - 1, 0), min(x + 2, residual.shape[0])):
        for row in range(max(t - 1, 0), min(t + 2, residual.shape[1])):
            if (column != x or row != t) and abs(residual[column, row]) > limit:
                return False
    return True


@numba.njit(cache=True, nogil=True)
def _measure(residual, first, table, limit, isolated, block_rows):  # pragma: no cover - compiled
    """Write the statistics of one column to each row of ``table``, from column ``first`` on."""
    n_rows = residual.shape[1]
    nothing = np.full(block_rows, np.nan, dtype=np.float32)
    before = np.empty(block_rows, dtype=np.float32)
    for i in range(table.shape[0]):
        x = first + i
        live = within = above = below = isolated_above = isolated_below = pairs = across = blocks = 0
        squares = lagged = beside = slow = 0.0
        for start in range(0, n_rows, block_rows):
            values = residual[x, start : start + block_rows]
            neighbours = residual[x + 1, start : start + block_rows] if x + 1 < residual.shape[0] else nothing
            before[0] = residual[x, start - 1] if start else np.float32(np.nan)
            before[1 : len(values)] = values[:-1]
            n_live, n_inside, far, total, squared = _sum_block(values, limit)
            live += n_live
            within += n_inside
            squares += squared
            n, product = _sum_products(values, before, limit)
            pairs += n
            lagged += product
            n, product = _sum_products(values, neighbours, limit)
            across += n
            beside += product
            if len(values) == block_rows and 2 * n_inside > block_rows:
                slow += total * total / n_inside
                blocks += 1
            for t in range(start, start + len(values) if far else start):
                if residual[x, t] > limit:
                    above += 1
                    isolated_above += _is_isolated(residual, x, t, isolated)
                elif residual[x, t] < -limit:
                    below += 1
                    isolated_below += _is_isolated(residual, x, t, isolated)
        variance = squares / within if within else np.nan
        table[i, 0] = live
        table[i, 1] = np.sqrt(variance)
        table[i, 2] = slow / blocks if blocks else np.nan
        table[i, 3] = lagged / pairs / variance if pairs and variance > 0 else np.nan
        table[i, 4] = beside / across / variance if across and variance > 0 else np.nan
        table[i, 5], table[i, 6] = above, below
        table[i, 7], table[i, 8] = isolated_above, isolated_below


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _sum_block(values, limit):  # pragma: no cover - compiled
    """Numbers of live values, of those within the limit and beyond it; sum and sum of squares of those within."""
    live, n_inside, far = np.int32(0), np.int32(0), np.int32(0)
    total, squares = np.float32(0), np.float32(0)
    for t in range(len(values)):
        value = values[t]
        known, inside, outside = value == value, abs(value) < limit, abs(value) > limit
        live += np.int32(1) if known else np.int32(0)
        n_inside += np.int32(1) if inside else np.int32(0)
        far += np.int32(1) if outside else np.int32(0)
        kept = value if inside else np.float32(0)
        total += kept
        squares += kept * kept
    return live, n_inside, far, total, squares


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _sum_products(values, others, limit):  # pragma: no cover - compiled
    """Number of pairs with both values within the limit, and the sum of their products."""
    pairs, total = np.int32(0), np.float32(0)
    for t in range(len(values)):
        inside = (abs(values[t]) < limit) & (abs(others[t]) < limit)
        pairs += np.int32(1) if inside else np.int32(0)
        total += values[t] * others[t] if inside else np.float32(0)
    return pairs, total
