"""Subtract image motion, focus and transparency changes from bright streaks; an event on one star stays."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.motion.columns import half_bits, project_modes, subtract_modes
from shutterless.pipeline.calibration.motion.pace import MotionPace
from shutterless.pipeline.calibration.motion.shared import bright_streaks, learn_motion, subtract_shared
from shutterless.pipeline.calibration.motion.states import Streak
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA, median_absolute
from shutterless.pipeline.compiled.running_means import cumulate, neighbour_errors, neighbour_mean
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

MIN_CLEANING_GAIN = 0.01  # of the variance of a mode's amplitude that must be predicted before anything is subtracted
MOTION_CLIP_SIGMA = 5.0
MAX_COMPANIONS = 3  # streaks within the modelled columns that are fitted, too: an event on one is no motion
MIN_SEPARATION_PX = 1.2  # closer streaks look like the motion of one
_STEP = 0.01


def streak_modes(
    x: np.ndarray, flux_e_row: np.ndarray, sigma_px: float, sigma_e: np.ndarray, first: np.ndarray, beside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Modes of streaks (motion along x, change of width) and estimators of them that do not respond to flux.

    Parameters
    ----------
    x, flux_e_row : ndarray, shape (s,)
        Position (pixels) and flux (electrons per row) of each streak.
    sigma_px : float
        Width of the point-spread function (pixels).
    sigma_e : ndarray, shape (s, w)
        Noise of the columns (electrons) from ``first`` on.
    first : ndarray of int, shape (s,)
    beside : ndarray, shape (s, c)
        Positions of other streaks, the companions (pixels); NaN for none.

    Returns
    -------
    modes : ndarray, shape (s, 2, w)
        ``F/σ dP/dx`` (per pixel) and ``F/σ dP/dσ`` (per pixel).
    estimators : ndarray, shape (s, 2, w)
        Rows of the pseudo-inverse of (``P/σ``, the modes, and ``P/σ`` of every companion). Multiplied by a residual
        they give the amplitude of each mode; an event on the star or a companion gives 0.

    Notes
    -----
    Columns of a design without a companion are 0, and the pseudo-inverse of the normal matrix ignores them. Each other
    column is scaled to unit length, so that a large flux does not make the matrix ill-conditioned.
    """
    offsets = first[:, None] + np.arange(sigma_e.shape[1]) - x[:, None]
    profile = pixel_profile(offsets, sigma_px)
    shift = (pixel_profile(offsets - _STEP, sigma_px) - pixel_profile(offsets + _STEP, sigma_px)) / (2 * _STEP)
    widen = (pixel_profile(offsets, sigma_px + _STEP) - pixel_profile(offsets, sigma_px - _STEP)) / (2 * _STEP)
    others = np.nan_to_num(pixel_profile(offsets[:, None] - (beside - x[:, None])[:, :, None], sigma_px))
    flux = flux_e_row[:, None]
    design = np.concatenate([np.stack([flux * shift, flux * widen, profile], axis=1), others], axis=1)
    design /= sigma_e[:, None]
    length = np.linalg.norm(design, axis=2, keepdims=True)
    unit = design / np.where(length > 0, length, 1)
    inverse = np.linalg.pinv(unit @ unit.transpose(0, 2, 1), hermitian=True)
    return design[:, :2], (inverse[:, :2] @ unit) / length[:, :2]


@numba.njit(cache=True, nogil=True)
def predict_amplitude(amplitude, noise, n_windows, predicted):  # pragma: no cover - compiled
    """Predict the amplitude of a mode in each row from the rows around it.

    Parameters
    ----------
    amplitude : ndarray of float32, shape (t,)
        Measured row by row; 0 where masked.
    noise : float
        Its standard deviation from photon and read noise.
    n_windows : int
        Windows of 5, 9, 17, 33, ... rows are tried.
    predicted : ndarray of float32, shape (t,)
        Is written if the best window predicts `MIN_CLEANING_GAIN` of the variance. The prediction is
        the mean of the neighbouring rows without the row itself, so that no noise is subtracted from itself.

    Returns
    -------
    bool
        Whether the star moves, that is, whether anything is predicted.
    """
    reach = np.float32(MOTION_CLIP_SIGMA * max(MAD_TO_SIGMA * median_absolute(amplitude), noise))
    limited, power = np.empty_like(amplitude), 0.0
    for t in range(len(amplitude)):
        limited[t] = min(max(amplitude[t], -reach), reach)  # a cosmic ray must not spread
        power += np.float64(limited[t]) * limited[t]
    errors = neighbour_errors(limited, n_windows)
    best = np.argmin(errors)
    moves = errors[best] < (1 - MIN_CLEANING_GAIN) * power / max(len(amplitude), 1)
    if moves:
        neighbour_mean(limited, cumulate(limited), (4 << best) + 1, predicted)
    return moves


