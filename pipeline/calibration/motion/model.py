"""Model and fit a streak whose star moves, widens and brightens from row to row.

The state of a star in a row is ``(light, shift, width)``: relative change of its flux, displacement along the columns
(pixels) and relative change of the width of its point-spread function; all 0 in steady air.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy.special import ndtr

from shutterless.pipeline.calibration.motion.columns import BLOCK_ROWS, gather_rows, half_bits, project_states
from shutterless.pipeline.compiled.elementary import erf_single, exp_single

STAR_HALF_WIDTH = 5  # columns to either side of a streak that are modelled: 4 sigma of a 2 px FWHM moved by a pixel
N_STATES = 3
LIGHT, SHIFT, WIDTH = range(N_STATES)
N_LANES = 16  # stars fitted side by side: the rows of one star depend on each other, and wide registers hold 16 numbers
# share of a row's state that moves the linearisation point of the next row, at any row rate, for it smooths noise: at
# 20 rows/s, 0.1 to 0.7 leave as little motion
_FOLLOW = np.float32(0.3)
_LEAST_LIVE = np.float32(0.75)  # of the information about flux and place
_LARGEST = np.array([0.9, 2.5, 0.6], dtype=np.float32)  # beyond, the linearisation point stays where it is
_HALF, _ONE = np.float32(0.5), np.float32(1)
_ROOT_HALF, _NORMAL_PEAK = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))
# offsets of each lane's sums in one array: the compiler must know that they do not overlap
_Z, _BELOW, _DENSITY, _INVERSE, _WHOLE = range(0, 5 * N_LANES, N_LANES)
_A00, _A01, _A02, _A11, _A12, _A22, _B0, _B1, _B2 = range(5 * N_LANES, 14 * N_LANES, N_LANES)
_N_SUMS = 14 * N_LANES


def first_columns(x: np.ndarray, n_columns: int) -> np.ndarray:
    """First of the ``2 STAR_HALF_WIDTH + 1`` columns modelled for each streak, inside the amplifier; shape (s,)."""
    first = np.round(np.asarray(x)).astype(np.int64) - STAR_HALF_WIDTH
    return np.clip(first, 0, max(n_columns - 2 * STAR_HALF_WIDTH - 1, 0))


def steady_fit(
    noise_e: np.ndarray, x: np.ndarray, flux_e_row: np.ndarray, sigma_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear fit of states around steady air, for several stars.

    Parameters
    ----------
    noise_e : ndarray of float64, shape (s, w)
    x, flux_e_row : ndarray of float64, shape (s,)
        Column of each star from its first; electrons per row.
    sigma_px : float

    Returns
    -------
    light : ndarray, shape (s, w)
        In steady air (electrons per pixel).
    gain : ndarray, shape (s, 3, w)
        The state is the gain times the departure from that light.
    error : ndarray, shape (s, 3)
        Standard error of the state.
    """
    z = (np.arange(noise_e.shape[1] + 1) - 0.5 - x[:, None]) / sigma_px
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    change = np.stack([np.diff(ndtr(z)), -np.diff(density) / sigma_px, -np.diff(z * density)], axis=1)  # (s, 3, w)
    design = flux_e_row[:, None, None] * change
    weighted = design / noise_e[:, None] ** 2
    covariance = np.linalg.inv(weighted @ design.transpose(0, 2, 1))
    return design[:, LIGHT], covariance @ weighted, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


def linear_streak(
    residual: np.ndarray,
    first: int,
    sigma_e: np.ndarray,
    steady_e: np.ndarray,
    light: np.ndarray,
    gain: np.ndarray,
    state: np.ndarray,
) -> None:
    """Fit the state of a star in every row, linear around steady air.

    This is enough, and much faster than `follow_streaks`, where noise exceeds the motion.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    first : int
        First column of the streak.
    sigma_e : ndarray of float32, shape (w, b)
    steady_e : ndarray, shape (w,)
        Mean light of the star.
    light, gain : ndarray, shape (w,) and (3, w)
        From `steady_fit`.
    state : ndarray of float32, shape (3, t)
        Is written; NaN where any of the columns is masked.
    """
    offset = (gain @ (steady_e - light)).astype(np.float32)
    project_states(half_bits(residual), first, sigma_e, gain.astype(np.float32), offset, state)


