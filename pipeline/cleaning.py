"""Take what the air does to bright streaks out of their residuals, and leave what happens to one star alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.readout import Readout
from shutterless.pipeline.shared_motion import Streak, bright_streaks, learn_motion, subtract_motion

WINDOWS = (5, 9, 17, 33)  # rows over which the amplitude of a mode may be averaged; motion changes in about 30
MIN_GAIN = 0.01  # of the variance of a mode's amplitude that must be predicted before anything is subtracted
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


def clean_streaks(
    residual: np.ndarray,
    sigma_e: np.ndarray,
    level_e: np.ndarray,
    sky_e: float,
    streaks: pd.DataFrame,
    sigma_px: float,
    readout: Readout,
) -> int:
    """Subtract what the air does to the bright streaks of an amplifier, in place.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    sigma_e : ndarray of float32, shape (x, b)
        Noise (electrons per pixel).
    level_e : ndarray, shape (x,)
        Steady level of each column (electrons per pixel).
    sky_e : float
        The same without a star.
    streaks : DataFrame
        With ``streak_id``, ``x``, ``flux_e_row`` and ``y0``.
    sigma_px : float
        Width of the mean point-spread function (pixels).
    readout : Readout

    Returns
    -------
    int
        Streaks of which something was subtracted; 0 where the air is still.

    Notes
    -----
    First what the stars share in star time (`shared_motion`), then what each star's own neighbouring rows still
    predict of its motion and focus. The second never touches a star's flux, the first only as the others say.
    """
    bright, crowding = bright_streaks(sigma_e, level_e, sky_e, streaks, sigma_px, readout)
    motion = learn_motion(residual, bright, crowding, sigma_px, readout.n_transit)
    moved = set()
    for streak in bright:
        if motion is not None and subtract_motion(residual, streak, motion):
            moved.add(streak.streak_id)
    for streak in bright:
        if subtract_own_motion(residual, streak, sigma_px):
            moved.add(streak.streak_id)
    return len(moved)


def subtract_own_motion(residual: np.ndarray, streak: Streak, sigma_px: float) -> bool:
    """Take out of one streak, in place, the motion and focus that its own neighbouring rows predict.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    streak : Streak
    sigma_px : float
        Width of the mean point-spread function.

    Returns
    -------
    bool
        Whether anything was predicted.
    """
    patch = residual[streak.columns].astype(np.float32)
    noise_e = streak.sigma_e.mean(axis=1)
    modes = streak_modes(streak.x, streak.flux_e_row, sigma_px, noise_e, streak.columns.start)
    correction = _predict_motion(np.nan_to_num(patch), modes)
    if correction is not None:
        residual[streak.columns] = patch - correction
    return correction is not None


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
