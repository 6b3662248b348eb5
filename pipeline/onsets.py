"""Where streaks begin: significant upward steps of columns whose light only ever grows, placed to the row."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.psf import pixel_profile

BIN_ROWS = 16  # steps are searched in means of this many rows, then placed to the row
DARK_ROWS = 64  # rows put before sequence row 0, when the shutter was closed and no light fell
MIN_STEP_SIGNIFICANCE = 2.5  # fainter steps are lost in the noise of any box; false ones cost 1 % of the ramp
SAME_ONSET_COLUMNS = 4  # one star's step is seen in this many columns to either side


def bin_means(rows: np.ndarray) -> np.ndarray:
    """Means of `BIN_ROWS` rows along axis 0; a shorter last bin keeps its own mean."""
    starts = np.arange(0, len(rows), BIN_ROWS)
    counts = np.diff(np.append(starts, len(rows)))
    return np.add.reduceat(rows, starts, axis=0) / counts[:, None].astype(np.float32)


def find_onsets(
    flat: np.ndarray, noise: np.ndarray, sigma_px: float, dark_e: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows and heights (electrons per row) of the streaks that begin, each once, highest first.

    ``noise`` is the background noise of each row (electrons). Rows at the level ``dark_e`` are put before the first,
    so that a streak which begins in the first rows is seen to begin.
    """
    n_dark = 0
    if dark_e is not None:
        n_dark = DARK_ROWS
        flat = np.concatenate([np.full((n_dark, flat.shape[1]), dark_e, dtype=np.float32), flat])
        noise = np.concatenate([np.full(n_dark, noise[0]), noise])
    kernel = pixel_profile(np.arange(-3, 4), sigma_px)
    kernel /= np.sum(kernel**2)
    padded = np.pad(flat, ((0, 0), (3, 3)), mode="edge")
    flux = np.zeros_like(flat)
    for offset, weight in enumerate(kernel):
        flux += np.float32(weight) * padded[:, offset : offset + flat.shape[1]]
    variance = bin_means((noise**2)[:, None])[:, 0]
    columns = np.ascontiguousarray(bin_means(flux).T)
    x, row, height, score, spread = _column_steps(
        np.ascontiguousarray(flux.T), columns, variance, MIN_STEP_SIGNIFICANCE
    )
    strongest = np.argsort(-score, kind="stable")
    accepted, highest = _merge_steps(x[strongest], row[strongest], height[strongest], spread[strongest])
    accepted, highest = strongest[accepted], strongest[highest]
    order = np.argsort(-height[highest], kind="stable")
    return x[highest[order]], np.maximum(row[accepted[order]] - n_dark, 0), height[highest[order]]


@numba.njit(cache=True, nogil=True)
def _merge_steps(x, row, height, spread):  # pragma: no cover - compiled
    """Steps of one star each, strongest first, and for each the highest of those joined to it: in the star's column."""
    accepted, highest = np.empty(len(x), np.int64), np.empty(len(x), np.int64)
    n = 0
    for index in range(len(x)):
        same = -1
        for k in range(n):
            other = accepted[k]
            near = abs(x[other] - x[index]) <= SAME_ONSET_COLUMNS
            if near and abs(row[other] - row[index]) <= spread[index]:
                same = k
                break
        if same < 0:
            accepted[n] = highest[n] = index
            n += 1
        elif height[index] > height[highest[same]]:
            highest[same] = index
    return accepted[:n], highest[:n]


