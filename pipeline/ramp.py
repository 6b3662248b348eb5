"""The first transit after the shutter opens, and the last after it closes.

First the sky rises from 0 to full, and every streak begins at its own row; at the end all of this runs backwards.
Neither is an event. Both are fitted here and handed to the calibration as a deficit: what their rows lack against the
steady state.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from scipy.ndimage import convolve1d, uniform_filter1d

from shutterless.pipeline.onsets import BIN_ROWS, SAME_ONSET_COLUMNS, bin_means, find_onsets
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.readout import Readout

SETTLE_ROWS = 2048  # rows after the ramp that show the final level, of streaks that begin late above all
MASK_ROWS = 6  # on either side of an onset: the row smear of the PSF and the uncertainty of the row
MIN_LEVEL_ROWS = 3 * BIN_ROWS  # between two onsets; less is masked, for no level can be given
DOUBTFUL_ROWS = 3 * BIN_ROWS  # next to an onset or an end of the file, where a step may go unseen
MAX_DOUBT_SIGMA = 4.0  # what a wrong level may leave there before those rows are masked


@dataclass(frozen=True)
class Ramp:
    """What the rows of the ramp lack, and where streaks begin.

    Parameters
    ----------
    deficit_e : ndarray of float32, shape (r, x)
        What ``r`` rows have above the steady state (electrons): a mostly negative offset.
    onset_mask : ndarray of bool, shape (r, x)
        True where a streak is just beginning and no level can be given.
    sky_e : float
        Sky electrons per pixel of a full transit.
    onset_x, onset_row, onset_e : ndarray, shape (m,)
        Column, file row and electrons per row of each streak that begins here, brightest first. Of one that is seen
        to end: the row in which its star's light would have come out had the shutter opened in row 0 of the sequence.
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
        """Which of the rows ``start..stop`` are covered, counted from ``start``, and which of its own these are."""
        first, last = max(start, self.start), max(min(stop, self.start + self.n_rows), start)
        first = min(first, last)
        return slice(first - start, last - start), slice(first - self.start, last - self.start)

    def covers(self, start: int, stop: int) -> bool:
        """Whether any of the file rows ``start..stop`` is covered."""
        return start < self.start + self.n_rows and stop > self.start

    def remove(self, electrons: np.ndarray, start: int) -> None:
        """Bring rows from file row ``start`` on to the steady state in place; beginning streaks become NaN."""
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
        Bias-subtracted rows, from the file's first; those past the ramp (`SETTLE_ROWS` of them, say) show streaks that
        begin late.
    first_row : int
        Sequence row of the first of them.
    n_transit : int
        Sequence row at which the ramp ends.
    sigma_px : float
        Width of the point-spread function (pixels).
    read_noise_e : float
    steady_e : ndarray, shape (x,), optional
        Level of each column after the ramp, where the file has enough rows to tell.

    Notes
    -----
    Streaks only ever begin, so the level of a column is a non-decreasing staircase: an isotonic regression in medians
    (pool-adjacent-violators; Barlow et al. 1972) follows it and cannot follow an event, which comes down again.
    """
    fraction = np.clip((first_row + np.arange(len(electrons)) + 1) / n_transit, 0.0, 1.0).astype(np.float32)
    sky_e = _sky_level(electrons, fraction)
    flat = electrons + (sky_e * (1 - fraction))[:, None]
    noise = np.sqrt(read_noise_e**2 + sky_e * fraction)
    x, row, step_e = find_onsets(flat, noise, sigma_px, dark_e=sky_e if first_row <= 0 else None)
    binned = bin_means(flat)
    level, mask = np.empty_like(flat), np.zeros(flat.shape, dtype=bool)
    for column in range(flat.shape[1]):
        breaks = np.unique(row[np.abs(x - column) <= SAME_ONSET_COLUMNS])
        level[:, column] = _staircase(np.ascontiguousarray(binned[:, column]), breaks, len(flat))
        for start, stop in _unknown_rows(breaks, len(flat)):
            mask[start:stop, column] = True
        if steady_e is not None:
            level[breaks[-1] if breaks.size else 0 :, column] = steady_e[column]
    variance = np.maximum(level - (sky_e * (1 - fraction))[:, None], 0) + np.float32(read_noise_e**2)
    _mask_doubtful(
        flat - level,
        variance,
        mask,
        (x, row, step_e),
        sigma_px,
        ends_early=first_row + len(flat) < n_transit + DOUBTFUL_ROWS,
    )
    deficit = level - level[-1] - (sky_e * (1 - fraction))[:, None]
    return Ramp(deficit.astype(np.float32), mask, sky_e, x, row, step_e)


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
    A row read ``c`` rows after the closing has had ``n_transit - c`` rows' worth of sky, and a star at detector row y0
    is seen for the last time ``y0`` rows after it: ``n_transit - c`` takes the place of the sequence row.
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


def _unknown_rows(breaks: np.ndarray, n_rows: int) -> list[tuple[int, int]]:
    """Rows for which no level can be given: around each onset, and between two that are too close."""
    edges = [(max(int(row) - MASK_ROWS, 0), int(row) + MASK_ROWS + 1) for row in breaks]
    bounds = [0, *(int(row) for row in breaks), n_rows]
    short = [(a, b) for a, b in pairwise(bounds) if b - a < MIN_LEVEL_ROWS]
    return edges + short if breaks.size else []


def _mask_doubtful(
    left: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    onsets: tuple[np.ndarray, np.ndarray, np.ndarray],
    sigma_px: float,
    *,
    ends_early: bool,
) -> None:
    """Mask in place the rows next to onsets and ends of the file where the levels leave too much.

    A streak that begins in the first or last rows of a file, or just beside another's onset, has too few bins to be
    found as a step of its own; nothing there could be told from an event. What is far brighter than the onset beside it
    can: that stays.
    """
    n_rows, n_columns = left.shape
    stretches = [(0, n_columns, 0, DOUBTFUL_ROWS, False, np.inf)]
    if ends_early:
        stretches.append((0, n_columns, n_rows - DOUBTFUL_ROWS, n_rows, True, np.inf))
    for column, onset, height in zip(*onsets, strict=True):
        reach = (max(column - SAME_ONSET_COLUMNS, 0), column + SAME_ONSET_COLUMNS + 1)
        stretches.append((*reach, onset - MASK_ROWS - DOUBTFUL_ROWS, onset - MASK_ROWS, True, height))
        stretches.append((*reach, onset + MASK_ROWS + 1, onset + MASK_ROWS + 1 + DOUBTFUL_ROWS, False, height))
    kernel = pixel_profile(np.arange(-3, 4), sigma_px)
    for first, last, start, stop, backwards, height in stretches:
        window = (slice(max(start, 0), max(min(stop, n_rows), 0)), slice(first, last))
        light = np.where(mask[window], 0, convolve1d(left[window], kernel, axis=1, mode="nearest"))
        noise = np.sqrt(convolve1d(variance[window], kernel**2, axis=1, mode="nearest"))
        smooth = uniform_filter1d(light, 4, axis=0) if len(light) else light
        if np.any(np.abs(smooth) > 2 * height * np.sum(kernel**2) + 2.5 * noise):
            continue  # 2.5 = 5 sigma of a mean of four rows
        score = light / noise
        score = np.cumsum(score[::-1] if backwards else score, axis=0)
        score /= np.sqrt(np.arange(1, len(score) + 1))[:, None]
        mask[window] |= np.any(np.abs(score) > MAX_DOUBT_SIGMA, axis=0)


def _sky_level(electrons: np.ndarray, fraction: np.ndarray) -> float:
    """Sky electrons of a full transit: slope of the emptiest quarter of the columns against the ramp."""
    level = electrons[-512:].mean(axis=0)
    sky_columns = level <= np.quantile(level, 0.25)
    rows = (
        np.median(electrons[:, sky_columns], axis=1)
        if sky_columns.sum() < 16
        else electrons[:, sky_columns].mean(axis=1)
    )
    rising = fraction < 1
    if rising.sum() < 2:
        return 0.0
    slope = np.polyfit(fraction[rising], rows[rising], 1)[0]
    return float(max(slope, 0.0))


@numba.njit(cache=True, nogil=True)
def _staircase(binned, breaks, n_rows):  # pragma: no cover - compiled
    """Level of each row: the median of the whole bins between two breaks."""
    level = np.empty(n_rows, dtype=np.float32)
    for i in range(len(breaks) + 1):
        start = breaks[i - 1] if i else 0
        stop = breaks[i] if i < len(breaks) else n_rows
        first = -(-(start + (MASK_ROWS if start else 0)) // BIN_ROWS)
        last = max((stop - (MASK_ROWS if stop < n_rows else 0)) // BIN_ROWS, first + 1)
        inside = binned[first : min(last, len(binned))]
        if inside.size == 0:
            only = min(start // BIN_ROWS, len(binned) - 1)
            inside = binned[only : only + 1]
        level[start:stop] = np.median(inside)
    return level
