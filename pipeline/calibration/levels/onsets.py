"""Find where streaks begin: significant upward steps of columns whose light only grows, placed to the row."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.psf import pixel_profile

# in rows, whatever the row rate: an onset is a place on the detector, and a step must stand out of so many samples
BIN_ROWS = 16  # steps are searched in means of this many rows, then placed to the row
DARK_ROWS = 64  # dark rows put before sequence row 0, for the time before the shutter opened
MIN_STEP_SIGNIFICANCE = 2.5  # fainter steps are below the noise of any box; false ones cost 1 % of the ramp
SAME_ONSET_COLUMNS = 4  # columns to either side in which one star's step appears
_REACH = 3  # columns to either side that the filter uses
_TILE_COLUMNS = 64  # filtered and transposed at a time: with 5,000 rows 1.3 MB, which stay in the cache
_CHUNK_ROWS = 16  # of a step's neighbourhood, skipped if they cannot hold the step
_TIE = 1e-9  # rounding error of sums of a few thousand terms of order 1; of equal sums the first counts


def bin_means(rows: np.ndarray, lift: np.ndarray | None = None) -> np.ndarray:
    """Means of `BIN_ROWS` rows (r, x) of float32, ``lift`` (r,) added; the last bin may have fewer rows."""
    lift = np.zeros(len(rows), dtype=np.float32) if lift is None else lift
    return _bin_means(np.ascontiguousarray(rows, dtype=np.float32), lift.astype(np.float32))


def find_onsets(
    rows: np.ndarray, noise: np.ndarray, sigma_px: float, dark_e: float | None, lift: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find columns, rows and heights (electrons per row) of the streaks that begin, each once, highest first.

    Parameters
    ----------
    rows : ndarray of float32, shape (r, x)
        Electrons; with ``lift`` added the sky is constant.
    noise : ndarray, shape (r,)
        Background noise of each row (electrons).
    sigma_px : float
        Width of the point-spread function (pixels).
    dark_e : float or None
        Level of dark rows put before the first, so that streaks which begin in the first rows make a step.
    lift : ndarray, shape (r,), optional
        Added to the rows first.

    Returns
    -------
    x, row, height_e : ndarray, shape (m,)
    """
    lift = np.zeros(len(rows), dtype=np.float32) if lift is None else lift
    n_dark = 0 if dark_e is None else DARK_ROWS
    noise = np.concatenate([np.full(n_dark, noise[0]), noise])
    kernel = pixel_profile(np.arange(-_REACH, _REACH + 1), sigma_px)
    kernel /= np.sum(kernel**2)
    x, row, height, score, spread = _column_steps(
        np.ascontiguousarray(rows, dtype=np.float32),
        lift.astype(np.float32),
        n_dark,
        np.float32(dark_e or 0),
        kernel.astype(np.float32),
        bin_means((noise**2)[:, None])[:, 0],
        MIN_STEP_SIGNIFICANCE,
    )
    strongest = np.argsort(-score, kind="stable")
    accepted, highest = _merge_steps(x[strongest], row[strongest], height[strongest], spread[strongest], rows.shape[1])
    accepted, highest = strongest[accepted], strongest[highest]
    order = np.argsort(-height[highest], kind="stable")
    return x[highest[order]], np.maximum(row[accepted[order]] - n_dark, 0), height[highest[order]]


@numba.njit(cache=True, nogil=True)
def _bin_means(rows, lift):  # pragma: no cover - compiled
    n_rows, n_columns = rows.shape
    n_bins = (n_rows + BIN_ROWS - 1) // BIN_ROWS
    means = np.zeros((n_bins, n_columns), dtype=np.float32)
    for number in range(n_bins):
        start, stop = number * BIN_ROWS, min((number + 1) * BIN_ROWS, n_rows)
        mean = means[number]
        for row in range(start, stop):
            values = rows[row]
            for column in range(n_columns):
                mean[column] += values[column] + lift[row]
        for column in range(n_columns):
            mean[column] /= np.float32(stop - start)
    return means


