"""Turn ADU into residuals in units of σ: ramp and drain, slow baseline, shared rows, variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from shutterless.pipeline.calibration.electrons import overscan_level, to_electrons, undo_serial_trap
from shutterless.pipeline.calibration.levels.baseline import (
    BASELINE_CLIP_SIGMA,
    BASELINE_WINDOW_S,
    baseline_blocks,
    block_means,
    reject_outliers,
    running_level,
)
from shutterless.pipeline.calibration.levels.ramp import SETTLE_ROWS, Ramp, fit_drain, fit_ramp
from shutterless.pipeline.calibration.serial_trap import noise_gain, photon_gain
from shutterless.pipeline.calibration.trap_strength import measure_strength
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.compiled.half_floats import float_to_half
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.instruments import SerialTrap
from shutterless.pipeline.reading.readout import Readout

CHUNK_ROWS = BLOCK_ROWS  # rows calibrated at a time: 0.8 MB of float32, which stays in the cache
SERIAL_TRAP_ROWS = 2048  # samples of the steady state, in which the strength of the serial trap is measured
_TILE = 32  # columns transposed at a time: with 64 rows they fill 64 bytes of 32 lines
_SKY_STRIDE = 16  # of the columns whose median is the sky level of a row


@dataclass(frozen=True)
class Baseline:
    """Light of an amplifier without events.

    Parameters
    ----------
    level_e : ndarray of float32, shape (b, x)
        Electrons per pixel at the centres of blocks of `BLOCK_ROWS` rows, in the steady state.
    ramps : tuple of Ramp
        Deficits of the rows after the opening and after the closing of the shutter.
    bias_adu : ndarray of float64, shape (t,)
    serial_trap : SerialTrap or None
        With the measured strength.
    """

    level_e: np.ndarray
    ramps: tuple[Ramp, ...]
    bias_adu: np.ndarray
    serial_trap: SerialTrap | None = None


@dataclass(frozen=True)
class ResidualChunk:
    """Calibrated rows ``start`` to ``start + n``.

    ``residual`` is ``(n, x)`` in units of σ with NaN where masked, ``level_e`` and ``sigma_e`` the baseline and the σ
    used, ``row_residual`` ``(n,)`` what all columns share, in units of the median σ, ``median_sigma_e`` ``(n,)``.
    """

    start: int
    residual: np.ndarray
    level_e: np.ndarray
    sigma_e: np.ndarray
    row_residual: np.ndarray
    median_sigma_e: np.ndarray

    def write_to(self, residual: np.ndarray) -> None:
        """Write the residual to its rows of an array of float16, shape (x, t)."""
        stop = self.start + len(self.residual)
        _write_transposed(self.residual, residual[:, self.start : stop].view(np.uint16))


def fit_baseline(frame: Frame) -> Baseline:
    """Fit ramp, onsets and the slow level of every column.

    The level is a running mean of block means without outliers. Cosmic rays and bright events do not move it; a faint
    event moves it by its share of the window. Image motion skews the light of a streak's columns, so that medians would
    make stars 3 % fainter than means.
    """
    bias = overscan_level(frame.overscan_adu, frame.profile.overscan_used)
    steady = frame.readout.steady_rows(len(bias))
    serial_trap = _measure_serial_trap(frame, bias, steady)
    ramps = _fit_ramps(frame, bias, serial_trap, steady)
    means, ramped = [], []
    for rows in _chunks(0, len(bias)):
        covered = [ramp for ramp in ramps if ramp.covers(rows.start, rows.stop)]
        electrons = to_electrons(frame.pixels_adu[rows], bias[rows], frame)
        if covered:
            undo_serial_trap(electrons, serial_trap, _within(steady, rows))
        for ramp in covered:
            ramp.remove(electrons, rows.start)
        means.append(block_means(electrons, BLOCK_ROWS, frame.readout.read_noise_e, BASELINE_CLIP_SIGMA))
        ramped += [bool(covered)] * len(means[-1])
    blocks, steady_blocks = np.concatenate(means), ~np.array(ramped)
    # 64 times fewer pixels; the trap's curvature over their noise is 0.02 electrons
    whole = blocks[steady_blocks]
    undo_serial_trap(whole, serial_trap, slice(0, len(whole)))
    blocks[steady_blocks] = whole
    window = baseline_blocks(frame.readout)
    level = running_level(reject_outliers(blocks, window), window)
    return Baseline(level, ramps, bias, serial_trap)


def _chunks(start: int, stop: int) -> Iterator[slice]:
    """Slices of `CHUNK_ROWS` rows from ``start`` to ``stop``."""
    for first in range(start, stop, CHUNK_ROWS):
        yield slice(first, min(first + CHUNK_ROWS, stop))


def _within(steady: slice, rows: slice) -> slice:
    """Steady part of some rows, counted from their first."""
    start = min(max(steady.start, rows.start), rows.stop)
    return slice(start - rows.start, min(max(steady.stop, start), rows.stop) - rows.start)


def _measure_serial_trap(frame: Frame, bias: np.ndarray, steady: slice) -> SerialTrap | None:
    effect, rows = frame.profile.serial_trap, slice(steady.start, min(steady.stop, steady.start + SERIAL_TRAP_ROWS))
    if effect is None or rows.stop <= rows.start:
        return None
    strength = measure_strength(to_electrons(frame.pixels_adu[rows], bias[rows], frame), effect)
    return effect.scaled(strength) if strength > 0 else None


def _fit_ramps(frame: Frame, bias: np.ndarray, serial_trap: SerialTrap | None, steady: slice) -> tuple[Ramp, ...]:
    """Fit the ramp of the first rows and the drain of the last, where the file has them."""
    readout, n_rows, first_row = frame.readout, len(bias), frame.readout.first_row or 0
    window = max(readout.rows_of(BASELINE_WINDOW_S), SETTLE_ROWS)
    ramps = []
    if steady.start > 0:
        rows = slice(0, min(steady.start + SETTLE_ROWS, n_rows))
        level = _steady_level(frame, bias, serial_trap, slice(steady.start, min(steady.start + window, steady.stop)))
        electrons = _whole_electrons(frame, bias, serial_trap, steady, rows)
        optics = (readout.n_transit, readout.psf_sigma_px, readout.read_noise_e)
        ramps.append(fit_ramp(electrons, first_row, *optics, level))
    if steady.stop < n_rows:
        covered = ramps[0].n_rows if ramps else 0
        rows = slice(max(steady.stop - SETTLE_ROWS, covered), n_rows)
        level = _steady_level(frame, bias, serial_trap, slice(max(steady.stop - window, steady.start), steady.stop))
        electrons = _whole_electrons(frame, bias, serial_trap, steady, rows)
        closed_rows = n_rows - ((readout.close_row or 0) - first_row)
        ramps.append(fit_drain(electrons, closed_rows, rows.start, readout, level))
    return tuple(ramps)


def _steady_level(frame: Frame, bias: np.ndarray, serial_trap: SerialTrap | None, rows: slice) -> np.ndarray | None:
    """Level of each column in the steady state (electrons); None where the file has too little of it."""
    if rows.stop - rows.start < SETTLE_ROWS:
        return None
    blocks = []
    for block in _chunks(rows.start, rows.stop):
        electrons = to_electrons(frame.pixels_adu[block], bias[block], frame)
        blocks.append(block_means(electrons, BLOCK_ROWS, frame.readout.read_noise_e, BASELINE_CLIP_SIGMA))
    means = np.concatenate(blocks)
    undo_serial_trap(means, serial_trap, slice(0, len(means)))
    return np.nanmean(reject_outliers(means, baseline_blocks(frame.readout)), axis=0)


def _whole_electrons(
    frame: Frame, bias: np.ndarray, serial_trap: SerialTrap | None, steady: slice, rows: slice
) -> np.ndarray:
    """Electrons of some rows; masked pixels repeat the row before, so that a dropped row makes no step."""
    electrons = to_electrons(frame.pixels_adu[rows], bias[rows], frame)
    for row in np.flatnonzero(np.isnan(electrons).any(axis=1)):
        before = electrons[row - 1] if row else np.zeros(electrons.shape[1], dtype=electrons.dtype)
        electrons[row] = np.where(np.isnan(electrons[row]), before, electrons[row])
    undo_serial_trap(electrons, serial_trap, _within(steady, rows))
    return electrons


def noise_floor_e2(readout: Readout) -> float:
    """Variance of a pixel without light (electrons²): read noise, and rounding to whole ADU."""
    return readout.read_noise_e**2 + readout.gain_e_per_adu**2 / 12


def iterate_residuals(frame: Frame, baseline: Baseline, *, shared_rows: bool = True) -> Iterator[ResidualChunk]:
    """Calibrate an amplifier chunk by chunk, in row order.

    Parameters
    ----------
    frame : Frame
    baseline : Baseline
    shared_rows : bool
        Whether to subtract the offset that all columns of a row share.

    Yields
    ------
    ResidualChunk

    Notes
    -----
    The variance is that of the baseline's photons plus read noise and digitisation: ``V = max(b, 0) + RN² +
    gain²/12``. Photons of the data themselves would favour downward fluctuations. Undoing the serial trap enlarges the
    last two terms (`noise_gain`). The shared offset of a row is the clipped mean of its columns weighted by ``1/V``:
    all 3,072 columns share pickup, but no light.
    """
    steady = frame.readout.steady_rows(len(frame.pixels_adu))
    floor_e2 = noise_floor_e2(frame.readout)
    clip = np.float32(BASELINE_CLIP_SIGMA if shared_rows else 0.0)
    for rows in _chunks(0, len(frame.pixels_adu)):
        bright = _within(steady, rows)
        residual = to_electrons(frame.pixels_adu[rows], baseline.bias_adu[rows], frame)
        undo_serial_trap(residual, baseline.serial_trap, bright)
        level = interpolate_blocks(baseline.level_e, rows.start, rows.stop)
        for ramp in baseline.ramps:
            here, own = ramp.overlap(rows.start, rows.stop)
            level[here] += ramp.deficit_e[own]
            residual[here][ramp.onset_mask[own]] = np.nan
        electronic_e2, photon_share = _variance_terms(level, floor_e2, baseline.serial_trap, bright)
        sigma = np.empty_like(level)
        shared = _standardise(residual, level, sigma, electronic_e2, photon_share, clip)
        typical = _row_medians(sigma, bright)
        yield ResidualChunk(rows.start, residual, level, sigma, shared / typical, typical)


def _variance_terms(
    level_e: np.ndarray, floor_e2: float, serial_trap: SerialTrap | None, bright: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each row without light (electrons²), and the variance that a photon adds, both float32, (t,).

    Undoing the serial trap enlarged the read noise of steady rows. In the other rows the trap smoothed the photons.
    """
    electronic_e2 = np.full(len(level_e), floor_e2, dtype=np.float32)
    photon_share = np.ones(len(level_e), dtype=np.float32)
    if serial_trap is not None:
        sky = _row_medians(level_e, bright)
        if bright.stop > bright.start:
            electronic_e2[bright] *= np.float32(noise_gain(float(sky[bright.start]), serial_trap))
        for dim in (slice(0, bright.start), slice(bright.stop, len(level_e))):
            photon_share[dim] = photon_gain(np.maximum(sky[dim], 1.0), serial_trap)
    return electronic_e2, photon_share


