"""How good a calibrated amplifier is: noise against theory, correlations, tails, masks, what the rows shared."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.levels import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.readout import Readout

CALM_SIGMA = 5.0  # what lies farther out is an event, an artefact or a tail, and counted as such
# a column is restless by itself if its slow or fast variance exceeds 1 by so much ...
MIN_RESTLESS = 0.3
RESTLESS_SIGMA = 6.0  # ... and by so many of its errors ...
PSF_SHARE = 0.5  # ... while its neighbours have less than this share of what a point source would give them
SPECTRUM_ROWS = 2048  # in each stretch of which the spectrum is the mean
_COLUMNS_AT_ONCE = 64


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
        ``column_correlation`` (with the next column), ``above`` and ``below`` (pixels beyond `CALM_SIGMA`). NaN where
        nothing is unmasked.
    """
    n_columns = residual.shape[0]
    table = np.empty((n_columns, 7))
    for start in range(0, n_columns, _COLUMNS_AT_ONCE):
        stop = min(start + _COLUMNS_AT_ONCE, n_columns)
        _measure(residual[start : stop + 1].astype(np.float32), table[start:stop], np.float32(CALM_SIGMA), BLOCK_ROWS)
    names = ["live", "noise", "slow", "row_correlation", "column_correlation", "above", "below"]
    return pd.DataFrame(table, columns=names).astype({"live": int, "above": int, "below": int})


def restless_columns(statistics: pd.DataFrame, sigma_px: float) -> np.ndarray:
    """Columns that vary alone, as hot pixels that blink and traps do and no star does.

    Parameters
    ----------
    statistics : DataFrame
        From `column_statistics`.
    sigma_px : float
        Width of the point-spread function (pixels).

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
        Amplitude of a sinusoid that would stand at each frequency, mean power over Hann-windowed stretches of
        `SPECTRUM_ROWS` that overlap by half (Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70).
    """
    series = np.asarray(row_offset_e, dtype=np.float64)
    known = np.isfinite(series)
    length = min(SPECTRUM_ROWS, len(series))
    if known.sum() < 2 or length < 4:
        return np.empty(0), np.empty(0)
    series = np.interp(np.arange(len(series)), np.flatnonzero(known), series[known])
    window = np.hanning(length)
    starts = range(0, len(series) - length + 1, max(length // 2, 1))
    stretches = np.stack([series[start : start + length] for start in starts])
    stretches -= stretches.mean(axis=1, keepdims=True)
    power = np.mean(np.abs(np.fft.rfft(window * stretches, axis=1)) ** 2, axis=0)
    return np.fft.rfftfreq(length, 1 / readout.row_rate_hz), 2 * np.sqrt(power) / window.sum()


@numba.njit(cache=True, nogil=True)
def _measure(residual, table, calm, block_rows):  # pragma: no cover - compiled
    """Statistics of all but the last of some columns, which is there to be compared with (unless it is their last)."""
    n_columns, n_rows = table.shape[0], residual.shape[1]
    for x in range(n_columns):
        live = within = above = below = pairs = across = blocks = in_block = 0
        squares = lagged = beside = slow = total = 0.0
        previous = np.float32(np.nan)
        for t in range(n_rows):
            value = residual[x, t]
            if value == value:
                live += 1
                above += value > calm
                below += value < -calm
            if abs(value) < calm:
                within += 1
                squares += value * value
                total += value
                in_block += 1
                if abs(previous) < calm:
                    lagged += value * previous
                    pairs += 1
                if x + 1 < residual.shape[0] and abs(residual[x + 1, t]) < calm:
                    beside += value * residual[x + 1, t]
                    across += 1
            previous = value
            if (t + 1) % block_rows == 0:
                if 2 * in_block > block_rows:
                    slow += total * total / in_block
                    blocks += 1
                total, in_block = 0.0, 0
        variance = squares / within if within else np.nan
        table[x, 0] = live
        table[x, 1] = np.sqrt(variance)
        table[x, 2] = slow / blocks if blocks else np.nan
        table[x, 3] = lagged / pairs / variance if pairs and variance > 0 else np.nan
        table[x, 4] = beside / across / variance if across and variance > 0 else np.nan
        table[x, 5], table[x, 6] = above, below
