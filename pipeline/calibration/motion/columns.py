"""Project and correct the columns of one streak in half precision, compiled.

A residual is passed as ``residual.view(np.uint16)``, shape (x, t); a streak's columns begin at ``first``.
"""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.compiled.half_floats import float_to_half, half_to_float

_CACHED_ROWS = 512  # rows of the sums that fit into the fastest cache while the columns are added
_MAGNITUDE = np.uint16(0x7FFF)
_INFINITE = np.uint16(0x7C00)


def half_bits(residual: np.ndarray) -> np.ndarray:
    """Bits of an array of float16, sharing its memory."""
    return np.asarray(residual).view(np.uint16)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def project_modes(halves, first, estimators, out):  # pragma: no cover - compiled
    """Write the product of estimators (2, w) with the columns of each row, masked ones as 0, to ``out`` (2, t)."""
    n_rows = halves.shape[1]
    for start in range(0, n_rows, _CACHED_ROWS):
        stop = min(start + _CACHED_ROWS, n_rows)
        one, two = out[0, start:stop], out[1, start:stop]
        one[:] = 0
        two[:] = 0
        for k in range(estimators.shape[1]):
            column, e1, e2 = halves[first + k, start:stop], estimators[0, k], estimators[1, k]
            for t in range(stop - start):
                known = (column[t] & _MAGNITUDE) < _INFINITE
                value = half_to_float(np.uint16(column[t] if known else 0))
                one[t] += e1 * value
                two[t] += e2 * value


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def subtract_modes(halves, first, modes, amplitude):  # pragma: no cover - compiled
    """Subtract modes (2, w) times their amplitudes (2, t) from the columns, in place."""
    one, two = amplitude[0], amplitude[1]
    for k in range(modes.shape[1]):
        column, m1, m2 = halves[first + k], modes[0, k], modes[1, k]
        for t in range(halves.shape[1]):
            column[t] = float_to_half(half_to_float(column[t]) - (m1 * one[t] + m2 * two[t]))


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def project_states(halves, first, sigma_e, gain, offset, out):  # pragma: no cover - compiled
    """Multiply a gain (3, w) by the electrons of each row and add an offset (3,); NaN where any column is masked."""
    n_rows = halves.shape[1]
    for block in range((n_rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
        start, stop = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_rows)
        one, two, three = out[0, start:stop], out[1, start:stop], out[2, start:stop]
        one[:], two[:], three[:] = offset[0], offset[1], offset[2]
        for k in range(gain.shape[1]):
            column, sigma = halves[first + k, start:stop], sigma_e[k, block]
            g1, g2, g3 = gain[0, k] * sigma, gain[1, k] * sigma, gain[2, k] * sigma
            for t in range(stop - start):
                value = half_to_float(column[t])
                one[t] += g1 * value
                two[t] += g2 * value
                three[t] += g3 * value


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def gather_rows(halves, first, block, scale, steady, rows):  # pragma: no cover - compiled
    """Write the light of several streaks in one block of rows to ``rows`` (t, w, lane).

    It is ``scale`` (s, w, b) times residual plus ``steady``. Returns the number of rows; empty lanes are not changed.
    """
    start = block * BLOCK_ROWS
    n_rows = min(BLOCK_ROWS, halves.shape[1] - start)
    light = np.empty(BLOCK_ROWS, dtype=np.float32)
    for lane in range(len(first)):
        for k in range(steady.shape[1]):
            column = halves[first[lane] + k, start : start + n_rows]
            factor, level = scale[lane, k, block], steady[lane, k]
            for t in range(n_rows):
                light[t] = half_to_float(column[t]) * factor + level
            for t in range(n_rows):
                rows[t, k, lane] = light[t]
    return n_rows


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def block_averages(light, start, stop, means):  # pragma: no cover - compiled
    """Write the mean of ``light`` (w, t) over rows ``start`` to ``stop`` of each block to ``means`` (b, w).

    A block without such rows gets NaN.
    """
    for k in range(light.shape[0]):
        for block in range(means.shape[0]):
            low, high = max(block * BLOCK_ROWS, start), min((block + 1) * BLOCK_ROWS, stop)
            total, count = np.float32(0), np.float32(0)
            own = light[k, low : max(high, low)]
            for t in range(len(own)):
                value = own[t]
                known = abs(value) < np.float32(np.inf)
                total += value if known else np.float32(0)
                count += np.float32(1) if known else np.float32(0)
            means[block, k] = total / count if count > 0 else np.float32(np.nan)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def subtract_light(halves, first, light, level, sigma_e, start, stop):  # pragma: no cover - compiled
    """Subtract ``light`` (w, t) minus its level, in units of the noise, in rows ``start`` to ``stop``.

    ``level`` (b, w) holds values at block centres and is linear between them, as in `blocks.interpolate_blocks`.
    """
    half, last = BLOCK_ROWS // 2, len(level) - 1
    for k in range(light.shape[0]):
        for piece in range(start // half, (stop + half - 1) // half):
            before = (piece + 1) // 2 - 1
            low, high = level[max(before, 0), k], level[min(before + 1, last), k]
            slope = (high - low) / np.float32(BLOCK_ROWS)
            centre = np.float32((before + 0.5) * BLOCK_ROWS - 0.5)
            inverse = np.float32(1) / sigma_e[k, piece // 2]
            begin, end = max(piece * half, start), min((piece + 1) * half, stop)
            column, own = halves[first + k, begin:end], light[k, begin:end]
            for t in range(end - begin):
                departure = (own[t] - (low + slope * (np.float32(begin + t) - centre))) * inverse
                departure = departure if departure == departure else np.float32(0)
                column[t] = float_to_half(half_to_float(column[t]) - departure)
