"""Fit the first transit after the shutter opens, the ramp, and the last after it closes, the drain.

In the ramp the sky rises from 0 to full, and every streak begins at its own row. The drain is the same backwards.
Neither is an event. Both are returned as a deficit: the level of their rows minus the steady state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from shutterless.pipeline.calibration.levels.onsets import BIN_ROWS, SAME_ONSET_COLUMNS, bin_means, find_onsets
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

# all in rows, whatever the row rate: places on the detector, or samples of which a level is the mean
SETTLE_ROWS = 2048  # rows after the ramp that show the final level, above all that of streaks that begin late
MASK_ROWS = 6  # on either side of an onset: the row smear of the PSF and the uncertainty of the row
MIN_LEVEL_ROWS = 3 * BIN_ROWS  # between two onsets; fewer do not give a level and are masked
DOUBTFUL_ROWS = 3 * BIN_ROWS  # next to an onset or an end of the file, where a step may be missed
MAX_DOUBT_SIGMA = 4.0  # residual light in doubtful rows, above which they are masked
PSF_REACH = 3  # columns to either side whose light is summed in doubtful rows

_Onsets = tuple[np.ndarray, np.ndarray, np.ndarray]  # columns, rows and electrons per row


@dataclass(frozen=True)
class Ramp:
    """Deficit of the rows of a ramp or drain, and the onsets of its streaks.

    Parameters
    ----------
    deficit_e : ndarray of float32, shape (r, x)
        Level of ``r`` rows minus the steady state (electrons); mostly negative.
    onset_mask : ndarray of bool, shape (r, x)
        True where a streak is just beginning and its level is unknown.
    sky_e : float
        Sky electrons per pixel of a full transit.
    onset_x, onset_row, onset_e : ndarray, shape (m,)
        Column, file row and electrons per row of each streak that begins here, brightest first. In a drain, where
        streaks end, the row is that of their onset if the shutter had opened in row 0 of the sequence.
    start : int
        First file row covered.
    """

    deficit_e: np.ndarray
    onset_mask: np.ndarray
    sky_e: float
    onset_x: np.ndarray
    onset_row: np.ndarray
    onset_e: np.ndarray
    start: int = 0

    @property
    def n_rows(self) -> int:
        """Rows covered."""
        return len(self.deficit_e)

    def overlap(self, start: int, stop: int) -> tuple[slice, slice]:
        """Covered part of the file rows ``start..stop``, counted from ``start`` and from the ramp's first row."""
        first, last = max(start, self.start), max(min(stop, self.start + self.n_rows), start)
        first = min(first, last)
        return slice(first - start, last - start), slice(first - self.start, last - self.start)

    def covers(self, start: int, stop: int) -> bool:
        """Whether any of the file rows ``start..stop`` is covered."""
        return start < self.start + self.n_rows and stop > self.start

    def remove(self, electrons: np.ndarray, start: int) -> None:
        """Subtract the deficit from rows from file row ``start`` on, in place; beginning streaks become NaN."""
        here, own = self.overlap(start, start + len(electrons))
        electrons[here] -= self.deficit_e[own]
        electrons[here][self.onset_mask[own]] = np.nan


def fit_ramp(
    electrons: np.ndarray,
    first_row: int,
    n_transit: int,
    sigma_px: float,
    read_noise_e: float,
    steady_e: np.ndarray | None = None,
) -> Ramp:
    """Fit sky ramp and streak onsets of an amplifier's first rows.

    Parameters
    ----------
    electrons : ndarray of float32, shape (r, x)
        Bias-subtracted rows from the file's first on, with some after the ramp, such as `SETTLE_ROWS`, for streaks that
        begin late.
    first_row : int
        Sequence row of the first row.
    n_transit : int
        Sequence row at which the ramp ends.
    sigma_px : float
        Width of the point-spread function (pixels).
    read_noise_e : float
    steady_e : ndarray, shape (x,), optional
        Level of each column after the ramp, if the file has enough rows to measure it.

    Notes
    -----
    Streaks only begin, so the level of a column is a non-decreasing staircase. An isotonic regression in medians
    (pool-adjacent-violators; Barlow et al. 1972) follows it, but no event, whose light decreases again.
    """
    electrons = np.ascontiguousarray(electrons, dtype=np.float32)
    fraction = np.clip((first_row + np.arange(len(electrons)) + 1) / n_transit, 0.0, 1.0).astype(np.float32)
    sky_e = _sky_level(electrons, fraction)
    lift = sky_e * (1 - fraction)  # sky that each row lacks
    noise = np.sqrt(read_noise_e**2 + sky_e * fraction)
    onsets = find_onsets(electrons, noise, sigma_px, dark_e=sky_e if first_row <= 0 else None, lift=lift)
    deficit, mask, final_e = _fit_levels(electrons, lift, onsets, steady_e)
    ends_early = first_row + len(electrons) < n_transit + DOUBTFUL_ROWS
    segments, brightness = _doubtful_segments(electrons.shape, onsets, ends_early=ends_early)
    kernel = pixel_profile(np.arange(-PSF_REACH, PSF_REACH + 1), sigma_px).astype(np.float32)
    _mask_doubtful(electrons, deficit, final_e, np.float32(read_noise_e**2), segments, brightness, kernel, mask)
    return Ramp(deficit, mask, sky_e, *onsets)


