"""From ADU to residuals in units of their own noise: bias, gain, ramp, slow baseline, shared rows, variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from shutterless.pipeline.frames import Frame
from shutterless.pipeline.ramp import SETTLE_ROWS, Ramp, fit_ramp
from shutterless.pipeline.readout import Readout

BLOCK_ROWS = 64  # the baseline is kept every so many rows
KNOT_BLOCKS = 4  # and its running mean taken every so many blocks, linear in between
WINDOW_ROWS = 16_384  # of the running mean: 1 s of 300 rows/s fills 2 % of it, 5 s 9 %, and that is what events lose
CLIP_BLOCKS = 64  # outlying block means are found against the median around every so many
CLIP_SIGMA = 4.0  # of block means and shared rows
CHUNK_ROWS = 256  # rows calibrated at a time: 3 MB of float32, which stays in the cache


@dataclass(frozen=True)
class Baseline:
    """What a quiet amplifier looks like.

    Parameters
    ----------
    level_e : ndarray of float32, shape (b, x)
        Electrons per pixel at the centres of blocks of `BLOCK_ROWS` rows, in the steady state.
    ramp : Ramp or None
        What the first rows lack against it.
    bias_adu : ndarray of float64, shape (t,)
    """

    level_e: np.ndarray
    ramp: Ramp | None
    bias_adu: np.ndarray


@dataclass(frozen=True)
class ResidualChunk:
    """Calibrated rows ``start`` to ``start + n``.

    ``residual`` is ``(n, x)`` in units of σ with NaN where masked, ``sigma_e`` the σ used, ``row_residual`` ``(n,)``
    what all columns share, in units of the median σ.
    """

    start: int
    residual: np.ndarray
    sigma_e: np.ndarray
    row_residual: np.ndarray


def overscan_level(overscan_adu: np.ndarray, used: tuple[int, int]) -> np.ndarray:
    """Bias of each row from the overscan columns past the deferred charge.

    Parameters
    ----------
    overscan_adu : ndarray, shape (t, o)
    used : (int, int)
        Half-open range of columns.

    Returns
    -------
    ndarray of float64, shape (t,)
        Mean of the columns, each limited to ±5 σ of the block around its median so that a cosmic ray does not count.
    """
    columns = overscan_adu[:, used[0] : used[1]].astype(np.float64)
    middle = np.median(columns, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(columns - middle)) + 1e-9
    return np.clip(columns, middle - 5 * spread, middle + 5 * spread).mean(axis=1)


def to_electrons(pixels_adu: np.ndarray, bias_adu: np.ndarray, frame: Frame) -> np.ndarray:
    """Bias-subtracted, linearised electrons; saturated pixels are NaN.

    Returns
    -------
    ndarray of float32, shape (n, x)

    Notes
    -----
    Non-linearity: ``true = x / (a x² + b x + 1)`` with the profile's ``a`` and ``b`` (ztfimg, raw.py).
    """
    adu = pixels_adu - bias_adu[:, None].astype(np.float32)
    if frame.profile.nonlinearity is not None:
        a, b = (np.float32(value) for value in frame.profile.nonlinearity)
        adu /= (a * adu + b) * adu + np.float32(1)
    adu *= np.float32(frame.readout.gain_e_per_adu)
    adu[pixels_adu >= frame.readout.saturation_adu] = np.nan
    return adu


def fit_baseline(frame: Frame) -> Baseline:
    """Fit ramp, onsets and the slow level of every column.

    The level is a running mean of block means without the outlying ones: neither a cosmic ray nor a bright event moves
    it, a faint one by its share of the window. It is a mean and no median, for image motion makes the light of a
    streak's columns skew: medians make stars 3 % fainter.
    """
    n_rows = len(frame.pixels_adu)
    bias = overscan_level(frame.overscan_adu, frame.profile.overscan_used)
    n_ramp = frame.readout.n_ramp_rows(n_rows)
    ramp = None
    if n_ramp:
        ramp = _fit_first_rows(frame, bias, n_ramp)
    means = []
    for start in range(0, n_rows, BLOCK_ROWS * 8):
        stop = min(start + BLOCK_ROWS * 8, n_rows)
        electrons = to_electrons(frame.pixels_adu[start:stop], bias[start:stop], frame)
        if ramp is not None and start < ramp.n_rows:
            _remove_ramp(electrons, ramp, start)
        means.append(_block_means(electrons, BLOCK_ROWS, frame.readout.read_noise_e, CLIP_SIGMA))
    level = running_mean(reject_outliers(np.concatenate(means)), WINDOW_ROWS // BLOCK_ROWS, KNOT_BLOCKS)
    return Baseline(level_e=level, ramp=ramp, bias_adu=bias)


def _fit_first_rows(frame: Frame, bias: np.ndarray, n_ramp: int) -> Ramp:
    """Ramp of a file whose first ``n_ramp`` rows carry it; the rows after it, if there are any, say where it leads."""
    readout = frame.readout
    rows = slice(0, n_ramp + SETTLE_ROWS)
    steady = None
    if len(bias) >= n_ramp + SETTLE_ROWS:
        after = slice(n_ramp, n_ramp + WINDOW_ROWS)
        electrons = to_electrons(frame.pixels_adu[after], bias[after], frame)
        steady = np.nanmedian(_block_means(electrons, BLOCK_ROWS, readout.read_noise_e, CLIP_SIGMA), axis=0)
    electrons = np.nan_to_num(to_electrons(frame.pixels_adu[rows], bias[rows], frame))
    first_row = readout.first_row or 0
    return fit_ramp(electrons, first_row, readout.n_transit, readout.psf_sigma_px, readout.read_noise_e, steady)


def noise_floor_e2(readout: Readout) -> float:
    """Variance of a pixel without light (electrons²): read noise, and rounding to whole ADU."""
    return readout.read_noise_e**2 + readout.gain_e_per_adu**2 / 12


def iterate_residuals(frame: Frame, baseline: Baseline) -> Iterator[ResidualChunk]:
    """Calibrate an amplifier chunk by chunk, in row order.

    Yields
    ------
    ResidualChunk

    Notes
    -----
    The variance is photon statistics of the baseline (never of the data, which would favour downward fluctuations)
    plus read noise and digitisation: ``V = max(b, 0) + RN² + gain²/12``. What all columns of a row share is their
    mean weighted by ``1/V`` and clipped: pickup is read with a row, light is not shared by 3,072 columns.
    """
    readout = frame.readout
    floor_e2 = np.float32(noise_floor_e2(readout))
    for start in range(0, len(frame.pixels_adu), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(frame.pixels_adu))
        residual = to_electrons(frame.pixels_adu[start:stop], baseline.bias_adu[start:stop], frame)
        level = interpolate_blocks(baseline.level_e, start, stop)
        residual -= level
        if baseline.ramp is not None and start < baseline.ramp.n_rows:
            _remove_ramp(residual, baseline.ramp, start)
            n = min(baseline.ramp.n_rows, stop) - start
            level[:n] += baseline.ramp.deficit_e[start : start + n]
        sigma = np.sqrt(np.maximum(level, 0) + floor_e2)
        shared = _subtract_shared_rows(residual, sigma, CLIP_SIGMA)
        yield ResidualChunk(start, residual, sigma, shared / np.median(sigma, axis=1))


def interpolate_blocks(level: np.ndarray, start: int, stop: int, block_rows: int = BLOCK_ROWS) -> np.ndarray:
    """Values of rows ``start..stop`` from values at block centres, linear in between and constant outside.

    Parameters
    ----------
    level : ndarray, shape (b, x)
        Block ``i`` is centred on row ``(i + 1/2) block_rows``.

    Returns
    -------
    ndarray of float32, shape (stop - start, x)
    """
    position = np.clip((np.arange(start, stop) + 0.5) / block_rows - 0.5, 0, len(level) - 1)
    lower = np.minimum(position.astype(np.int64), max(len(level) - 2, 0))
    upper = np.minimum(lower + 1, len(level) - 1)
    weight = (position - lower).astype(np.float32)[:, None]
    return level[lower] * (1 - weight) + level[upper] * weight


def reject_outliers(blocks: np.ndarray, window: int = WINDOW_ROWS // BLOCK_ROWS) -> np.ndarray:
    """Blocks with those set to NaN that stand `CLIP_SIGMA` off the median of the window around them.

    Parameters
    ----------
    blocks : ndarray of float32, shape (b, x)
        NaN entries stay.
    window : int
        Blocks. Near the ends the window is cut off, not mirrored.

    Returns
    -------
    ndarray of float32, shape (b, x)
        The scatter is that of the column's own blocks, so a restless star keeps its swings.
    """
    columns = np.ascontiguousarray(blocks.T)
    _reject_outliers(columns, max(window // 2, 1), CLIP_BLOCKS, CLIP_SIGMA)
    return columns.T


def running_mean(blocks: np.ndarray, window: int, step: int) -> np.ndarray:
    """Mean over a centred window along axis 0, taken every ``step`` blocks and linear in between.

    Parameters
    ----------
    blocks : ndarray of float32, shape (b, x)
        NaN entries are left out; a window of nothing else has the value of the nearest that holds more.
    window, step : int
        Blocks. Near the ends the window is cut off, not mirrored.

    Returns
    -------
    ndarray of float32, shape (b, x)
    """
    n_blocks, half = len(blocks), max(window // 2, 1)
    knots = np.unique(np.append(np.arange(0, n_blocks, step), n_blocks - 1))
    valid = np.isfinite(blocks)
    first, last = np.maximum(knots - half, 0), np.minimum(knots + half + 1, n_blocks)
    total, count = (
        np.concatenate([np.zeros((1, blocks.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
        for values in (np.where(valid, blocks, 0), valid)
    )
    count = count[last] - count[first]
    means = (total[last] - total[first]) / np.maximum(count, 1)
    for column in np.flatnonzero(np.any(count == 0, axis=0)):
        known = np.flatnonzero(count[:, column])
        if known.size:
            nearest = known[np.argmin(np.abs(knots[:, None] - knots[known]), axis=1)]
            means[:, column] = means[nearest, column]
    position = np.interp(np.arange(n_blocks), knots, np.arange(len(knots)))
    lower = np.minimum(position.astype(np.int64), max(len(knots) - 2, 0))
    weight = (position - lower)[:, None]
    upper = np.minimum(lower + 1, len(knots) - 1)
    return (means[lower] * (1 - weight) + means[upper] * weight).astype(np.float32)


def _remove_ramp(electrons: np.ndarray, ramp: Ramp, start: int) -> None:
    """Bring the rows of the ramp to the steady state in place; beginning streaks become NaN."""
    n = min(ramp.n_rows - start, len(electrons))
    electrons[:n] -= ramp.deficit_e[start : start + n]
    electrons[:n][ramp.onset_mask[start : start + n]] = np.nan


@numba.njit(cache=True, nogil=True)
def _reject_outliers(columns, half, step, clip):  # pragma: no cover - compiled
    """Twin of `reject_outliers` on (x, b), in place."""
    n_columns, n_blocks = columns.shape
    for column in range(n_columns):
        values = columns[column].copy()
        for start in range(0, n_blocks, step):
            stop = min(start + step, n_blocks)
            middle = (start + stop) // 2
            window = values[max(middle - half, 0) : middle + half]
            window = window[~np.isnan(window)]
            if len(window) < 3:
                continue
            centre = np.median(window)
            limit = clip * 1.4826 * np.median(np.abs(window - centre))
            for block in range(start, stop):
                if limit > 0 and abs(values[block] - centre) > limit:
                    columns[column, block] = np.nan


@numba.njit(cache=True, nogil=True)
def _block_means(electrons, block_rows, read_noise, clip):  # pragma: no cover - compiled
    """Mean of each block of rows, leaving out values further than ``clip`` sigma from a first mean."""
    n_rows, n_columns = electrons.shape
    n_blocks = (n_rows + block_rows - 1) // block_rows
    means = np.empty((n_blocks, n_columns), dtype=np.float32)
    for block in range(n_blocks):
        start, stop = block * block_rows, min((block + 1) * block_rows, n_rows)
        for column in range(n_columns):
            first = start
            while first < stop - 1 and np.isnan(electrons[first, column]):  # an onset masks the first rows
                first += 1
            centre = np.nanmedian(electrons[first : min(first + 9, stop), column])
            limit = clip * np.sqrt(max(centre, 0.0) + read_noise**2) + 1e-6
            for _ in range(2):
                total, count = 0.0, 0
                for row in range(start, stop):
                    value = electrons[row, column]
                    if abs(value - centre) <= limit:
                        total += value
                        count += 1
                centre = total / count if count else np.nan
            means[block, column] = centre
    return means


@numba.njit(cache=True, nogil=True)
def _subtract_shared_rows(residual, sigma, clip):  # pragma: no cover - compiled
    """Take the clipped weighted mean of each row off it, divide by sigma; return what was taken off (electrons)."""
    n_rows, n_columns = residual.shape
    shared = np.empty(n_rows, dtype=np.float32)
    for row in range(n_rows):
        centre = 0.0
        for _ in range(3):
            total, weights = 0.0, 0.0
            for column in range(n_columns):
                value = residual[row, column]
                if abs(value - centre) <= clip * sigma[row, column]:
                    weight = 1 / sigma[row, column] ** 2
                    total += weight * value
                    weights += weight
            centre = total / weights if weights else centre
        shared[row] = centre
        for column in range(n_columns):
            residual[row, column] = (residual[row, column] - np.float32(centre)) / sigma[row, column]
    return shared