@numba.njit(cache=True, nogil=True)
def _column_steps(flux, binned, variance, min_significance):  # pragma: no cover - compiled
    """Significant upward steps of every column: column, row, height, significance, uncertainty of the row (rows).

    ``binned`` (x, n) holds means of bins of rows, ``variance`` (n,) how their variance runs along the column.
    """
    steps = [(0, 0, 0.0, 0.0, 0.0)]  # the first entry tells the compiler the type
    for column in range(len(flux)):
        scale = _noise_scale(binned[column], variance)
        if scale <= 0:
            continue
        starts = _isotonic_starts(binned[column])
        starts = _merge_insignificant(binned[column], variance * scale**2, starts, min_significance)
        rows = starts * BIN_ROWS
        for _ in range(2):  # levels say where a step is, and its place what the levels are
            for block in range(1, len(starts) - 1):
                low = np.median(binned[column, starts[block - 1] : starts[block]])
                high = np.median(binned[column, starts[block] : starts[block + 1]])
                if high > low:
                    rows[block] = _place_step(flux[column], rows[block - 1], rows[block + 1], low, high)
                nearest = int(np.round(rows[block] / BIN_ROWS))
                starts[block] = min(max(nearest, starts[block - 1] + 1), starts[block + 1] - 1)
        for block in range(1, len(starts) - 1):
            low = np.median(binned[column, starts[block - 1] : starts[block]])
            high = np.median(binned[column, starts[block] : starts[block + 1]])
            if high <= low:
                continue
            row, score = rows[block], _significance(binned[column], variance * scale**2, starts, block)
            row_noise = scale * np.sqrt(variance[starts[block]] * BIN_ROWS)
            spread = min(3.0 + 10.0 * (row_noise / (high - low)) ** 2, 1.0 * BIN_ROWS)
            steps.append((column, row, high - low, score, spread))
    found = steps[1:]
    return (
        np.array([step[0] for step in found]),
        np.array([step[1] for step in found]),
        np.array([step[2] for step in found]),
        np.array([step[3] for step in found]),
        np.array([step[4] for step in found]),
    )


@numba.njit(cache=True, nogil=True)
def _noise_scale(values, variance):  # pragma: no cover - compiled
    """Noise of a series over the root of ``variance``, from successive differences, which steps hardly touch."""
    scaled = np.abs(np.diff(values)) / np.sqrt(variance[1:] + variance[:-1])
    return 1.4826 * np.median(scaled)


@numba.njit(cache=True, nogil=True)
def _significance(values, variance, starts, block):  # pragma: no cover - compiled
    """Height of the step before ``block`` over its error (that of two medians); single bins never stand."""
    low, high = values[starts[block - 1] : starts[block]], values[starts[block] : starts[block + 1]]
    if len(low) == 1 or len(high) == 1:
        return 0.0
    error = np.mean(variance[starts[block - 1] : starts[block]]) / len(low)
    error += np.mean(variance[starts[block] : starts[block + 1]]) / len(high)
    return (np.median(high) - np.median(low)) / (1.25 * np.sqrt(error))


@numba.njit(cache=True, nogil=True)
def _isotonic_starts(values):  # pragma: no cover - compiled
    """First indices of the blocks of the isotonic median regression, and the length as the last entry."""
    n = len(values)
    starts = np.empty(n + 1, dtype=np.int64)
    levels = np.empty(n)
    n_blocks = 0
    for i in range(n):
        starts[n_blocks] = i
        levels[n_blocks] = values[i]
        n_blocks += 1
        while n_blocks > 1 and levels[n_blocks - 2] >= levels[n_blocks - 1]:
            n_blocks -= 1
            levels[n_blocks - 1] = np.median(values[starts[n_blocks - 1] : i + 1])
    starts[n_blocks] = n
    return starts[: n_blocks + 1].copy()


@numba.njit(cache=True, nogil=True)
def _merge_insignificant(values, variance, starts, min_significance):  # pragma: no cover - compiled
    """Join neighbouring blocks, least significant step first, until every step stands out."""
    starts = starts.copy()
    scores = np.array([_significance(values, variance, starts, block) for block in range(1, len(starts) - 1)])
    while len(starts) > 2:
        weakest = np.argmin(scores)
        if scores[weakest] >= min_significance:
            break
        starts = np.concatenate((starts[: weakest + 1], starts[weakest + 2 :]))
        scores = np.concatenate((scores[:weakest], scores[weakest + 1 :]))
        for block in (weakest, weakest + 1):  # the steps on either side of the joined block
            if 1 <= block < len(starts) - 1:
                scores[block - 1] = _significance(values, variance, starts, block)
    return starts


@numba.njit(cache=True, nogil=True)
def _place_step(series, start, stop, low, high):  # pragma: no cover - compiled
    """Row between ``start`` and ``stop`` at which a step from one known level to another fits best."""
    middle, height = 0.5 * (low + high), high - low
    best, best_row, total = 0.0, start, 0.0
    for row in range(start, min(stop, len(series))):
        # the gain of row belonging to the lower level, limited so that a cosmic ray cannot drag the step along
        total += min(max((middle - series[row]) / height, -1.0), 1.0)
        if total > best:
            best, best_row = total, row + 1
    return best_row