def fit_drain(
    electrons: np.ndarray, closed_rows: int, start: int, readout: Readout, steady_e: np.ndarray | None = None
) -> Ramp:
    """Fit the rows around and after the closing of the shutter: `fit_ramp` with time reversed.

    Parameters
    ----------
    electrons : ndarray of float32, shape (r, x)
        The file's last rows, with some before the closing that show the steady state.
    closed_rows : int
        Rows read between the closing and the file's end.
    start : int
        File row of the first of ``electrons``.
    readout : Readout
        With ``close_row``.
    steady_e
        As `fit_ramp`.

    Returns
    -------
    Ramp

    Notes
    -----
    A row read ``c`` rows after the closing has the sky of ``n_transit - c`` rows, and a star at detector row y0 appears
    for the last time ``y0`` rows after the closing. So ``n_transit - c`` takes the place of the sequence row.
    """
    optics = (readout.n_transit, readout.psf_sigma_px, readout.read_noise_e)
    back = fit_ramp(electrons[::-1], readout.n_transit - closed_rows, *optics, steady_e)
    ends = start + len(electrons) - back.onset_row
    return Ramp(
        deficit_e=back.deficit_e[::-1],
        onset_mask=back.onset_mask[::-1],
        sky_e=back.sky_e,
        onset_x=back.onset_x,
        onset_row=ends - (readout.close_row or 0),
        onset_e=back.onset_e,
        start=start,
    )


def _sky_level(electrons: np.ndarray, fraction: np.ndarray) -> float:
    """Sky electrons of a full transit: slope of the emptiest quarter of the columns against the ramp."""
    level = electrons[-512:].mean(axis=0)
    sky_columns = np.flatnonzero(level <= np.quantile(level, 0.25))
    n_rising = int(np.sum(fraction < 1))  # the first rows
    if n_rising < 2:
        return 0.0
    middle = np.median if sky_columns.size < 16 else np.mean
    parts = (electrons[start : min(start + BLOCK_ROWS, n_rising)] for start in range(0, n_rising, BLOCK_ROWS))
    rows = np.concatenate([middle(part[:, sky_columns], axis=1) for part in parts])
    return float(max(np.polyfit(fraction[:n_rising], rows, 1)[0], 0.0))


