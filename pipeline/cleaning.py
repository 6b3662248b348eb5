"""Take what the air does to bright streaks out of their residuals, and leave what happens to one star alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter1d

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.readout import Readout
from shutterless.pipeline.shared_motion import Streak, bright_streaks, learn_motion, subtract_motion

# rows over which the amplitude of a mode may be averaged; motion changes in about 30, focus in some hundred
WINDOWS = (5, 9, 17, 33, 65, 129)
MIN_GAIN = 0.01  # of the variance of a mode's amplitude that must be predicted before anything is subtracted
CLIP_SIGMA = 5.0
MAX_COMPANIONS = 3  # streaks within the modelled columns that are fitted along: an event on one is no motion
MIN_SEPARATION_PX = 1.2  # closer ones cannot be told from the motion of one
_STEP = 0.01


def streak_modes(
    x: float,
    flux_e_row: float,
    sigma_px: float,
    sigma_e: np.ndarray,
    first_column: int,
    companions: Sequence[float] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """What motion along x and a change of width do to a streak, and how to measure each without its flux.

    Parameters
    ----------
    x, flux_e_row : float
        Position (pixels) and flux (electrons per row) of the streak.
    sigma_px : float
        Width of the point-spread function (pixels).
    sigma_e : ndarray, shape (w,)
        Noise of the columns (electrons) from ``first_column`` on.
    first_column : int
    companions : sequence of float
        Positions of other streaks (pixels).

    Returns
    -------
    modes : ndarray, shape (2, w)
        ``F/σ dP/dx`` (per pixel) and ``F/σ dP/dσ`` (per pixel).
    estimators : ndarray, shape (2, w)
        Rows of the pseudo-inverse of (``P/σ``, the modes, and ``P/σ`` of every companion): times a residual they give
        the amplitude of each mode, and nothing for an event on the star or a companion.
    """
    offsets = first_column + np.arange(len(sigma_e)) - x
    profile = pixel_profile(offsets, sigma_px)
    shift = (pixel_profile(offsets - _STEP, sigma_px) - pixel_profile(offsets + _STEP, sigma_px)) / (2 * _STEP)
    widen = (pixel_profile(offsets, sigma_px + _STEP) - pixel_profile(offsets, sigma_px - _STEP)) / (2 * _STEP)
    beside = [pixel_profile(offsets - (other - x), sigma_px) for other in companions]
    design = np.array([flux_e_row * shift, flux_e_row * widen, profile, *beside]) / sigma_e
    return design[:2], np.linalg.pinv(design.T)[:2]


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
    best, least, ones = None, (1 - MIN_GAIN) * np.mean(limited**2), np.ones(len(amplitude))
    for window in WINDOWS:
        if window > len(amplitude):
            break
        count = uniform_filter1d(ones, window, mode="constant") * window - 1
        predicted = (uniform_filter1d(limited, window, mode="constant") * window - limited) / count
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
    predict of its motion and focus: of two stars in one column, say, which move at different times. That is measured
    orthogonally to the flux of the star and its neighbours, so no event on them has a part in it.
    """
    bright, crowding = bright_streaks(sigma_e, level_e, sky_e, streaks, sigma_px, readout, residual.shape[1])
    motion = learn_motion(residual, bright, crowding, sigma_px, readout.n_transit)
    moved = set()
    for streak in bright:
        if motion is not None and subtract_motion(residual, streak, motion):
            moved.add(streak.streak_id)
    everyone = streaks["x"].to_numpy()
    for streak in bright:
        if subtract_own_motion(residual, streak, sigma_px, everyone):
            moved.add(streak.streak_id)
    return len(moved)


def subtract_own_motion(residual: np.ndarray, streak: Streak, sigma_px: float, everyone: np.ndarray) -> bool:
    """Take out of one streak, in place, the motion and focus that its own neighbouring rows predict.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    streak : Streak
    sigma_px : float
        Width of the mean point-spread function.
    everyone : ndarray, shape (s,)
        Positions of all streaks; events on those nearby are not taken for motion.

    Returns
    -------
    bool
        Whether anything was predicted.
    """
    columns = streak.columns
    near = everyone[(everyone > columns.start - 1) & (everyone < columns.stop)]
    near = near[np.abs(near - streak.x) > MIN_SEPARATION_PX]
    companions = near[np.argsort(np.abs(near - streak.x))[:MAX_COMPANIONS]]
    noise_e = streak.sigma_e.mean(axis=1)
    modes, estimators = streak_modes(streak.x, streak.flux_e_row, sigma_px, noise_e, columns.start, companions)
    patch = residual[columns].astype(np.float32)
    correction = _predict_motion(np.nan_to_num(patch), modes, estimators)
    if correction is not None:
        residual[columns] = patch - correction
    return correction is not None


def _predict_motion(patch: np.ndarray, modes: np.ndarray, estimators: np.ndarray) -> np.ndarray | None:
    """What is predicted of each mode, in σ, (w, t); None where nothing is."""
    correction = None
    for mode, estimator in zip(modes, estimators, strict=True):
        predicted = predict_amplitude(estimator @ patch, float(np.linalg.norm(estimator)))
        if predicted is not None:
            part = np.outer(mode, predicted)
            correction = part if correction is None else correction + part
    return correction
