"""Calibrate an exposure in memory: find stars, clean streaks, mask variable columns, note the quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import ROW_TIMES, Amplifier, build_amplifier
from shutterless.pipeline.calibration.cubes.calibrate import calibrate_cube, cube_star_table
from shutterless.pipeline.calibration.cubes.noise_ratio import compare_noise
from shutterless.pipeline.calibration.electrons import masked_rows
from shutterless.pipeline.calibration.motion.clean import clean_streaks
from shutterless.pipeline.calibration.quality import column_statistics, summarise_quality, variable_columns
from shutterless.pipeline.calibration.residuals import Baseline, fit_baseline, iterate_residuals
from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.pipeline.calibration.streaks.find import collapse_profile, find_streaks
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.compiled.half_floats import clip_to_half
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA, median
from shutterless.pipeline.events.kinds import EVENT_TABLE
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.cubes import Cube
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR

_NOISE_SOURCE = "GAIN and READNOI say"
_NOISE_COLUMNS, _MOST_SATURATED = 256, 0.5  # columns that tell the noise; share of pixels that may be saturated
NO_SMEAR_ROWS = 0.01  # all pixels of an image are exposed at once: nothing smears time


@dataclass(frozen=True)
class Calibrated:
    """A calibrated exposure as a store holds it.

    Parameters
    ----------
    residual : ndarray of float16, shape (y, x, t)
        In units of σ; NaN where masked.
    arrays : mapping of str to ndarray
        By their names in a store.
    streaks : DataFrame
    description : mapping
        Plain values for JSON.
    """

    residual: np.ndarray
    arrays: Mapping[str, np.ndarray]
    streaks: pd.DataFrame
    description: Mapping[str, Any]

    def amplifier(self, name: str) -> Amplifier:
        """Build the `Amplifier` that a store would give for an entry ``name``."""
        return build_amplifier(name, self.description, self.residual, self.arrays, self.streaks)


def exposure_shape(exposure: Frame | Cube) -> tuple[int, int, int]:
    """Shape (y, x, t) of the residual of an exposure; continuous readout is one row high."""
    if isinstance(exposure, Cube):
        n_y, n_columns, n_rows = exposure.flux_e.shape
        return n_y, n_columns, n_rows
    n_rows, n_columns = exposure.pixels_adu.shape
    return 1, n_columns, n_rows


@singledispatch
def calibrate_exposure(exposure: Frame | Cube, residual: np.ndarray) -> Calibrated:
    """Calibrate a frame or a cube.

    Parameters
    ----------
    exposure : Frame or Cube
    residual : ndarray of float16, shape `exposure_shape`
        Filled in place; memory or a memory map.
    """
    raise TypeError(f"there is no calibration for a {type(exposure).__name__}")


@calibrate_exposure.register
def _(frame: Frame, residual: np.ndarray) -> Calibrated:
    n_rows = len(frame.pixels_adu)
    frame = _believe_saturation(frame)
    baseline = fit_baseline(frame)
    steady = baseline.level_e.mean(axis=0)
    profile, error = collapse_profile(baseline.level_e, frame.readout.read_noise_e, n_rows)
    streaks, sigma_px = find_streaks(profile, error, frame.readout.psf_sigma_px, frame.readout, baseline.ramps)
    arrays = _write_residuals(frame, baseline, residual[0])
    notes = _believe_noise_of_rows(residual[0], arrays)
    n_moving, lag_rows = clean_streaks(
        residual[0], arrays["sigma_e"][0], steady, sky_level(steady), streaks, sigma_px, frame.readout
    )
    statistics = column_statistics(residual[0])
    bright = streaks["flux_e_row"].to_numpy() * pixel_profile(0, sigma_px) > np.median(arrays["sigma_e"])
    bad = variable_columns(statistics, sigma_px, streaks["x"].to_numpy()[bright])
    residual[0, bad] = np.nan
    arrays["column_noise"] = np.where(bad, np.nan, statistics["noise"]).astype(np.float32)
    arrays["column_tails"] = statistics[["isolated_below", "isolated_above"]].to_numpy(np.int32)
    description = {
        **_describe(frame),
        "pixel_rows_per_hour": frame.readout.pixel_rows_per_hour(residual.shape[1]),
        "psf_sigma_px": sigma_px,
        "n_streaks": len(streaks),
        "n_moving_streaks": n_moving,
        "serial_trap_capacity_e": baseline.serial_trap.capacity_e if baseline.serial_trap else 0.0,
        **summarise_quality(statistics, bad, n_rows),
    }
    description["notes"] += notes or compare_noise(description["noise"], _NOISE_SOURCE)
    return Calibrated(residual, arrays, streaks.assign(lag_rows=lag_rows), description)


@calibrate_exposure.register
def _(cube: Cube, residual: np.ndarray) -> Calibrated:
    times, calibrated = cube.readout.row_times, calibrate_cube(cube)
    assert times is not None, "every cube has the times of its rows"
    stars = cube_star_table(cube, calibrated.stars)
    residual[:] = clip_to_half(calibrated.residual)
    arrays = {
        "baseline_e": calibrated.level_e,
        "sigma_e": calibrated.sigma_e,
        "row_residual": calibrated.row_residual,
        "pixel_noise": calibrated.noise,
        "quality": cube.quality,
        "cosmic_rays": calibrated.cosmic_rays.to_numpy(np.float64),
        ROW_TIMES: np.stack([times.seconds, times.archive]),
        **({} if cube.aperture is None else {"aperture": cube.aperture}),
        **({} if calibrated.motion_px is None else {"motion_px": calibrated.motion_px}),
    }
    description = {
        **_describe(cube),
        "pixel_rows_per_hour": PIXEL_ROWS_PER_HOUR,
        "block_rows": 1,
        "smear_rows": NO_SMEAR_ROWS,
        "token_grid": dict(cube.profile.token_grid),
        "event_scales_s": _cube_event_scales(cube),
        "psf_sigma_px": calibrated.stars.sigma_px,
        "n_streaks": len(stars),
        "n_cosmic_rays": len(calibrated.cosmic_rays),
        "n_moving_streaks": len(stars) if calibrated.motion_px is not None else 0,
        "live_pixel_rows": int(np.isfinite(calibrated.residual).sum()),
        "notes": [*cube.notes, *calibrated.notes],
    }
    return Calibrated(residual, arrays, stars, description)


def _believe_saturation(frame: Frame) -> Frame:
    """The frame, without a level of saturation that most of its pixels exceed: these are no saturated pixels."""
    saturation = frame.readout.saturation_adu
    share = float(np.mean(frame.pixels_adu[::BLOCK_ROWS] >= saturation))
    if share <= _MOST_SATURATED:
        return frame
    keyword = frame.profile.keywords.get("saturation_adu", "the saturation")
    note = f"{keyword} = {saturation:g} ADU is exceeded by {share:.0%} of all pixels: it is not used"
    readout = replace(frame.readout, saturation_adu=np.inf)
    return replace(frame, readout=readout, notes=(*frame.notes, note))


def _believe_noise_of_rows(residual: np.ndarray, arrays: dict[str, np.ndarray]) -> list[str]:
    """Scale residuals (x, t) and σ to the noise of the data where the header's is far off; return what was done.

    The noise is that of the median column from row to row, which streaks, motion and slow changes do not reach.
    """
    some = residual[:: max(len(residual) // _NOISE_COLUMNS, 1)].astype(np.float32)
    steps = np.abs(np.diff(some, axis=1))
    known = np.isfinite(steps)
    typical = [median(steps[k, known[k]]) for k in np.flatnonzero(known.sum(axis=1) > steps.shape[1] // 2)]
    if not typical:
        return []
    ratio = MAD_TO_SIGMA * float(np.median(typical)) / np.sqrt(2)
    lines = compare_noise(ratio, _NOISE_SOURCE)
    if lines:
        for column in residual:
            column[:] = clip_to_half(column.astype(np.float32) / ratio)
        arrays["sigma_e"] *= np.float32(ratio)
        arrays["row_residual"] /= np.float32(ratio)
    return [f"{line}; that of the data is taken" for line in lines]


def _cube_event_scales(cube: Cube) -> dict[str, tuple[float, float]]:
    """Kinds of event to inject into a cube with the range of their scale (s): the profile's, else by cadence."""
    if cube.profile.event_scales_s:
        return dict(cube.profile.event_scales_s)
    cadence_s = 1 / cube.readout.row_rate_hz
    in_rows = {name: kind.cube_scale_rows for name, kind in EVENT_TABLE.items() if kind.cube_scale_rows}
    return {name: (low * cadence_s, high * cadence_s) for name, (low, high) in in_rows.items()}