@numba.njit(cache=True, nogil=True)
def _merge_steps(x, row, height, spread, n_columns):  # pragma: no cover - compiled
    """Merge steps of one star: one for each star, strongest first, and the highest step of each, in its column."""
    accepted, highest = np.empty(len(x), np.int64), np.empty(len(x), np.int64)
    last, before = np.full(n_columns, -1), np.empty(len(x), np.int64)  # accepted steps of each column as a linked list
    n = 0
    for index in range(len(x)):
        same = n
        near = range(max(x[index] - SAME_ONSET_COLUMNS, 0), min(x[index] + SAME_ONSET_COLUMNS + 1, n_columns))
        for column in near:
            k = last[column]
            while k >= 0:
                if k < same and abs(row[accepted[k]] - row[index]) <= spread[index]:
                    same = k
                k = before[k]
        if same == n:
            accepted[n] = highest[n] = index
            before[n], last[x[index]] = last[x[index]], n
            n += 1
        elif height[index] > height[highest[same]]:
            highest[same] = index
    return accepted[:n], highest[:n]


@numba.njit(cache=True, nogil=True)
def _column_steps(rows, lift, n_dark, dark, kernel, variance, min_significance):  # pragma: no cover - compiled
    """Significant upward steps of every column: column, row, height, significance, uncertainty of the row (rows).

    ``variance`` (n,) is the relative variance of the bins of a column; ``n_dark`` dark rows come before the first.
    """
    steps = [(0, 0, 0.0, 0.0, 0.0)]  # the first entry gives the compiler the type
    n_columns = rows.shape[1]
    flux = np.empty((_TILE_COLUMNS, n_dark + len(rows)), dtype=np.float32)
    binned = np.empty((_TILE_COLUMNS, len(variance)), dtype=np.float32)
    total = np.append(0.0, np.cumsum(variance.astype(np.float64)))
    roots = np.sqrt(variance[1:] + variance[:-1])
    for first in range(0, n_columns, _TILE_COLUMNS):
        n = min(_TILE_COLUMNS, n_columns - first)
        _filter_tile(rows, lift, n_dark, dark, kernel, first, flux[:n], binned[:n])
        for k in range(n):
            scale = _noise_scale(binned[k], roots)
            if scale > 0:
                _append_steps(steps, first + k, flux[k], binned[k], total * scale**2, min_significance)
    found = steps[1:]
    return (
        np.array([step[0] for step in found]),
        np.array([step[1] for step in found]),
        np.array([step[2] for step in found]),
        np.array([step[3] for step in found]),
        np.array([step[4] for step in found]),
    )


@numba.njit(cache=True, nogil=True)
def _filter_tile(rows, lift, n_dark, dark, kernel, first, flux, binned):  # pragma: no cover - compiled
    """Filtered light of the columns from ``first`` on, (n, r), and its means in bins, (n, b); edges repeat."""
    n_tile, n_rows = flux.shape
    around = np.full(n_tile + 2 * _REACH, dark)
    filtered = np.empty((BIN_ROWS, n_tile), dtype=np.float32)
    total = np.empty(n_tile, dtype=np.float32)
    for number in range(binned.shape[1]):
        start, stop = number * BIN_ROWS, min((number + 1) * BIN_ROWS, n_rows)
        total[:] = 0
        for row in range(start, stop):
            if row >= n_dark:
                _lift_part(rows[row - n_dark], first - _REACH, lift[row - n_dark], around)
            _filter_row(around, kernel, filtered[row - start], total)
        for k in range(n_tile):
            binned[k, number] = total[k] / np.float32(stop - start)
            for i in range(stop - start):
                flux[k, start + i] = filtered[i, k]


@numba.njit(cache=True, nogil=True)
def _lift_part(row, first, lift, part):  # pragma: no cover - compiled
    """Copy a row from column ``first`` on, lifted; columns beyond the edges repeat the last."""
    n = len(part)
    if first >= 0 and first + n <= len(row):
        inside = row[first : first + n]
        for k in range(n):
            part[k] = inside[k] + lift
    else:
        for k in range(n):
            part[k] = row[min(max(first + k, 0), len(row) - 1)] + lift