def _fit_levels(
    electrons: np.ndarray, lift: np.ndarray, onsets: _Onsets, steady_e: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deficit (r, x) in electrons, mask (r, x) of rows without a level, and the level (x,) of the last row."""
    x, row, _ = onsets
    order = np.argsort(x, kind="stable")
    binned = np.ascontiguousarray(bin_means(electrons, lift).T)
    steady = np.empty(0) if steady_e is None else steady_e
    mask = np.zeros(electrons.shape, dtype=bool)
    starts, columns, levels, final_e = _column_pieces(binned, x[order], row[order], steady.astype(np.float32), mask)
    deficit = np.empty(electrons.shape, dtype=np.float32)
    _write_deficit(starts, columns, levels, final_e, lift, deficit)
    return deficit, mask, final_e


@numba.njit(cache=True, nogil=True)
def _column_pieces(binned, x, row, steady_e, mask):  # pragma: no cover - compiled
    """First row, column and level of every piece of the staircases, and the level of the last row (x,).

    ``x`` and ``row`` of the onsets are sorted by x. Also fills ``mask``.
    """
    n_rows, n_columns = mask.shape
    pieces = [(0, 0, np.float32(0)) for _ in range(0)]
    final_e = np.empty(n_columns, dtype=np.float32)
    for column in range(n_columns):
        first, last = np.searchsorted(x, np.array([column - SAME_ONSET_COLUMNS, column + SAME_ONSET_COLUMNS + 1]))
        breaks = np.unique(row[first:last])
        level = _piece_levels(binned[column], breaks, n_rows)
        if len(steady_e):
            level[-1] = steady_e[column]
        for i in range(len(level)):
            start = breaks[i - 1] if i else 0
            if start < n_rows:
                pieces.append((start, column, level[i]))
                final_e[column] = level[i]
        for start, stop in _unknown_rows(breaks, n_rows):
            mask[start:stop, column] = True
    starts, columns = np.array([piece[0] for piece in pieces]), np.array([piece[1] for piece in pieces])
    return starts, columns, np.array([piece[2] for piece in pieces]), final_e


@numba.njit(cache=True, nogil=True)
def _piece_levels(binned, breaks, n_rows):  # pragma: no cover - compiled
    """Level of each piece of a staircase: the median of the whole bins between two breaks."""
    levels = np.empty(len(breaks) + 1, dtype=np.float32)
    for i in range(len(breaks) + 1):
        start = breaks[i - 1] if i else 0
        stop = breaks[i] if i < len(breaks) else n_rows
        first = -(-(start + (MASK_ROWS if start else 0)) // BIN_ROWS)
        last = max((stop - (MASK_ROWS if stop < n_rows else 0)) // BIN_ROWS, first + 1)
        inside = binned[first : min(last, len(binned))]
        if inside.size == 0:
            only = min(start // BIN_ROWS, len(binned) - 1)
            inside = binned[only : only + 1]
        levels[i] = np.median(inside)
    return levels


@numba.njit(cache=True, nogil=True)
def _unknown_rows(breaks, n_rows):  # pragma: no cover - compiled
    """Rows of unknown level: around each onset, and between two that are too close."""
    segments = [(max(row - MASK_ROWS, 0), row + MASK_ROWS + 1) for row in breaks]
    for i in range(len(breaks) + 1 if len(breaks) else 0):
        start = breaks[i - 1] if i else 0
        stop = breaks[i] if i < len(breaks) else n_rows
        if stop - start < MIN_LEVEL_ROWS:
            segments.append((start, stop))
    return segments


@numba.njit(cache=True, nogil=True)
def _write_deficit(starts, columns, levels, final_e, lift, deficit):  # pragma: no cover - compiled
    """Write each row's level minus the last row's, and minus the missing sky, to ``deficit`` (r, x), row by row."""
    n_rows, n_columns = deficit.shape
    order = np.argsort(starts, kind="mergesort")
    step = np.zeros(n_columns, dtype=np.float32)
    place = 0
    for row in range(n_rows):
        while place < len(order) and starts[order[place]] == row:
            column = columns[order[place]]
            step[column] = levels[order[place]] - final_e[column]
            place += 1
        line = deficit[row]
        for column in range(n_columns):
            line[column] = step[column] - lift[row]


def _doubtful_segments(shape: tuple[int, ...], onsets: _Onsets, *, ends_early: bool) -> tuple[np.ndarray, np.ndarray]:
    """Segments next to the ends of the file and to onsets, where a step may have been missed.

    Each is (first column, column after the last, first row, row after the last, 1 if rows count backwards), together
    (m, 5). Also returned: electrons per row of the onset beside each (m,), infinite at an end of the file.
    """
    (n_rows, n_columns), (x, row, step_e) = shape, onsets
    ends = [(0, n_columns, 0, DOUBTFUL_ROWS, 0), (0, n_columns, n_rows - DOUBTFUL_ROWS, n_rows, 1)]
    ends = ends if ends_early else ends[:1]
    first, last = x - SAME_ONSET_COLUMNS, x + SAME_ONSET_COLUMNS + 1
    below, above = row - MASK_ROWS, row + MASK_ROWS + 1
    before = np.stack([first, last, below - DOUBTFUL_ROWS, below, np.ones_like(x)], axis=1)
    after = np.stack([first, last, above, above + DOUBTFUL_ROWS, np.zeros_like(x)], axis=1)
    segments = np.concatenate([ends, np.stack([before, after], axis=1).reshape(-1, 5)])
    segments[:, :2] = np.clip(segments[:, :2], 0, n_columns)
    segments[:, 2:4] = np.clip(segments[:, 2:4], 0, n_rows)
    brightness = np.concatenate([np.full(len(ends), np.inf), np.repeat(step_e, 2)])
    some = segments[:, 3] > segments[:, 2]
    return segments[some], brightness[some]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mask_doubtful(electrons, deficit, final_e, floor_e2, segments, brightness, kernel, mask):  # pragma: no cover
    """Mask in place the rows next to onsets and ends of the file where too much light remains.

    A streak that begins in the first or last rows of a file, or just beside another onset, has too few bins to be found
    as a step, and looks like an event. Light far brighter than the onset beside it is an event and stays.
    """
    limits = MAX_DOUBT_SIGMA * np.sqrt(np.arange(1, DOUBTFUL_ROWS + 1))
    for number in range(len(segments)):
        first, last, start, stop, backwards = segments[number]
        bright = np.float32(2 * brightness[number] * np.sum(kernel**2))
        light, noise = _filter_segment(electrons, deficit, final_e, floor_e2, mask, segments[number], kernel)
        n_bright = 0
        for k in range(last - first):
            n_bright += _count_bright(light[k], noise[k], bright)
        for k in range(last - first if n_bright == 0 else 0):
            if _is_doubtful(light[k], noise[k], limits, backwards):
                mask[start:stop, first + k] = True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _filter_segment(electrons, deficit, final_e, floor_e2, mask, segment, kernel):  # pragma: no cover - compiled
    """Light of a segment minus its levels, filtered along x, and its noise, both (x, r)."""
    first, last, start, stop, _ = segment
    n_columns, n_rows = last - first, stop - start
    left = np.empty((n_columns + 2 * PSF_REACH, n_rows), dtype=np.float32)
    variance = np.empty_like(left)
    for k in range(len(left)):
        column = min(max(first + k - PSF_REACH, first), last - 1)
        for row in range(n_rows):
            level = deficit[start + row, column] + final_e[column]
            left[k, row] = electrons[start + row, column] - level
            variance[k, row] = max(level, np.float32(0)) + floor_e2
    light, noise = np.empty_like(left[:n_columns]), np.empty_like(left[:n_columns])
    squares = kernel**2
    for k in range(n_columns):
        _add_taps(left, k, kernel, light[k])
        _add_taps(variance, k, squares, noise[k])
        for row in range(n_rows):
            noise[k, row] = np.sqrt(noise[k, row])
            light[k, row] = np.float32(0) if mask[start + row, first + k] else light[k, row]
    return light, noise


@numba.njit(cache=True, nogil=True)
def _add_taps(values, first, kernel, total):  # pragma: no cover - compiled
    """Write the weighted sum of seven lines from ``first`` on to ``total``."""
    a, b, c, d = values[first], values[first + 1], values[first + 2], values[first + 3]
    e, f, g = values[first + 4], values[first + 5], values[first + 6]
    for i in range(len(total)):
        sides = kernel[0] * (a[i] + g[i]) + kernel[1] * (b[i] + f[i]) + kernel[2] * (c[i] + e[i])
        total[i] = sides + kernel[3] * d[i]


@numba.njit(cache=True, nogil=True)
def _count_bright(light, noise, limit):  # pragma: no cover - compiled
    """Count rows whose mean with three neighbours is far brighter than ``limit``; rows are mirrored at the ends."""
    n = len(light)
    mirrored = np.empty(n + 3, dtype=np.float32)
    for i in range(n + 3):
        row = i - 2 if i >= 2 else 1 - i
        mirrored[i] = light[min(row, n - 1)]
    count = 0
    for i in range(n):
        mean = (mirrored[i] + mirrored[i + 1] + mirrored[i + 2] + mirrored[i + 3]) * np.float32(0.25)
        count += abs(mean) > limit + np.float32(2.5) * noise[i]  # 2.5 = 5 sigma of a mean of four rows
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _is_doubtful(light, noise, limits, backwards):  # pragma: no cover - compiled
    """Whether the light summed from one end of a segment is ever significant."""
    total, n = np.float32(0), len(light)
    for i in range(n):
        row = n - 1 - i if backwards else i
        total += light[row] / noise[row]
        if abs(total) > limits[i]:
            return True
    return False
