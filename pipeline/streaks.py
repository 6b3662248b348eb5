"""Which star stands in which column: positions and fluxes from the time-collapsed profile of an amplifier."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.ramp import Ramp
from shutterless.pipeline.readout import Readout

STREAK_COLUMNS = ("streak_id", "x", "flux_e_row", "flux_error_e_row", "flux_e_s", "mag", "y0")
HALF_WIDTH = 6  # columns to either side of a streak that its profile is taken to reach
MIN_SIGNIFICANCE = 5.0
ONSET_MATCH_PX = 1.5
_N_PASSES = 4
_N_POSITION_STEPS = 6
_N_WIDTH_STREAKS = 20  # brightest streaks that the width of the point-spread function is fitted to


def collapse_profile(level_e: np.ndarray, read_noise_e: float, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Time-collapsed profile of an amplifier and its error.

    Parameters
    ----------
    level_e : ndarray, shape (b, x)
        Baseline at block centres (electrons per pixel).
    read_noise_e : float
    n_rows : int
        Rows that went into it.

    Returns
    -------
    profile_e, error_e : ndarray of float64, shape (x,)
        The error is that of a median of ``n_rows`` rows, √(π/2) times that of their mean.
    """
    profile = np.median(level_e, axis=0).astype(np.float64)
    variance = np.maximum(profile, 0) + read_noise_e**2
    return profile, np.sqrt(np.pi / 2 * variance / max(n_rows, 1))


def find_streaks(
    profile_e: np.ndarray, error_e: np.ndarray, sigma_px: float, readout: Readout, ramp: Ramp | None = None
) -> tuple[pd.DataFrame, float]:
    """Find and fit every streak of an amplifier.

    Parameters
    ----------
    profile_e, error_e : ndarray, shape (x,)
        Time-collapsed profile and its error (electrons per pixel and row).
    sigma_px : float
        First guess of the width of the point-spread function (pixels).
    readout : Readout
    ramp : Ramp, optional
        Where streaks begin; gives ``y0`` to the streaks that begin there.

    Returns
    -------
    streaks : DataFrame
        `STREAK_COLUMNS`: ``x`` (pixels, read order), ``flux_e_row`` and its error (electrons per row, all columns),
        ``flux_e_s``, ``mag`` (NaN without a zero point), ``y0`` (detector row, NaN where unknown); by ``x``.
    sigma_px : float
        Width of the point-spread function, fitted where bright streaks allow it.

    Notes
    -----
    Peaks of the profile filtered with the point-spread function start a simultaneous weighted least-squares fit of
    all positions and fluxes (Gauss–Newton on a banded normal matrix); its residual is searched again, so that
    blended streaks come apart.
    """
    sky = sky_level(profile_e)
    signal = profile_e - sky
    x = np.empty(0)
    for _ in range(_N_PASSES):
        model = _model(signal.size, x, _fit_fluxes(signal, error_e, x, sigma_px)[0], sigma_px)
        peaks = _find_peaks(signal - model, error_e, sigma_px, x)
        if not peaks.size:
            break
        x, sigma_px = _refine(signal, error_e, np.sort(np.append(x, peaks)), sigma_px)
    flux, flux_error = _fit_fluxes(signal, error_e, x, sigma_px)
    while not np.all(keep := flux > MIN_SIGNIFICANCE * flux_error):
        x = x[keep]  # what is dropped had a share of its neighbours' light
        flux, flux_error = _fit_fluxes(signal, error_e, x, sigma_px)
    flux_e_s = flux * readout.row_rate_hz
    zero_point = np.nan if readout.zero_point_mag is None else readout.zero_point_mag
    streaks = pd.DataFrame(
        {
            "streak_id": np.arange(x.size, dtype=np.int64),
            "x": x,
            "flux_e_row": flux,
            "flux_error_e_row": flux_error,
            "flux_e_s": flux_e_s,
            "mag": zero_point - 2.5 * np.log10(flux_e_s),
            "y0": _onset_rows(x, flux, ramp, readout),
        }
    )
    return streaks, float(sigma_px)


def nearest_streak(streaks: pd.DataFrame, x: np.ndarray, within_px: float) -> np.ndarray:
    """Index (row number of the table) of the nearest streak to each column, -1 where none is near enough."""
    positions = streaks["x"].to_numpy()
    x = np.asarray(x, dtype=np.float64)
    if positions.size == 0:
        return np.full(x.shape, -1, dtype=np.int64)
    right = np.clip(np.searchsorted(positions, x), 0, positions.size - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(positions[left] - x) <= np.abs(positions[right] - x), left, right)
    return np.where(np.abs(positions[nearest] - x) <= within_px, nearest, -1)


