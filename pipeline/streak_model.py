"""A streak whose star moves, widens and brightens: what it looks like in every row, and how far it does so.

The state of a star in a row is ``(light, shift, width)``: relative change of its flux, displacement along the columns
(pixels) and relative change of the width of its point-spread function; all 0 in steady air.
"""

from __future__ import annotations

import math

import numba
import numpy as np

HALF_WIDTH = 5  # columns to either side of a streak that are modelled: 4 sigma of a 2 px FWHM moved by a pixel
N_STATES = 3
LIGHT, SHIFT, WIDTH = range(N_STATES)
_FOLLOW = 0.3  # how fast the point around which a row is linearised follows the rows before it
_LEAST_LIVE = 0.75  # of the information about flux and place
_LARGEST = np.array([0.9, 2.5, 0.6])  # beyond, the linearisation point stays where it is


def first_columns(x: np.ndarray, n_columns: int) -> np.ndarray:
    """First of the ``2 HALF_WIDTH + 1`` columns modelled for each streak, kept inside the amplifier; shape (s,)."""
    first = np.round(np.asarray(x)).astype(np.int64) - HALF_WIDTH
    return np.clip(first, 0, max(n_columns - 2 * HALF_WIDTH - 1, 0))


def follow_state(
    patch_e: np.ndarray, noise_e: np.ndarray, x: float, flux_e_row: float, sigma_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the state of one star in every row.

    Parameters
    ----------
    patch_e : ndarray of float32, shape (w, t)
        The star's own light (electrons): sky and neighbours taken off, its steady light left in. NaN where masked.
    noise_e : ndarray of float64, shape (w,)
        Noise of each column.
    x : float
        Column of the star from the patch's first.
    flux_e_row, sigma_px : float
        Flux (electrons per row) and width of the point-spread function in steady air.

    Returns
    -------
    state : ndarray of float32, shape (3, t)
        NaN in rows where masked columns hold a quarter or more of what is known of the star.
    error : ndarray of float64, shape (3,)
        Standard error in steady air, from photon and read noise.

    Notes
    -----
    One Gauss–Newton step of a weighted least-squares fit per row, around a point that follows the rows before. The
    model is a Gaussian integrated over pixels, ``P_k = Φ(z_{k+1}) - Φ(z_k)``, with ``dP/dx = (φ(z_k) - φ(z_{k+1})) /
    σ`` and ``dP/dlnσ = z_k φ(z_k) - z_{k+1} φ(z_{k+1})``.
    """
    weight = 1 / np.asarray(noise_e, dtype=np.float64) ** 2
    state = _follow(np.ascontiguousarray(patch_e.T), weight, float(x), float(flux_e_row), float(sigma_px), _LARGEST)
    design = np.empty((len(weight), N_STATES))
    _model_row(np.zeros(N_STATES), float(x), float(flux_e_row), float(sigma_px), np.empty(len(weight)), design)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    return state.T, np.sqrt(np.diag(covariance))


def linear_state(
    patch_e: np.ndarray, noise_e: np.ndarray, x: float, flux_e_row: float, sigma_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `follow_state`, linear around steady air: enough, and much faster, where noise exceeds the motion."""
    weight = 1 / np.asarray(noise_e, dtype=np.float64) ** 2
    light, design = np.empty(len(weight)), np.empty((len(weight), N_STATES))
    _model_row(np.zeros(N_STATES), float(x), float(flux_e_row), float(sigma_px), light, design)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    gain = (covariance @ (design * weight[:, None]).T).astype(np.float32)
    state = gain @ (patch_e - light[:, None].astype(np.float32))  # NaN where any column is masked
    return state, np.sqrt(np.diag(covariance))


def streak_light(
    state: np.ndarray, x: float, flux_e_row: float, sigma_px: float, n_columns: int = 2 * HALF_WIDTH + 1
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
    _light(np.asarray(state, dtype=np.float32), float(x), float(flux_e_row), float(sigma_px), light)
    return light


@numba.njit(cache=True, nogil=True, inline="always")
def _model_row(state, x, flux, sigma, light, design):  # pragma: no cover - compiled
    """Light of one row (w,) and its derivatives (w, 3) at a state."""
    spread = sigma * (1 + state[2])
    brightness = flux * (1 + state[0])
    z = (-0.5 - x - state[1]) / spread
    below, density = 0.5 * math.erf(z / math.sqrt(2.0)), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    for k in range(light.shape[0]):
        upper = (k + 0.5 - x - state[1]) / spread
        above = 0.5 * math.erf(upper / math.sqrt(2.0))
        rising = math.exp(-upper * upper / 2) / math.sqrt(2 * math.pi)
        profile = above - below
        light[k] = brightness * profile
        design[k, 0] = flux * profile
        design[k, 1] = brightness * (density - rising) / spread
        design[k, 2] = brightness * (z * density - upper * rising) / (1 + state[2])
        z, below, density = upper, above, rising


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _follow(rows, weight, x, flux, sigma, largest):  # pragma: no cover - compiled
    """Twin of `follow_state`; rows (t, w) to states (t, 3)."""
    n_rows, n_columns = rows.shape
    states = np.empty((n_rows, 3), dtype=np.float32)
    point, light, design = np.zeros(3), np.empty(n_columns), np.empty((n_columns, 3))
    for t in range(n_rows):
        _model_row(point, x, flux, sigma, light, design)
        a00 = a01 = a02 = a11 = a12 = a22 = b0 = b1 = b2 = 0.0
        whole = 0.0
        for k in range(n_columns):
            left = rows[t, k] - light[k]
            w, d0, d1, d2 = weight[k], design[k, 0], design[k, 1], design[k, 2]
            whole += w * (d0 * d0 + d1 * d1)
            if left != left:
                continue
            a00 += w * d0 * d0
            a01 += w * d0 * d1
            a02 += w * d0 * d2
            a11 += w * d1 * d1
            a12 += w * d1 * d2
            a22 += w * d2 * d2
            b0 += w * d0 * left
            b1 += w * d1 * left
            b2 += w * d2 * left
        # cofactors of the symmetric normal matrix
        c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
        determinant = a00 * c00 + a01 * c01 + a02 * c02
        known = a00 + a11 >= _LEAST_LIVE * whole > 0
        if not (known and determinant > _LEAST_LIVE * a00 * a11 * a22 / 10):
            states[t, :] = np.nan
            continue
        c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
        states[t, 0] = point[0] + (c00 * b0 + c01 * b1 + c02 * b2) / determinant
        states[t, 1] = point[1] + (c01 * b0 + c11 * b1 + c12 * b2) / determinant
        states[t, 2] = point[2] + (c02 * b0 + c12 * b1 + c22 * b2) / determinant
        for i in range(3):
            moved = point[i] + _FOLLOW * (states[t, i] - point[i])
            if abs(moved) < largest[i]:
                point[i] = moved
    return states


@numba.njit(cache=True, nogil=True)
def _light(state, x, flux, sigma, light):  # pragma: no cover - compiled
    """Twin of `streak_light`."""
    n_columns, n_rows = light.shape
    below = np.empty(n_rows, dtype=np.float32)
    scale = np.empty(n_rows, dtype=np.float32)
    for t in range(n_rows):
        scale[t] = 1 / (sigma * (1 + state[2, t]) * math.sqrt(2.0))
        below[t] = math.erf((-0.5 - x - state[1, t]) * scale[t])
    for k in range(n_columns):
        for t in range(n_rows):
            above = math.erf((k + 0.5 - x - state[1, t]) * scale[t])
            light[k, t] = 0.5 * flux * (1 + state[0, t]) * (above - below[t])
            below[t] = above