def follow_streaks(
    residual: np.ndarray,
    first: np.ndarray,
    sigma_e: np.ndarray,
    noise_e: np.ndarray,
    steady_e: np.ndarray,
    x: np.ndarray,
    flux_e_row: np.ndarray,
    sigma_px: float,
) -> np.ndarray:
    """Fit the states of up to `N_LANES` stars in every row.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    first : ndarray of int, shape (s,)
        First column of each streak.
    sigma_e : ndarray of float32, shape (s, w, b)
    noise_e : ndarray, shape (s, w)
        The same, averaged over the file.
    steady_e : ndarray, shape (s, w)
        Mean light of each star.
    x, flux_e_row : ndarray, shape (s,)
        Column of each star from its first; electrons per row.
    sigma_px : float

    Returns
    -------
    ndarray of float32, shape (s, 3, t)
        NaN in rows where masked columns hold a quarter or more of the information about the star.

    Notes
    -----
    One Gauss–Newton step of a weighted least-squares fit per row, around a point that follows the rows before. The
    model is a Gaussian integrated over pixels, ``P_k = Φ(z_{k+1}) - Φ(z_k)``, with ``dP/dx = (φ(z_k) - φ(z_{k+1})) /
    σ`` and ``dP/dlnσ = z_k φ(z_k) - z_{k+1} φ(z_{k+1})``.
    """
    states = np.empty((len(first), N_STATES, residual.shape[1]), dtype=np.float32)
    scale = (sigma_e / flux_e_row[:, None, None]).astype(np.float32)
    steady = (steady_e / flux_e_row[:, None]).astype(np.float32)
    lanes = _lanes(noise_e, x)
    _follow_blocks(half_bits(residual), first, scale, steady, *lanes, np.float32(sigma_px), _LARGEST, _start(), states)
    return states


def streak_light(
    state: np.ndarray, x: float, flux_e_row: float, sigma_px: float, n_columns: int = 2 * STAR_HALF_WIDTH + 1
) -> np.ndarray:
    """Light of a star of given states.

    Parameters
    ----------
    state : ndarray of float32, shape (3, t)
    x : float
        Column of the star from the first of ``n_columns``.
    flux_e_row, sigma_px : float

    Returns
    -------
    ndarray of float32, shape (w, t)
        Electrons per pixel.
    """
    light = np.empty((n_columns, state.shape[1]), dtype=np.float32)
    state = np.ascontiguousarray(state, dtype=np.float32)
    _light(state, np.float32(x), np.float32(flux_e_row), np.float32(sigma_px), light)
    return light


