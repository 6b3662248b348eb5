"""Compute the baseline of columns: means of blocks of rows, outliers rejected, and running means over many blocks."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA, median, median_absolute
from shutterless.pipeline.reading.readout import Readout

BASELINE_WINDOW_S = 16_384 / 300  # of the running mean: 1 s fills 2 % of it, 5 s 9 %, and that is what events lose
MIN_WINDOW_BLOCKS = 8  # where rows are slow: fewer do not show which of them is an outlier
KNOTS_PER_WINDOW = 64  # running means in a window; linear in between
MEDIANS_PER_WINDOW = 4  # medians in a window, with which block means are compared to find outliers
BASELINE_CLIP_SIGMA = 4.0
_COLUMNS_AT_ONCE = 256  # of a block of rows: 64 kB, which four passes read
MIN_LIVE_OF_BLOCK = 0.25  # of a block's rows; a mean of fewer is too noisy, since all blocks have equal weight


@numba.njit(cache=True, nogil=True, error_model="numpy")
def block_means(electrons, block_rows, read_noise, clip):  # pragma: no cover - compiled
    """Mean of each block of rows without values further than ``clip`` sigma from a first mean; NaN if too few live.

    Sigma is at least the scatter around the first mean, so that image motion is not clipped (bright stars would lose
    1.5 %). One bright pixel of 64 still is.
    """
    n_rows, n_columns = electrons.shape
    n_blocks = (n_rows + block_rows - 1) // block_rows
    means = np.empty((n_blocks, n_columns), dtype=np.float32)
    for block in range(n_blocks):
        start, stop = block * block_rows, min((block + 1) * block_rows, n_rows)
        for first in range(0, n_columns, _COLUMNS_AT_ONCE):
            last = min(first + _COLUMNS_AT_ONCE, n_columns)
            centre = means[block, first:last]
            _mean_block(electrons[start:stop], first, centre, np.float32(read_noise), np.float32(clip))
    return means


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _mean_block(electrons, first, centre, read_noise, clip):  # pragma: no cover - compiled
    """Write the clipped mean of some columns of one block, from ``first`` on, to ``centre``."""
    n_rows, n_columns = len(electrons), len(centre)
    limit = np.empty(n_columns, dtype=np.float32)
    total, count = np.zeros_like(limit), np.zeros_like(limit)
    _first_centres(electrons, first, centre)
    for row in range(n_rows):
        values = electrons[row, first : first + n_columns]
        for k in range(n_columns):
            departure = abs(values[k] - centre[k])
            known = departure == departure
            total[k] += departure if known else np.float32(0)
            count[k] += np.float32(1) if known else np.float32(0)
    for k in range(n_columns):
        photons = np.sqrt(max(centre[k], np.float32(0)) + read_noise**2)
        limit[k] = clip * max(1.2533 * total[k] / max(count[k], 1), photons) + 1e-6
    for _ in range(2):
        total[:] = 0
        count[:] = 0
        for row in range(n_rows):
            values = electrons[row, first : first + n_columns]
            for k in range(n_columns):
                departure = values[k] - centre[k]
                inside = abs(departure) <= limit[k]
                total[k] += departure if inside else np.float32(0)
                count[k] += np.float32(1) if inside else np.float32(0)
        for k in range(n_columns):
            centre[k] += total[k] / count[k]
    for k in range(n_columns):
        if count[k] < MIN_LIVE_OF_BLOCK * n_rows:
            centre[k] = np.nan


@numba.njit(cache=True, nogil=True)
def _first_centres(electrons, first, centre):  # pragma: no cover - compiled
    """Median of the first nine rows of each column, counted from its first live row if it begins masked."""
    n_rows, n_columns = len(electrons), len(centre)
    if n_rows >= 9:
        for k in range(n_columns):
            centre[k] = _median_of_nine(electrons, first + k)
    looked = electrons[: min(n_rows, 9), first : first + n_columns]
    if n_rows >= 9 and not np.isnan(looked.sum()):
        return
    for k in range(n_columns):
        if n_rows < 9 or np.isnan(looked[:, k]).any():
            live = 0
            while live < n_rows - 1 and np.isnan(electrons[live, first + k]):  # an onset masks the first rows
                live += 1
            centre[k] = np.nanmedian(electrons[live : min(live + 9, n_rows), first + k])


@numba.njit(cache=True, nogil=True, inline="always")
def _median_of_nine(values, column):  # pragma: no cover - compiled
    """Median by the 19 exchanges of Paeth (1990, Graphics Gems), which vectorise over columns."""
    a, b, c = values[0, column], values[1, column], values[2, column]
    d, e, f = values[3, column], values[4, column], values[5, column]
    g, h, i = values[6, column], values[7, column], values[8, column]
    b, c = min(b, c), max(b, c)
    e, f = min(e, f), max(e, f)
    h, i = min(h, i), max(h, i)
    a, b = min(a, b), max(a, b)
    d, e = min(d, e), max(d, e)
    g, h = min(g, h), max(g, h)
    b, c = min(b, c), max(b, c)
    e, f = min(e, f), max(e, f)
    h, i = min(h, i), max(h, i)
    d, f = max(a, d), min(f, i)
    e, h = min(e, h), max(e, h)
    g, e = max(d, g), max(b, e)
    c, e = min(c, f), min(e, h)
    c, e = max(e, c), min(e, c)
    e = max(g, e)
    return min(e, c)


def baseline_blocks(readout: Readout) -> int:
    """Window of the running mean in blocks of `BLOCK_ROWS` rows."""
    return max(readout.rows_of(BASELINE_WINDOW_S) // BLOCK_ROWS, MIN_WINDOW_BLOCKS)


def running_level(blocks: np.ndarray, window: int) -> np.ndarray:
    """`running_mean` over a window of so many blocks, with `KNOTS_PER_WINDOW`."""
    return running_mean(blocks, window, max(window // KNOTS_PER_WINDOW, 1))


def reject_outliers(blocks: np.ndarray, window: int) -> np.ndarray:
    """Set blocks to NaN that differ by `BASELINE_CLIP_SIGMA` from the median of the window around them.

    Parameters
    ----------
    blocks : ndarray of float32, shape (b, x)
        NaN entries stay.
    window : int
        Blocks. Near the ends the window is cut off, not mirrored.

    Returns
    -------
    ndarray of float32, shape (b, x)
        The scatter is that of the column's own blocks, so that slow changes of a variable star are kept.
    """
    columns = np.ascontiguousarray(blocks.T)
    step = max(window // MEDIANS_PER_WINDOW, 1)
    _reject_outliers(columns, max(window // 2, 1), step, BASELINE_CLIP_SIGMA)
    return columns.T


def running_mean(blocks: np.ndarray, window: int, step: int) -> np.ndarray:
    """Mean over a centred window along axis 0, taken every ``step`` blocks and linear in between.

    Parameters
    ----------
    blocks : ndarray of float32, shape (b, x)
        NaN entries are left out; a window without any other has the value of the nearest window that has one.
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
            centre = np.float32(median(window))
            limit = clip * MAD_TO_SIGMA * median_absolute(window - centre)
            for block in range(start, stop):
                if limit > 0 and abs(values[block] - centre) > limit:
                    columns[column, block] = np.nan
