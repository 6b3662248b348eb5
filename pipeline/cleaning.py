"""Take image motion and changes of focus out of the residuals of bright streaks, without touching their flux."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.psf import pixel_profile

HALF_WIDTH = 4  # columns to either side of a streak that its modes reach
WINDOWS = (5, 9, 17, 33)  # rows over which the amplitude of a mode may be averaged; motion changes in about 30
MIN_GAIN = 0.01  # of the variance of a mode's amplitude that must be predicted before anything is subtracted
MIN_FLUX_SIGMA = 1.0  # per row: a fainter streak moves by less than its noise (0.4 px of r = 14 leave 1.05 sigma)
CLIP_SIGMA = 5.0
_STEP = 0.01


def streak_modes(x: float, flux_e_row: float, sigma_px: float, sigma_e: np.ndarray, first_column: int) -> np.ndarray:
    """What motion along x and a change of width do to a streak, orthogonal to its flux and to each other.

    Parameters
    ----------
    x, flux_e_row : float
        Position (pixels) and flux (electrons per row) of the streak.
    sigma_px : float
        Width of the point-spread function (pixels).
    sigma_e : ndarray, shape (w,)
        Noise of the columns (electrons) from ``first_column`` on.
    first_column : int

    Returns
    -------
    ndarray, shape (2, w)
        ``F/σ dP/dx`` and ``F/σ dP/dσ_px`` with what is parallel to ``P/σ`` taken out (Gram–Schmidt), so that an event
        on the star, whose shape is ``P/σ``, has no part in them.
    """
    offsets = first_column + np.arange(len(sigma_e)) - x
    profile = pixel_profile(offsets, sigma_px)
    shift = (pixel_profile(offsets - _STEP, sigma_px) - pixel_profile(offsets + _STEP, sigma_px)) / (2 * _STEP)
    widen = (pixel_profile(offsets, sigma_px + _STEP) - pixel_profile(offsets, sigma_px - _STEP)) / (2 * _STEP)
    basis = [profile / sigma_e]
    for mode in (shift, widen):
        vector = flux_e_row * mode / sigma_e
        for known in basis:
            vector = vector - known * (vector @ known) / (known @ known)
        basis.append(vector)
    return np.array(basis[1:])


def predict_amplitude(amplitude: np.ndarray, noise: float) -> np.ndarray | None:
    """Predict the amplitude of a mode in each row from the rows around it.

    Parameters
    ----------
    amplitude : ndarray, shape (t,)
        Measured row by row; 0 where masked.
    noise : float
        Its standard deviation from photon and read noise.

    Returns
    -------
    ndarray, shape (t,), or None
        Mean of the neighbouring rows, the row itself left out (so that no noise is subtracted from itself), over the
        window of `WINDOWS` that predicts best; None where none predicts `MIN_GAIN` of the variance: nothing moves.
    """
    spread = max(1.4826 * float(np.median(np.abs(amplitude))), noise)
    limited = np.clip(amplitude, -CLIP_SIGMA * spread, CLIP_SIGMA * spread)  # a cosmic ray must not spread
    best, least = None, (1 - MIN_GAIN) * np.mean(limited**2)
    for window in WINDOWS:
        if window > len(amplitude):
            break
        ones = np.ones(window)
        count = np.convolve(np.ones(len(amplitude)), ones, mode="same") - 1
        predicted = (np.convolve(limited, ones, mode="same") - limited) / count
        error = np.mean((limited - predicted) ** 2)
        if error < least:
            best, least = predicted, error
    return best


def clean_streaks(residual: np.ndarray, sigma_e: np.ndarray, streaks: pd.DataFrame, sigma_px: float) -> int:
    """Subtract what motion and focus do to the bright streaks of an amplifier, in place.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    sigma_e : ndarray, shape (x, b)
        Noise (electrons per pixel).
    streaks : DataFrame
        With ``x`` and ``flux_e_row``.
    sigma_px : float
        Width of the point-spread function (pixels).

    Returns
    -------
    int
        Streaks of which something was subtracted; 0 where the air is still.
    """
    noise_e = sigma_e.mean(axis=1)
    columns = np.clip(np.round(streaks["x"].to_numpy()).astype(np.int64), 0, len(noise_e) - 1)
    bright = streaks["flux_e_row"].to_numpy() * pixel_profile(0, sigma_px) > MIN_FLUX_SIGMA * noise_e[columns]
    n_cleaned = 0
    for row in streaks[bright].sort_values("flux_e_row", ascending=False).itertuples():
        middle = int(np.round(row.x))
        first, last = max(middle - HALF_WIDTH, 0), min(middle + HALF_WIDTH + 1, len(noise_e))
        patch = residual[first:last].astype(np.float32)
        modes = streak_modes(row.x, row.flux_e_row, sigma_px, noise_e[first:last], first)
        correction = _predict_motion(np.nan_to_num(patch), modes)
        if correction is not None:
            residual[first:last] = patch - correction
            n_cleaned += 1
    return n_cleaned


def _predict_motion(patch: np.ndarray, modes: np.ndarray) -> np.ndarray | None:
    """What is predicted of each mode, in σ, (w, t); None where nothing is."""
    correction = None
    for mode in modes:
        power = float(mode @ mode)
        predicted = predict_amplitude(mode @ patch / power, 1 / np.sqrt(power))
        if predicted is not None:
            part = np.outer(mode, predicted)
            correction = part if correction is None else correction + part
    return correction