def _describe(exposure: Frame | Cube) -> dict[str, Any]:
    """Origin, readout and shape (y, x, t) of an exposure, for its entry's description."""
    return {
        "file": exposure.path.name,
        "source": str(exposure.path.resolve()),
        "instrument": exposure.profile.name,
        "notes": list(exposure.notes),
        "readout": exposure.readout.to_dict(),
        **dict(zip(("n_y", "n_columns", "n_rows"), exposure_shape(exposure), strict=True)),
    }


def _write_residuals(frame: Frame, baseline: Baseline, residual: np.ndarray) -> dict[str, np.ndarray]:
    """Write the residuals to their memory map (x, t) chunk by chunk; return the other arrays of the entry."""
    n_rows, n_columns = frame.pixels_adu.shape
    n_blocks = -(-n_rows // BLOCK_ROWS)
    level = np.empty((n_blocks, n_columns), dtype=np.float32)
    sigma = np.empty((n_blocks, n_columns), dtype=np.float32)
    row_residual = np.empty(n_rows, dtype=np.float32)
    offset = (baseline.bias_adu - np.median(baseline.bias_adu)) * frame.readout.gain_e_per_adu
    for chunk in iterate_residuals(frame, baseline):
        stop = chunk.start + len(chunk.residual)
        chunk.write_to(residual)
        row_residual[chunk.start : stop] = chunk.row_residual
        offset[chunk.start : stop] += chunk.row_residual * chunk.median_sigma_e
        offset[chunk.start : stop][masked_rows(chunk.residual)] = np.nan
        for start in range(chunk.start, stop, BLOCK_ROWS):
            rows = slice(start - chunk.start, min(start + BLOCK_ROWS, stop) - chunk.start)
            level[start // BLOCK_ROWS] = chunk.level_e[rows].mean(axis=0)
            sigma[start // BLOCK_ROWS] = chunk.sigma_e[rows].mean(axis=0)
    return {
        "baseline_e": level.T[None],
        "sigma_e": sigma.T[None],
        "row_residual": row_residual,
        "row_offset_e": offset.astype(np.float32),
    }
