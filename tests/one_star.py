"""States of one star from its own light in single precision: what the fits of many streaks of a residual must give."""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.calibration.motion import model


def follow_state(
    patch_e: np.ndarray, noise_e: np.ndarray, x: float, flux_e_row: float, sigma_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `model.follow_streaks`, of the light of one star.

    Parameters
    ----------
    patch_e : ndarray of float32, shape (w, t)
        The star's own light (electrons): sky and neighbours taken off, its steady light left in. NaN where masked.
    noise_e : ndarray, shape (w,)
        Noise of each column.
    x : float
        Column of the star from the patch's first.
    flux_e_row, sigma_px : float
        Flux (electrons per row) and width of the point-spread function in steady air.

    Returns
    -------
    state : ndarray of float32, shape (3, t)
    error : ndarray of float64, shape (3,)
        Standard error in steady air, from photon and read noise.
    """
    n_columns, n_rows = patch_e.shape
    rows = np.full((n_rows, n_columns, model.N_LANES), np.nan, dtype=np.float32)
    rows[:, :, 0] = patch_e.T / flux_e_row
    noise, place = np.asarray(noise_e, dtype=np.float64)[None], np.array([x], dtype=np.float64)
    states = np.empty((n_rows, model.N_STATES, model.N_LANES), dtype=np.float32)
    lanes = model._lanes(noise, place)
    model._follow_rows(rows, *lanes, np.float32(sigma_px), model._LARGEST, model._start(), states)
    _, _, error = model.steady_fit(noise, place, np.array([flux_e_row]), sigma_px)
    return np.ascontiguousarray(states[:, :, 0].T), error[0]


def linear_state(
    patch_e: np.ndarray, noise_e: np.ndarray, x: float, flux_e_row: float, sigma_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `model.linear_streak`, of the light of one star; parameters and results are those of `follow_state`."""
    noise = np.asarray(noise_e, dtype=np.float64)[None]
    light, gain, error = model.steady_fit(noise, np.array([x]), np.array([flux_e_row]), sigma_px)
    return gain[0].astype(np.float32) @ (patch_e - light[0, :, None].astype(np.float32)), error[0]
