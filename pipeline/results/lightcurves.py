"""Fit light curves of all stars of an amplifier row by row, blended neighbours together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.residuals import interpolate_blocks
from shutterless.pipeline.calibration.streaks.background import follow_background
from shutterless.pipeline.calibration.streaks.deblending import fit_blocks
from shutterless.pipeline.calibration.streaks.fit import FIT_HALF_WIDTH
from shutterless.pipeline.calibration.streaks.profile_fit import add_profiles
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

CHUNK_BLOCKS = 8  # blocks of rows converted to float32 at a time: 6 MB for 3,072 columns
BEGUN_FRACTION = 0.5  # of its steady flux; with less in the level of the ramp's rows, a streak has not begun


class LightCurveError(ValueError):
    """A request for a light curve that cannot be fulfilled."""


@dataclass(frozen=True)
class LightCurves:
    """Flux of every streak of an amplifier in every (binned) row.

    Parameters
    ----------
    streaks : DataFrame, s rows
        The streaks, in the order of the arrays below.
    row : ndarray of float64, shape (t,)
        File row; the middle of each bin.
    flux_e_row : ndarray of float64, shape (s, t)
        Electrons per row, all columns; NaN where the column under the star's centre is masked or its streak has not
        begun.
    error_e_row : ndarray of float64, shape (s, t)
        Standard error of the flux from the noise at the stars' slow flux, with neighbours fitted together; NaN as the
        flux.
    readout : Readout
    """

    streaks: pd.DataFrame
    row: np.ndarray
    flux_e_row: np.ndarray
    error_e_row: np.ndarray
    readout: Readout

    @property
    def time_s(self) -> np.ndarray:
        """Read time in seconds since the shutter opened (if unknown, since file row 0), shape (t,)."""
        return self.readout.seconds(self.row)

    def read_utc(self) -> np.ndarray:
        """Read time as ISO 8601 UTC, empty where unknown; shape (t,)."""
        return self._utc(self.row)

    def event_utc_range(self, y0: float) -> tuple[np.ndarray, np.ndarray]:
        """Earliest and latest UTC of the light in each row, for a star at detector row ``y0`` (NaN: unknown).

        As `Readout.event_utc_range`, but much faster, since the times of rows are evenly spaced.
        """
        earliest, latest = self.readout.event_row_range(self.row, y0)
        earliest_utc = self._utc(earliest)
        return earliest_utc, earliest_utc if np.array_equal(earliest, latest) else self._utc(latest)

    def _utc(self, rows: np.ndarray) -> np.ndarray:
        """UTC of rows, extrapolated from the first; row by row only if a leap second falls between them."""
        ends = self.readout.read_utc(rows[[0, -1]]) if rows.size else np.empty(0, dtype="U26")
        if not rows.size or ends[0] == "" or any(":60" in end for end in ends):
            return self.readout.read_utc(rows)
        nanoseconds = np.round((rows - rows[0]) / self.readout.row_rate_hz * 1e9).astype("timedelta64[ns]")
        times = np.datetime64(ends[0], "ns") + nanoseconds
        if abs(times[-1] - np.datetime64(ends[1], "ns")) > np.timedelta64(2, "us"):
            return self.readout.read_utc(rows)
        return np.datetime_as_string((times + np.timedelta64(500, "ns")).astype("datetime64[us]"))


def fit_light_curves(amplifier: Amplifier, rows: slice | None = None, bin_rows: int = 1) -> LightCurves:
    """Fit the fluxes of all streaks to every row.

    Parameters
    ----------
    amplifier : Amplifier
    rows : slice, optional
        File rows, without a step; all rows by default.
    bin_rows : int
        Rows averaged after the fit, weighted by their errors; the last bin may hold fewer.

    Returns
    -------
    LightCurves

    Raises
    ------
    LightCurveError
        If there are no rows, rows outside the amplifier, or ``bin_rows`` is below 1.

    Notes
    -----
    In every row the residual (electrons) is modelled as a sum of one profile per streak, fitted with weights 1/σ². The
    fit divides the light of blended stars by their profiles. The errors are the diagonal of the inverse normal matrix;
    they include photon and read noise, but not scintillation and image motion of bright stars. Each star's slow flux,
    from the same fit to the baseline above the sky, is added. The level of the sky ramp jumps where a streak begins, so
    there the slow flux of the first rows after the ramp is used.
    """
    start, stop = _check_rows(rows, amplifier.n_rows, bin_rows)
    amplifier = replace(amplifier, streaks=_sorted_streaks(amplifier))
    first, profiles = _profiles(amplifier)
    flux, error = _fit_rows(amplifier, first, profiles, start, stop)
    steady, begins = _steady_fluxes(amplifier, first, profiles)
    flux += interpolate_blocks(steady.T, start, stop).T
    not_begun = np.arange(start, stop) < begins[:, None]
    flux[not_begun] = error[not_begun] = np.nan
    row = np.arange(start, stop, dtype=np.float64)
    if bin_rows > 1:
        row, flux, error = _bin(row, flux, error, bin_rows)
    return LightCurves(amplifier.streaks, row, flux, error, amplifier.readout)


def _check_rows(rows: slice | None, n_rows: int, bin_rows: int) -> tuple[int, int]:
    if bin_rows < 1:
        raise LightCurveError(f"bin_rows is {bin_rows}; it must be 1 (every row) or more")
    rows = slice(None) if rows is None else rows
    start, stop = rows.start or 0, n_rows if rows.stop is None else rows.stop
    if rows.step not in (None, 1) or not 0 <= start < stop <= n_rows:
        raise LightCurveError(
            f"rows {rows} are not a segment of the amplifier's {n_rows} rows; pass slice(start, stop)"
        )
    return start, stop


def _sorted_streaks(amplifier: Amplifier) -> pd.DataFrame:
    """Streaks by column; an onset after the end of the ramp is dropped, since the detector has no such row."""
    streaks = amplifier.streaks.sort_values("x", ignore_index=True)
    return streaks.assign(y0=streaks["y0"].where(streaks["y0"] < amplifier.readout.n_transit))


def _profiles(amplifier: Amplifier) -> tuple[np.ndarray, np.ndarray]:
    """First column that each streak lights (s,), possibly beyond the edge, and its light in the columns (s, k)."""
    x, sigma_px = amplifier.streaks["x"].to_numpy(dtype=np.float64), amplifier.psf_sigma_px
    half = max(FIT_HALF_WIDTH, int(np.ceil(4 * sigma_px)))
    first = np.round(x).astype(np.int64) - half
    return first, pixel_profile(first[:, None] + np.arange(2 * half + 1) - x[:, None], sigma_px)


def _fit_rows(
    amplifier: Amplifier, first: np.ndarray, profiles: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Change of every flux against the baseline in rows ``start..stop`` and its error, (s, t)."""
    flux = np.empty((len(first), stop - start))
    error = np.empty_like(flux)
    sigma = amplifier.sigma_e[0]
    edges = np.unique(np.concatenate([[start, stop], np.arange(start // BLOCK_ROWS + 1, sigma.shape[1]) * BLOCK_ROWS]))
    edges = edges[(edges >= start) & (edges <= stop)]
    for i in range(0, len(edges) - 1, CHUNK_BLOCKS):
        part = edges[i : i + CHUNK_BLOCKS + 1]
        here = slice(int(part[0]), int(part[-1]))
        position = np.clip((np.arange(here.start, here.stop) + 0.5) / BLOCK_ROWS - 0.5, 0, sigma.shape[1] - 1)
        lower = position.astype(np.int64)
        out = slice(here.start - start, here.stop - start)
        fit_blocks(
            amplifier.residual[0, :, here].astype(np.float32), sigma, lower, position - lower, part - here.start,
            part[:-1] // BLOCK_ROWS, first, profiles, flux[:, out], error[:, out],
        )  # fmt: skip
    return flux, error


def _steady_fluxes(amplifier: Amplifier, first: np.ndarray, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slow flux of every streak at the centres of blocks (s, b), and the file row in which its streak begins (s,)."""
    baseline, sigma = amplifier.baseline_e[0], amplifier.sigma_e[0]
    n_blocks = sigma.shape[1]
    sky = _sky_under_streaks(baseline, first, profiles, amplifier.streaks["flux_e_row"].to_numpy(dtype=np.float64))
    steady = np.empty((len(first), n_blocks))
    blocks = np.arange(n_blocks)
    signal = ((baseline - sky) / sigma).astype(np.float32)
    edges = np.arange(n_blocks + 1)
    fit_blocks(signal, sigma, blocks, np.zeros(n_blocks), edges, blocks, first, profiles, steady, np.empty_like(steady))
    readout, streaks = amplifier.readout, amplifier.streaks
    begins = np.full(len(first), -np.inf)
    n_ramp = -(-readout.n_ramp_rows(amplifier.n_rows) // BLOCK_ROWS)
    if n_ramp:
        known = streaks["flux_e_row"].to_numpy()[:, None] if n_ramp == n_blocks else steady[:, n_ramp, None]
        absent = steady[:, :n_ramp] < BEGUN_FRACTION * known
        begins = (np.where(absent, blocks[:n_ramp] + 1.0, 0.0) * BLOCK_ROWS).max(axis=1)
        y0 = streaks["y0"].to_numpy(dtype=np.float64)
        begins = np.where(np.isnan(y0), begins, y0 - (readout.first_row or 0))
        steady[:, :n_ramp] = known
    return steady, begins


def _sky_under_streaks(baseline: np.ndarray, first: np.ndarray, profiles: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Sky, ghosts and the light of stars too faint to be streaks, (x, b).

    The sky is the smooth level over columns after subtraction of the streaks, as in the measurement of their fluxes,
    since a crowded amplifier has no column without stars. It varies over time as a whole.
    """
    middle = np.median(baseline, axis=1).astype(np.float64)
    smooth = follow_background(middle - add_profiles(first, profiles[:, None], flux, len(middle)))
    return smooth[:, None] + np.median(baseline - middle[:, None], axis=0)


def _bin(row: np.ndarray, flux: np.ndarray, error: np.ndarray, bin_rows: int) -> tuple[np.ndarray, ...]:
    """Means of bins: plain for the rows, weighted by 1/error² for the fluxes; NaN where a bin has no valid row."""
    starts = np.arange(0, row.size, bin_rows)
    counts = np.diff(np.append(starts, row.size))
    valid = np.isfinite(error)
    weight = np.where(valid, error, np.inf) ** -2.0
    total = np.add.reduceat(weight, starts, axis=1)
    total[total == 0] = np.nan
    weighted = np.add.reduceat(weight * np.where(valid, flux, 0), starts, axis=1)
    return np.add.reduceat(row, starts) / counts, weighted / total, 1 / np.sqrt(total)