@numba.njit(cache=True, nogil=True)
def _filter_row(around, kernel, filtered, total):  # pragma: no cover - compiled
    """Seven columns weighted and summed, also added to ``total``."""
    a, b, c, d, e, f, g = kernel[0], kernel[1], kernel[2], kernel[3], kernel[4], kernel[5], kernel[6]
    for k in range(len(filtered)):
        left = a * around[k] + b * around[k + 1] + c * around[k + 2]
        filtered[k] = left + d * around[k + 3] + e * around[k + 4] + f * around[k + 5] + g * around[k + 6]
        total[k] += filtered[k]


@numba.njit(cache=True, nogil=True)
def _append_steps(steps, column, flux, binned, variance_sums, min_significance):  # pragma: no cover - compiled
    """Find and place the steps of one column; ``variance_sums`` (b + 1,) are cumulative variances of the bins."""
    ordered = binned.copy()
    starts = _merge_insignificant(ordered, variance_sums, _isotonic_starts(ordered), min_significance)
    levels = np.array([_middle(ordered, starts[block], starts[block + 1]) for block in range(len(starts) - 1)])
    rows = starts * BIN_ROWS
    for _ in range(2):  # levels give the row of a step, and its row the levels
        for block in range(1, len(levels)):
            low, high = levels[block - 1], levels[block]
            if high > low:
                rows[block] = _place_step(flux, rows[block - 1], rows[block + 1], low, high)
            nearest = int(np.round(rows[block] / BIN_ROWS))
            start = min(max(nearest, starts[block - 1] + 1), starts[block + 1] - 1)
            if start != starts[block]:
                starts[block] = start
                levels[block - 1] = np.median(binned[starts[block - 1] : start])
                levels[block] = np.median(binned[start : starts[block + 1]])
    for block in range(1, len(levels)):
        height = levels[block] - levels[block - 1]
        if height <= 0:
            continue
        score = _significance(levels, variance_sums, starts, block)
        row_noise2 = (variance_sums[starts[block] + 1] - variance_sums[starts[block]]) * BIN_ROWS
        spread = min(3.0 + 10.0 * row_noise2 / height**2, 1.0 * BIN_ROWS)
        steps.append((column, rows[block], height, score, spread))


@numba.njit(cache=True, nogil=True)
def _noise_scale(values, roots):  # pragma: no cover - compiled
    """Noise of a series over its expected noise, from successive differences, which steps hardly affect.

    ``roots`` are those of the sums of every two successive variances.
    """
    return MAD_TO_SIGMA * np.median(np.abs(np.diff(values)) / roots)


@numba.njit(cache=True, nogil=True)
def _significance(levels, variance_sums, starts, block):  # pragma: no cover - compiled
    """Height of the step before ``block`` over its error, that of two medians; 0 for blocks of a single bin."""
    first, step, last = starts[block - 1], starts[block], starts[block + 1]
    if step - first == 1 or last - step == 1:
        return 0.0
    error2 = (variance_sums[step] - variance_sums[first]) / (step - first) ** 2
    error2 += (variance_sums[last] - variance_sums[step]) / (last - step) ** 2
    return (levels[block] - levels[block - 1]) / (1.25 * np.sqrt(error2))


@numba.njit(cache=True, nogil=True)
def _isotonic_starts(values):  # pragma: no cover - compiled
    """First indices of the blocks of the isotonic median regression, and the length as the last entry.

    The values of each block are sorted in place, so that medians are looked up and blocks are joined in one pass.
    """
    n = len(values)
    starts = np.empty(n + 1, dtype=np.int64)
    levels = np.empty(n)
    spare = np.empty_like(values)
    n_blocks = 0
    for i in range(n):
        start, level = i, np.float64(values[i])
        while n_blocks > 0 and levels[n_blocks - 1] >= level:
            n_blocks -= 1
            _join_sorted(values, starts[n_blocks], start, i + 1, spare)
            start = starts[n_blocks]
            level = _middle(values, start, i + 1)
        starts[n_blocks], levels[n_blocks] = start, level
        n_blocks += 1
    starts[n_blocks] = n
    return starts[: n_blocks + 1].copy()