def _lanes(noise_e: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative weights (w, lane) and columns (lane,) of the stars of all lanes."""
    weight = np.ones((noise_e.shape[1], N_LANES), dtype=np.float32)
    weight[:, : len(x)] = ((noise_e.min(axis=1, keepdims=True) / noise_e) ** 2).T
    column = np.zeros(N_LANES, dtype=np.float32)
    column[: len(x)] = x
    return weight, column


def _start() -> np.ndarray:
    return np.zeros(N_STATES * N_LANES, dtype=np.float32)


@numba.njit(cache=True, nogil=True)
def _follow_blocks(halves, first, scale, steady, weight, x, sigma, largest, point, states):  # pragma: no cover
    """Twin of `follow_streaks`, block by block of rows."""
    n_columns = steady.shape[1]
    rows = np.full((BLOCK_ROWS, n_columns, N_LANES), np.float32(np.nan), dtype=np.float32)
    found = np.empty((BLOCK_ROWS, N_STATES, N_LANES), dtype=np.float32)
    for block in range((halves.shape[1] + BLOCK_ROWS - 1) // BLOCK_ROWS):
        n_rows = gather_rows(halves, first, block, scale, steady, rows)
        _follow_rows(rows[:n_rows], weight, x, sigma, largest, point, found)
        for star in range(len(first)):
            for channel in range(N_STATES):
                for t in range(n_rows):
                    states[star, channel, block * BLOCK_ROWS + t] = found[t, channel, star]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _follow_rows(rows, weight, x, sigma, largest, point, states):  # pragma: no cover - compiled
    """Fit ``states`` (t, 3, lane) to ``rows`` (t, w, lane), light over flux, for all lanes at once.

    ``weight`` (w, lane) is relative. ``point`` (3 lane) is the linearisation point, carried from call to call.
    """
    sums = np.empty(_N_SUMS, dtype=np.float32)
    for t in range(rows.shape[0]):
        _begin_row(sums, x, sigma, point)
        for k in range(rows.shape[1]):
            _add_column(sums, rows, t, k, weight, x, sigma, point)
        _solve_row(sums, largest, point, states, t)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _begin_row(sums, x, sigma, point):  # pragma: no cover - compiled
    """Set the left edge of the first column in every lane, and all sums to 0."""
    for i in range(N_LANES):
        inverse = _ONE / (sigma * (_ONE + point[WIDTH * N_LANES + i]))
        z = (-_HALF - x[i] - point[SHIFT * N_LANES + i]) * inverse
        sums[_INVERSE + i] = inverse
        sums[_Z + i] = z
        sums[_BELOW + i] = _HALF * erf_single(z * _ROOT_HALF)
        sums[_DENSITY + i] = exp_single(-_HALF * z * z) * _NORMAL_PEAK
    for i in range(_WHOLE, _N_SUMS):
        sums[i] = 0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_column(sums, rows, t, k, weight, x, sigma, point):  # pragma: no cover - compiled
    """Add column ``k`` of row ``t`` to the normal equations of every lane."""
    edge = np.float32(k + 0.5)
    for i in range(N_LANES):
        inverse, bright = sums[_INVERSE + i], _ONE + point[LIGHT * N_LANES + i]
        z, below, density = sums[_Z + i], sums[_BELOW + i], sums[_DENSITY + i]
        upper = (edge - x[i] - point[SHIFT * N_LANES + i]) * inverse
        above = _HALF * erf_single(upper * _ROOT_HALF)
        rising = exp_single(-_HALF * upper * upper) * _NORMAL_PEAK
        d0 = above - below
        d1 = bright * (density - rising) * inverse
        d2 = bright * (z * density - upper * rising) * sigma * inverse
        left = rows[t, k, i] - bright * d0
        known = left == left
        left = left if known else np.float32(0)
        sums[_WHOLE + i] += weight[k, i] * (d0 * d0 + d1 * d1)
        w = weight[k, i] if known else np.float32(0)
        w0, w1, w2 = w * d0, w * d1, w * d2
        sums[_A00 + i] += w0 * d0
        sums[_A01 + i] += w0 * d1
        sums[_A02 + i] += w0 * d2
        sums[_A11 + i] += w1 * d1
        sums[_A12 + i] += w1 * d2
        sums[_A22 + i] += w2 * d2
        sums[_B0 + i] += w0 * left
        sums[_B1 + i] += w1 * left
        sums[_B2 + i] += w2 * left
        sums[_Z + i], sums[_BELOW + i], sums[_DENSITY + i] = upper, above, rising


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _solve_row(sums, largest, point, states, t):  # pragma: no cover - compiled
    """Solve for the state of every lane by cofactors of its normal matrix, and move the linearisation points."""
    for i in range(N_LANES):
        a00, a01, a02 = sums[_A00 + i], sums[_A01 + i], sums[_A02 + i]
        a11, a12, a22 = sums[_A11 + i], sums[_A12 + i], sums[_A22 + i]
        b0, b1, b2 = sums[_B0 + i], sums[_B1 + i], sums[_B2 + i]
        c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
        c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
        determinant = a00 * c00 + a01 * c01 + a02 * c02
        enough = a00 + a11 >= _LEAST_LIVE * sums[_WHOLE + i]
        known = enough & (determinant > _LEAST_LIVE * a00 * a11 * a22 / np.float32(10))
        inverse = (_ONE if known else np.float32(np.nan)) / determinant
        states[t, LIGHT, i] = point[i] + (c00 * b0 + c01 * b1 + c02 * b2) * inverse
        states[t, SHIFT, i] = point[N_LANES + i] + (c01 * b0 + c11 * b1 + c12 * b2) * inverse
        states[t, WIDTH, i] = point[2 * N_LANES + i] + (c02 * b0 + c12 * b1 + c22 * b2) * inverse
    for channel in range(N_STATES):
        for i in range(N_LANES):
            before = point[channel * N_LANES + i]
            moved = before + _FOLLOW * (states[t, channel, i] - before)
            point[channel * N_LANES + i] = moved if abs(moved) < largest[channel] else before


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _light(state, x, flux, sigma, light):  # pragma: no cover - compiled
    """Twin of `streak_light`."""
    n_columns, n_rows = light.shape
    below, scale = np.empty(BLOCK_ROWS, dtype=np.float32), np.empty(BLOCK_ROWS, dtype=np.float32)
    place, bright = np.empty(BLOCK_ROWS, dtype=np.float32), np.empty(BLOCK_ROWS, dtype=np.float32)
    for start in range(0, n_rows, BLOCK_ROWS):
        n = min(BLOCK_ROWS, n_rows - start)
        here = state[:, start : start + n]
        for t in range(n):
            scale[t] = _ROOT_HALF / (sigma * (_ONE + here[WIDTH, t]))
            place[t] = (-_HALF - x - here[SHIFT, t]) * scale[t]
            bright[t] = _HALF * flux * (_ONE + here[LIGHT, t])
            below[t] = erf_single(place[t])
        for k in range(n_columns):
            out, step = light[k, start : start + n], np.float32(k + 1)
            for t in range(n):
                above = erf_single(place[t] + step * scale[t])
                out[t] = bright[t] * (above - below[t])
                below[t] = above