def _row_medians(values: np.ndarray, steady: slice) -> np.ndarray:
    """Median over columns of each row, (t,); all steady rows of a chunk get that of one, as they differ very little."""
    medians = np.empty(len(values), dtype=np.float32)
    if steady.stop > steady.start:
        medians[steady] = np.median(values[(steady.start + steady.stop) // 2, ::_SKY_STRIDE])
    for others in (slice(0, steady.start), slice(steady.stop, len(values))):
        if others.stop > others.start:
            medians[others] = np.median(values[others, ::_SKY_STRIDE], axis=1)
    return medians


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _standardise(residual, level, sigma, electronic_e2, photon_share, clip):  # pragma: no cover - compiled
    """Subtract the level and each row's clipped weighted mean, and divide by sigma, in place.

    Fills ``sigma`` and returns the means (t,) in electrons.
    """
    n_rows, n_columns = residual.shape
    shared = np.empty(n_rows, dtype=np.float32)
    weight = np.empty(n_columns, dtype=np.float32)
    for row in range(n_rows):
        values, sigmas = residual[row], sigma[row]
        _subtract_level(values, level[row], electronic_e2[row], photon_share[row], sigmas, weight)
        centre = np.float32(0)
        for _ in range(3):
            total, weights = _clipped_sums(values, sigmas, weight, centre, clip)
            centre = total / weights if weights > 0 else centre
        shared[row] = centre
        for column in range(n_columns):
            values[column] = (values[column] - centre) / sigmas[column]
    return shared


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _subtract_level(values, level, electronic_e2, photon_share, sigma, weight):  # pragma: no cover - compiled
    for column in range(len(values)):
        light = level[column]
        values[column] -= light
        variance = photon_share * (light if light > 0 else np.float32(0)) + electronic_e2
        sigma[column] = np.sqrt(variance)
        weight[column] = np.float32(1) / variance


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _clipped_sums(values, sigma, weight, centre, clip):  # pragma: no cover - compiled
    """Weighted sum of the values within ``clip`` sigma of a centre, and sum of their weights; NaN are left out."""
    total, weights = np.float32(0), np.float32(0)
    for column in range(len(values)):
        inside = abs(values[column] - centre) <= clip * sigma[column]
        total += weight[column] * values[column] if inside else np.float32(0)
        weights += weight[column] if inside else np.float32(0)
    return total, weights


@numba.njit(cache=True, nogil=True)
def _write_transposed(rows, columns):  # pragma: no cover - compiled
    """Write rows (t, x) of float32 as columns (x, t) of float16 bits."""
    n_rows, n_columns = rows.shape
    halves = np.empty((n_rows, _TILE), dtype=np.uint16)
    for first in range(0, n_columns, _TILE):
        n = min(_TILE, n_columns - first)
        for row in range(n_rows):
            values, bits = rows[row, first : first + n], halves[row]
            for k in range(n):
                bits[k] = float_to_half(values[k])
        for k in range(n):
            column = columns[first + k]
            for row in range(n_rows):
                column[row] = halves[row, k]