@numba.njit(cache=True, nogil=True)
def _join_sorted(values, start, middle, stop, spare):  # pragma: no cover - compiled
    """Merge two sorted pieces, ``start`` to ``middle`` and ``middle`` to ``stop``, in place, from the highest down."""
    for k in range(middle, stop):
        spare[k] = values[k]
    i, place = middle - 1, stop - 1
    for k in range(stop - 1, middle - 1, -1):
        value = spare[k]
        while i >= start and values[i] > value:
            values[place] = values[i]
            place -= 1
            i -= 1
        values[place] = value
        place -= 1


@numba.njit(cache=True, nogil=True)
def _middle(values, start, stop):  # pragma: no cover - compiled
    """Median of values that are sorted from ``start`` to ``stop``."""
    half = (start + stop) // 2
    return 1.0 * values[half] if (stop - start) % 2 else (values[half - 1] + values[half]) / 2


@numba.njit(cache=True, nogil=True)
def _merge_insignificant(ordered, variance_sums, starts, min_significance):  # pragma: no cover - compiled
    """Join neighbouring blocks, each sorted in place, least significant step first, until every step stands out."""
    starts = starts.copy()
    spare = np.empty_like(ordered)
    n = len(starts) - 1
    levels, scores = np.empty(n), np.empty(n)  # score of the step before each block; the first has none
    for block in range(n):
        levels[block] = _middle(ordered, starts[block], starts[block + 1])
    for block in range(1, n):
        scores[block] = _significance(levels, variance_sums, starts, block)
    while n > 1:
        weakest = 1 + np.argmin(scores[1:n])
        if scores[weakest] >= min_significance:
            break
        _join_sorted(ordered, starts[weakest - 1], starts[weakest], starts[weakest + 1], spare)
        n -= 1
        for block in range(weakest, n):
            levels[block], scores[block] = levels[block + 1], scores[block + 1]
        for block in range(weakest, n + 1):
            starts[block] = starts[block + 1]
        levels[weakest - 1] = _middle(ordered, starts[weakest - 1], starts[weakest])
        for block in range(max(weakest - 1, 1), min(weakest + 1, n)):  # the steps on either side of the joined block
            scores[block] = _significance(levels, variance_sums, starts, block)
    return starts[: n + 1]


@numba.njit(cache=True, nogil=True)
def _place_step(series, start, stop, low, high):  # pragma: no cover - compiled
    """Row between ``start`` and ``stop`` at which a step from one known level to another fits best.

    The gain of assigning rows to the lower level is summed from ``start``, and the step is where the sum is highest.
    Only chunks of rows that may hold the step are summed row by row.
    """
    middle, per_height = 0.5 * (low + high), 1.0 / (high - low)
    near = series[start : min(stop, len(series))]
    n_chunks = (len(near) + _CHUNK_ROWS - 1) // _CHUNK_ROWS
    sums, rises = np.empty(n_chunks), np.empty(n_chunks)
    total, surpassed = 0.0, 0.0
    for chunk in range(n_chunks):
        rows = near[chunk * _CHUNK_ROWS : (chunk + 1) * _CHUNK_ROWS]
        sums[chunk], rises[chunk] = _sum_gains(rows, middle, per_height)
        total += sums[chunk]
        surpassed = max(surpassed, total)
    best, best_row, total = 0.0, start, 0.0
    for chunk in range(n_chunks):
        if total + rises[chunk] > surpassed - 2 * _TIE:
            running = total
            for row in range(chunk * _CHUNK_ROWS, min((chunk + 1) * _CHUNK_ROWS, len(near))):
                running += _gain(near[row], middle, per_height)
                if running > best + _TIE:
                    best, best_row = running, start + row + 1
        total += sums[chunk]
    return best_row


@numba.njit(cache=True, nogil=True, inline="always")
def _gain(value, middle, per_height):  # pragma: no cover - compiled
    """Gain of assigning a row to the lower level, limited so that a cosmic ray cannot move the step."""
    return min(max((middle - value) * per_height, -1.0), 1.0)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_gains(values, middle, per_height):  # pragma: no cover - compiled
    """Sum of the gains, and of the positive ones: an upper limit of any partial sum."""
    total, rise = 0.0, 0.0
    for row in range(len(values)):
        gain = _gain(values[row], middle, per_height)
        total += gain
        rise += max(gain, 0.0)
    return total, rise