def clean_streaks(
    residual: np.ndarray,
    sigma_e: np.ndarray,
    level_e: np.ndarray,
    sky_e: float,
    streaks: pd.DataFrame,
    sigma_px: float,
    readout: Readout,
) -> tuple[int, np.ndarray]:
    """Subtract image motion, focus and transparency changes from the bright streaks of an amplifier, in place.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
        In units of σ; NaN where masked.
    sigma_e : ndarray of float32, shape (x, b)
        Noise (electrons per pixel).
    level_e : ndarray, shape (x,)
        Steady level of each column (electrons per pixel).
    sky_e : float
        Steady level of columns without a star.
    streaks : DataFrame
        With ``streak_id``, ``x``, ``flux_e_row`` and ``y0``.
    sigma_px : float
        Width of the mean point-spread function (pixels).
    readout : Readout

    Returns
    -------
    n_moving : int
        Streaks from which something was subtracted; 0 in still air.
    lag_rows : ndarray of float64, shape (s,)
        File row at which each streak's own time is 0, but for one number that all share; NaN where it is not known.

    Notes
    -----
    The first step removes what the stars share at the same own time, row - ``y0`` (`learn_motion`). The second removes
    the motion and focus that each star's neighbouring rows still predict. Two stars in one column, for example, move
    at different rows. Both modes are measured orthogonally to the flux of the star and its neighbours, so that no event
    is removed.
    """
    bright, crowding = bright_streaks(sigma_e, level_e, sky_e, streaks, sigma_px, readout, residual.shape[1])
    motion = learn_motion(residual, bright, crowding, sigma_px, readout)
    shared = [False] * len(bright) if motion is None else subtract_shared(residual, bright, motion)
    own = subtract_own_motions(residual, bright, sigma_px, streaks["x"].to_numpy(), readout)
    lags = {} if motion is None else motion.lags
    lag_rows = np.array([lags.get(streak_id, np.nan) for streak_id in streaks["streak_id"]], dtype=np.float64)
    return int((np.array(shared, dtype=bool) | own).sum()), lag_rows


def subtract_own_motions(
    residual: np.ndarray, streaks: Sequence[Streak], sigma_px: float, all_x: np.ndarray, readout: Readout
) -> np.ndarray:
    """Subtract from each streak in turn, in place, the motion and focus that its own rows predict.

    Parameters
    ----------
    residual : ndarray of float16, shape (x, t)
    streaks : sequence of Streak
    sigma_px : float
        Width of the mean point-spread function.
    all_x : ndarray, shape (s,)
        Positions of all streaks; events on those nearby are not taken for motion.
    readout : Readout

    Returns
    -------
    ndarray of bool, shape (s,)
        Streaks for which anything was predicted.
    """
    moved = np.zeros(len(streaks), dtype=bool)
    if not len(streaks):
        return moved
    first = np.array([streak.columns.start for streak in streaks])
    x, flux = np.array([[streak.x, streak.flux_e_row] for streak in streaks]).T
    beside = np.array([_companions(streak, all_x) for streak in streaks])
    noise = np.array([streak.noise_e for streak in streaks], dtype=np.float64)
    modes, estimators = streak_modes(x, flux, sigma_px, noise, first, beside)
    halves, n_windows = half_bits(residual), MotionPace.of(readout).n_own_windows
    for k, own in enumerate(zip(first, modes, estimators, np.linalg.norm(estimators, axis=2), strict=True)):
        moved[k] = _subtract_own(halves, *own, n_windows)
    return moved


def _subtract_own(
    halves: np.ndarray, first: int, modes: np.ndarray, estimators: np.ndarray, noise: np.ndarray, n_windows: int
) -> bool:
    """Twin of `subtract_own_motions` for one streak of known modes; ``noise`` (2,) is that of their amplitudes."""
    amplitude = np.empty((len(modes), halves.shape[1]), dtype=np.float32)
    project_modes(halves, first, estimators.astype(np.float32), amplitude)
    predicted = np.zeros_like(amplitude)
    modes_of = zip(amplitude, noise, predicted, strict=True)
    moves = [predict_amplitude(series, error, n_windows, out) for series, error, out in modes_of]
    if any(moves):
        subtract_modes(halves, first, modes.astype(np.float32), predicted)
    return any(moves)


def _companions(streak: Streak, all_x: np.ndarray) -> np.ndarray:
    """Positions of the nearest other streaks within its columns, NaN where there are fewer; (c,)."""
    near = all_x[(all_x > streak.columns.start - 1) & (all_x < streak.columns.stop)]
    near = near[np.abs(near - streak.x) > MIN_SEPARATION_PX]
    companions = np.full(MAX_COMPANIONS, np.nan)
    nearest = near[np.argsort(np.abs(near - streak.x))[:MAX_COMPANIONS]]
    companions[: len(nearest)] = nearest
    return companions
