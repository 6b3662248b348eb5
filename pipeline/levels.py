"""Levels of columns over time: means of blocks of rows, running means over many of them, values between them."""

from __future__ import annotations

import numba
import numpy as np

BLOCK_ROWS = 64  # the baseline is kept every so many rows
KNOT_BLOCKS = 4  # and its running mean taken every so many blocks, linear in between
WINDOW_ROWS = 16_384  # of the running mean: 1 s of 300 rows/s fills 2 % of it, 5 s 9 %, and that is what events lose
CLIP_BLOCKS = 64  # outlying block means are found against the median around every so many
CLIP_SIGMA = 4.0
MIN_LIVE_FRACTION = 0.25  # of a block's rows; the mean of fewer counts as much as any other, and is noise


@numba.njit(cache=True, nogil=True, error_model="numpy")
def block_means(electrons, block_rows, read_noise, clip):  # pragma: no cover - compiled
    """Mean of each block of rows, leaving out values further than ``clip`` sigma from a first mean; NaN of too few.

    A star that sways is not clipped (bright ones would lose 1.5 %), since sigma is at least the scatter around the
    first mean; one bright pixel of 64 still is.
    """
    n_rows, n_columns = electrons.shape
    n_blocks = (n_rows + block_rows - 1) // block_rows
    means = np.empty((n_blocks, n_columns), dtype=np.float32)
    limit = np.empty(n_columns, dtype=np.float32)
    total, count = np.empty_like(limit), np.empty_like(limit)
    for block in range(n_blocks):
        start, stop = block * block_rows, min((block + 1) * block_rows, n_rows)
        centre = means[block]
        for column in range(n_columns):
            first = start
            while first < stop - 1 and np.isnan(electrons[first, column]):  # an onset masks the first rows
                first += 1
            centre[column] = np.nanmedian(electrons[first : min(first + 9, stop), column])
        total[:] = 0
        count[:] = 0
        for row in range(start, stop):
            for column in range(n_columns):
                apart = abs(electrons[row, column] - centre[column])
                known = apart == apart
                total[column] += apart if known else np.float32(0)
                count[column] += np.float32(1) if known else np.float32(0)
        for column in range(n_columns):
            photons = np.sqrt(max(centre[column], 0.0) + read_noise**2)
            limit[column] = clip * max(1.2533 * total[column] / max(count[column], 1), photons) + 1e-6
        for _ in range(2):
            total[:] = 0
            count[:] = 0
            for row in range(start, stop):
                for column in range(n_columns):
                    apart = electrons[row, column] - centre[column]
                    inside = abs(apart) <= limit[column]
                    total[column] += apart if inside else np.float32(0)
                    count[column] += np.float32(1) if inside else np.float32(0)
            for column in range(n_columns):
                centre[column] += total[column] / count[column]
        for column in range(n_columns):
            if count[column] < MIN_LIVE_FRACTION * (stop - start):
                centre[column] = np.nan
    return means


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
