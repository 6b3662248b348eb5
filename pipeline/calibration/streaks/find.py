"""Find the streaks of an amplifier: positions and fluxes from its time-collapsed profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from shutterless.pipeline.calibration.levels.ramp import Ramp
from shutterless.pipeline.calibration.streaks.fit import StreakFit
from shutterless.pipeline.reading.readout import Readout

STREAK_COLUMNS = ("streak_id", "x", "y", "flux_e_row", "flux_error_e_row", "flux_e_s", "mag", "y0")
ONSET_MATCH_PX = 1.5
_N_PASSES = 5
_N_STEPS = 3


def collapse_profile(level_e: np.ndarray, read_noise_e: float, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapse the baseline of an amplifier over time to a profile and its error.

    Parameters
    ----------
    level_e : ndarray, shape (b, x)
        Baseline at block centres (electrons per pixel).
    read_noise_e : float
    n_rows : int
        Rows of the amplifier.

    Returns
    -------
    profile_e, error_e : ndarray of float64, shape (x,)
        The error is that of a median of ``n_rows`` rows, √(π/2) times that of their mean.
    """
    profile = np.median(level_e, axis=0).astype(np.float64)
    variance = np.maximum(profile, 0) + read_noise_e**2
    return profile, np.sqrt(np.pi / 2 * variance / max(n_rows, 1))


def find_streaks(
    profile_e: np.ndarray, error_e: np.ndarray, sigma_px: float, readout: Readout, ramps: Sequence[Ramp] = ()
) -> tuple[pd.DataFrame, float]:
    """Find and fit every streak of an amplifier.

    Parameters
    ----------
    profile_e, error_e : ndarray, shape (x,)
        Time-collapsed profile and its error (electrons per pixel and row).
    sigma_px : float
        First guess of the width of the point-spread function (pixels).
    readout : Readout
    ramps : sequence of Ramp
        Where streaks begin or end; this gives their ``y0``.

    Returns
    -------
    streaks : DataFrame
        `STREAK_COLUMNS`: ``x`` (pixels, read order), ``y`` (0: the amplifier is one row high), ``flux_e_row`` and its
        error (electrons per row, all columns), ``flux_e_s``, ``mag`` (NaN without a zero point), ``y0`` (detector row,
        NaN where unknown); by ``x``.
    sigma_px : float
        Width of the point-spread function, fitted where bright streaks allow it.

    Notes
    -----
    Peaks of the profile filtered with the point-spread function start a simultaneous weighted least-squares fit of
    all positions and fluxes. Its residual is searched again, which separates blends. Changes over more than
    `KNOT_COLUMNS` columns are background. Single columns without the flanks of a point-spread function are left out
    (`drop_spikes`). The width is a median over the streaks, so that no blend dominates it.
    """
    fit = StreakFit(np.asarray(profile_e, dtype=np.float64), np.asarray(error_e, dtype=np.float64), sigma_px)
    for i in range(_N_PASSES):
        found = fit.add_peaks(over_curved_sky=i == 0)
        if i > 1 and not found:
            break
        fit.refine(_N_STEPS, blends_known=i > 0)
        fit.drop_spikes()
        fit.update_background()
    fit.drop_spoiled_columns()
    fit.refine(_N_STEPS, blends_known=True)
    fit.drop_insignificant()
    x, flux = fit.x, fit.flux
    flux_e_s = flux * readout.row_rate_hz
    zero_point = np.nan if readout.zero_point_mag is None else readout.zero_point_mag
    streaks = pd.DataFrame(
        {
            "streak_id": np.arange(x.size, dtype=np.int64),
            "x": x,
            "y": np.zeros(x.size),
            "flux_e_row": flux,
            "flux_error_e_row": fit.total_error,
            "flux_e_s": flux_e_s,
            "mag": zero_point - 2.5 * np.log10(flux_e_s),
            "y0": _onset_rows(x, flux, ramps, readout),
        }
    )
    return streaks, float(fit.sigma_px)


def nearest_streak(streaks: pd.DataFrame, x: Any, within_px: float, y: Any = 0.0) -> np.ndarray:
    """Find the index (row number of the table) of the star nearest to each place, -1 where none is near enough.

    Parameters
    ----------
    streaks : DataFrame
        With ``x`` and ``y``.
    x, y : array_like, shape (n,)
        Pixels, broadcast against each other.
    within_px : float
        Largest distance along either axis.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    places = np.stack(np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64)), axis=-1)
    return nearest_place(streaks[["y", "x"]].to_numpy(np.float64), places, within_px)


def nearest_place(known: np.ndarray, places: np.ndarray, within_px: float) -> np.ndarray:
    """As `nearest_streak` for places (n, 2) among known ones (s, 2), both as (y, x)."""
    if not known.size or not places.size:
        return np.full(len(places), -1, dtype=np.int64)
    if len(places) == 1:  # no tree pays for a single place
        distance = np.abs(known - places).max(axis=1)
        nearest = distance.argmin(keepdims=True)
        return np.where(distance[nearest] <= within_px, nearest, -1).astype(np.int64)
    distance, nearest = cKDTree(known).query(places, p=np.inf)
    return np.where(distance <= within_px, nearest, -1).astype(np.int64)


def _onset_rows(x: np.ndarray, flux: np.ndarray, ramps: Sequence[Ramp], readout: Readout) -> np.ndarray:
    """Detector row of each streak that begins or ends here: that of the nearest onset whose height fits its flux."""
    y0 = np.full(x.size, np.nan)
    onsets = [onset for ramp in ramps for onset in zip(ramp.onset_x, ramp.onset_row, ramp.onset_e, strict=True)]
    for onset_x, row, height in onsets if x.size else []:
        detector_row = row + (readout.first_row or 0)
        if not 0 <= detector_row < readout.n_transit:
            continue  # found in the steady rows beside the ramp: no star stands beyond the far edge
        near = np.flatnonzero((np.abs(x - onset_x) <= ONSET_MATCH_PX) & np.isnan(y0))
        if near.size:
            ratio = np.abs(np.log(height / np.maximum(flux[near], 1e-9)))
            best = int(np.argmin(ratio))
            if ratio[best] < np.log(1.6):
                y0[near[best]] = detector_row
    return y0