def sky_level(profile_e: np.ndarray) -> float:
    """Level of the columns that no star reaches: the mode of the lower half, by the shortest tenth."""
    values = np.sort(profile_e)
    n = max(values.size // 10, 2)
    widths = values[n - 1 :] - values[: values.size - n + 1]
    start = int(np.argmin(widths[: max(widths.size // 2, 1)]))
    return float(np.median(values[start : start + n]))


def _taps(n_columns: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column indices reached by each streak, (s, 2 h + 1), and whether they lie on the amplifier."""
    columns = np.round(x).astype(np.int64)[:, None] + np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    inside = (columns >= 0) & (columns < n_columns)
    return np.clip(columns, 0, n_columns - 1), inside


def _profiles(n_columns: int, x: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
    columns, inside = _taps(n_columns, x)
    return columns, pixel_profile(columns - x[:, None], sigma_px) * inside


def _design(n_columns: int, columns: np.ndarray, values: np.ndarray) -> coo_array:
    """Sparse (x, s) matrix of one profile per streak."""
    streak = np.broadcast_to(np.arange(len(columns))[:, None], columns.shape)
    return coo_array((values.ravel(), (columns.ravel(), streak.ravel())), shape=(n_columns, len(columns)))


def _model(n_columns: int, x: np.ndarray, flux: np.ndarray, sigma_px: float) -> np.ndarray:
    columns, values = _profiles(n_columns, x, sigma_px)
    return np.bincount(columns.ravel(), weights=(values * flux[:, None]).ravel(), minlength=n_columns)


def _solve(design: coo_array, signal: np.ndarray, error: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares with a small ridge; parameters and their errors (diagonal of the normal matrix)."""
    weighted = diags_array(1 / error) @ design.tocsr()
    normal = (weighted.T @ weighted).tocsc()
    diagonal = normal.diagonal()
    normal = normal + diags_array(ridge * diagonal + 1e-12)
    return np.atleast_1d(spsolve(normal, weighted.T @ (signal / error))), 1 / np.sqrt(np.maximum(diagonal, 1e-30))


def _fit_fluxes(signal: np.ndarray, error: np.ndarray, x: np.ndarray, sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
    if x.size == 0:
        return np.empty(0), np.empty(0)
    return _solve(_design(signal.size, *_profiles(signal.size, x, sigma_px)), signal, error, ridge=1e-6)


def _find_peaks(residual: np.ndarray, error: np.ndarray, sigma_px: float, known: np.ndarray) -> np.ndarray:
    """Columns where a new streak stands out of the residual and no known one is within a pixel."""
    kernel = pixel_profile(np.arange(-HALF_WIDTH, HALF_WIDTH + 1), sigma_px)
    weight = 1 / error**2
    score = np.convolve(residual * weight, kernel, mode="same") / np.sqrt(np.convolve(weight, kernel**2, mode="same"))
    padded = np.pad(score, 2, constant_values=-np.inf)
    highest = np.max([padded[i : i + score.size] for i in range(5)], axis=0)
    peaks = np.flatnonzero((score == highest) & (score > MIN_SIGNIFICANCE)).astype(np.float64)
    if known.size and peaks.size:
        peaks = peaks[np.min(np.abs(peaks[:, None] - known[None, :]), axis=1) > 1.0]
    return peaks


def _refine(signal: np.ndarray, error: np.ndarray, x: np.ndarray, sigma_px: float) -> tuple[np.ndarray, float]:
    """Gauss–Newton steps on all positions and fluxes, and the common width while bright streaks carry it."""
    for _ in range(_N_POSITION_STEPS):
        flux, _ = _fit_fluxes(signal, error, x, sigma_px)
        columns, values = _profiles(signal.size, x, sigma_px)
        slope = (pixel_profile(columns - x[:, None] - 0.01, sigma_px) - values) / 0.01
        widening = (pixel_profile(columns - x[:, None], sigma_px + 0.01) - values) / 0.01
        residual = signal - _model(signal.size, x, flux, sigma_px)
        # the profile's own uncertainty (2 % of the local light) keeps one very bright star from ruling the width
        tolerance = np.sqrt(error**2 + (0.02 * (signal - residual)) ** 2)
        shift, shift_error = _solve(
            _design(signal.size, columns, slope * flux[:, None]), residual, tolerance, ridge=1e-3
        )
        x = x + np.clip(np.where(flux > 3 * np.abs(shift_error), shift, 0.0), -0.3, 0.3)
        bright = np.where(flux >= np.sort(flux)[-_N_WIDTH_STREAKS:][0], flux, 0.0)  # faint ones hide blends
        broadening = np.bincount(columns.ravel(), weights=(widening * bright[:, None]).ravel(), minlength=signal.size)
        information = np.sum((broadening / tolerance) ** 2)
        if information > 1e4:  # the width is known to better than 0.01 px
            step = np.sum(broadening * residual / tolerance**2) / information
            sigma_px = float(np.clip(sigma_px + np.clip(step, -0.05, 0.05), 0.4, 4.0))
    order = np.argsort(x)
    x = x[order]
    separate = np.append(True, np.diff(x) > 0.5)  # two that have run together are one
    return x[separate], sigma_px


def _onset_rows(x: np.ndarray, flux: np.ndarray, ramp: Ramp | None, readout: Readout) -> np.ndarray:
    """Detector row of each streak that begins in the ramp: the onset nearest in column whose height is its flux."""
    y0 = np.full(x.size, np.nan)
    if ramp is None or x.size == 0:
        return y0
    for onset_x, row, height in zip(ramp.onset_x, ramp.onset_row, ramp.onset_e, strict=True):
        if row + (readout.first_row or 0) >= readout.n_transit:
            continue  # found in the rows that follow the ramp: no star stands beyond the far edge
        near = np.flatnonzero((np.abs(x - onset_x) <= ONSET_MATCH_PX) & np.isnan(y0))
        if near.size:
            ratio = np.abs(np.log(height / np.maximum(flux[near], 1e-9)))
            best = int(np.argmin(ratio))
            if ratio[best] < np.log(1.6):
                y0[near[best]] = row + (readout.first_row or 0)
    return y0
