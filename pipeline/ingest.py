"""One file and amplifier into the store: read, calibrate, find the stars, clean them. Idempotent, whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shutterless.pipeline.background import sky_level
from shutterless.pipeline.calibrate import Baseline, fit_baseline, iterate_residuals
from shutterless.pipeline.cleaning import clean_streaks
from shutterless.pipeline.cube_calibration import calibrate_cube, star_table
from shutterless.pipeline.cubes import Cube
from shutterless.pipeline.fits_files import frame_stem
from shutterless.pipeline.frames import Frame
from shutterless.pipeline.levels import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.quality import column_statistics, restless_columns, summarise_quality
from shutterless.pipeline.reading import read_amplifier, read_info
from shutterless.pipeline.store import MANIFEST_COLUMNS, ROW_TIMES, EntryWriter, entry_name, read_entry
from shutterless.pipeline.streaks import collapse_profile, find_streaks

# pixels times rows of an amplifier-hour of a stack of images, which has no columns that are read for an hour: as many
# as those of a ZTF amplifier hold in one at 300 rows a second, so that a rate of false alarms means as many trials
PIXEL_ROWS_PER_HOUR = 3072 * 300 * 3600
NO_SMEAR_ROWS = 0.01  # an image is exposed at once: nothing smears time
EVENT_SCALES_ROWS = {"flare": (0.5, 8.0), "burst": (1.0, 24.0)}  # of a cube whose profile knows no others
_LARGEST_HALF = 6e4  # what float16 holds


def ingest_amplifier(
    path: str | Path,
    quadrant: int | None,
    store: str | Path,
    *,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Calibrate one amplifier of one file into a store.

    Parameters
    ----------
    path : path
        FITS file.
    quadrant : int or None
        Amplifier, from 1; None for an image cube.
    store : path
        Folder of the store; made if absent.
    instrument : str, optional
        Profile name or TOML path.
    supplied : mapping of str to str, optional
        Header values given by the user.
    resume : bool
        Keep an entry that was finished from the same file with the same settings.

    Returns
    -------
    dict
        The entry's row of the manifest.

    Raises
    ------
    FrameError
        If the file or amplifier cannot be read.
    """
    path, store = Path(path), Path(store)
    if resume:  # the headers say whether there is anything to do before the pixels are read
        readout = read_info(path, instrument, supplied).readouts.get(quadrant)
        name = entry_name(frame_stem(path), readout.ccd if readout else None, quadrant)
        finished = read_entry(store, name)
        if finished is not None and finished["origin"] == _origin(path, quadrant, instrument, supplied):
            return _manifest_row(name, finished)
    frame = read_amplifier(path, quadrant, instrument, supplied)
    name = entry_name(frame_stem(path), frame.readout.ccd, quadrant)
    return _manifest_row(name, _write_entry(frame, store, name, _origin(path, quadrant, instrument, supplied)))


def _origin(path: Path, quadrant: int | None, instrument: str | None, supplied: Mapping[str, str] | None) -> str:
    """Fingerprint of what an entry is made from: the file's bytes at both ends, its size, settings and version."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(path.stat().st_size - (1 << 20), 0))
        digest.update(file.read())
    settings = [path.stat().st_size, path.stat().st_mtime_ns, quadrant, dict(supplied or {}), version("shutterless")]
    profile = Path(instrument).read_text() if instrument and instrument.endswith(".toml") else instrument
    digest.update(json.dumps([*settings, profile], sort_keys=True).encode())
    return digest.hexdigest()


@singledispatch
def _write_entry(exposure: Frame | Cube, store: Path, name: str, origin: str) -> dict[str, Any]:
    """Calibrate what was read and write its entry; its description."""
    raise TypeError(f"there is no calibration for a {type(exposure).__name__}")


@_write_entry.register
def _(frame: Frame, store: Path, name: str, origin: str) -> dict[str, Any]:
    n_rows, n_columns = frame.pixels_adu.shape
    baseline = fit_baseline(frame)
    steady = baseline.level_e.mean(axis=0)
    profile, error = collapse_profile(baseline.level_e, frame.readout.read_noise_e, n_rows)
    streaks, sigma_px = find_streaks(profile, error, frame.readout.psf_sigma_px, frame.readout, baseline.ramps)
    with EntryWriter(store, name, n_columns=n_columns, n_rows=n_rows) as writer:
        residual = writer.residual[0]
        arrays = _write_residuals(frame, baseline, residual)
        n_moving = clean_streaks(
            residual, arrays["sigma_e"][0], steady, sky_level(steady), streaks, sigma_px, frame.readout
        )
        statistics = column_statistics(residual)
        bright = streaks["flux_e_row"].to_numpy() * pixel_profile(0, sigma_px) > np.median(arrays["sigma_e"])
        bad = restless_columns(statistics, sigma_px, streaks["x"].to_numpy()[bright])
        residual[bad] = np.nan
        arrays["column_noise"] = np.where(bad, np.nan, statistics["noise"]).astype(np.float32)
        arrays["column_tails"] = statistics[["lone_below", "lone_above"]].to_numpy(np.int32)
        return writer.finish(
            arrays,
            streaks,
            {
                **_describe(frame, (1, n_columns, n_rows)),
                "pixel_rows_per_hour": n_columns * frame.readout.row_rate_hz * 3600,
                "psf_sigma_px": sigma_px,
                "n_streaks": len(streaks),
                "n_moving_streaks": n_moving,
                "pocket_capacity_e": baseline.pocket.capacity_e if baseline.pocket else 0.0,
                **summarise_quality(statistics, bad, n_rows),
                "origin": origin,
            },
        )


@_write_entry.register
def _(cube: Cube, store: Path, name: str, origin: str) -> dict[str, Any]:
    n_y, n_columns, n_rows = cube.flux_e.shape
    times, calibrated = cube.readout.row_times, calibrate_cube(cube)
    assert times is not None, "every cube has the times of its rows"
    stars = star_table(cube, calibrated.stars)
    with EntryWriter(store, name, n_y=n_y, n_columns=n_columns, n_rows=n_rows) as writer:
        writer.residual[:] = np.clip(calibrated.residual, -_LARGEST_HALF, _LARGEST_HALF)
        return writer.finish(
            {
                "baseline_e": calibrated.level_e,
                "sigma_e": calibrated.sigma_e,
                "row_residual": calibrated.row_residual,
                "pixel_noise": calibrated.noise,
                "quality": cube.quality,
                "cosmic_rays": calibrated.cosmic_rays.to_numpy(np.float64),
                ROW_TIMES: np.stack([times.seconds, times.archive]),
                **({} if cube.aperture is None else {"aperture": cube.aperture}),
                **({} if calibrated.motion_px is None else {"motion_px": calibrated.motion_px}),
            },
            stars,
            {
                **_describe(cube, (n_y, n_columns, n_rows)),
                "pixel_rows_per_hour": PIXEL_ROWS_PER_HOUR,
                "block_rows": 1,
                "smear_rows": NO_SMEAR_ROWS,
                "token_grid": dict(cube.profile.token_grid),
                "event_scales_s": cube_event_scales(cube),
                "psf_sigma_px": calibrated.stars.sigma_px,
                "n_streaks": len(stars),
                "n_cosmic_rays": len(calibrated.cosmic_rays),
                "n_moving_streaks": len(stars) if calibrated.motion_px is not None else 0,
                "live_pixel_rows": int(np.isfinite(calibrated.residual).sum()),
                "origin": origin,
            },
        )


def cube_event_scales(cube: Cube) -> dict[str, tuple[float, float]]:
    """Kinds of event that are injected into a cube and the range of their scale (s): the profile's, or by cadence."""
    if cube.profile.event_scales_s:
        return dict(cube.profile.event_scales_s)
    cadence_s = 1 / cube.readout.row_rate_hz
    return {kind: (low * cadence_s, high * cadence_s) for kind, (low, high) in EVENT_SCALES_ROWS.items()}


def _describe(exposure: Frame | Cube, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What every entry says of where it is from, and its shape (y, x, t)."""
    return {
        "file": exposure.path.name,
        "source": str(exposure.path.resolve()),
        "instrument": exposure.profile.name,
        "readout": exposure.readout.to_dict(),
        **dict(zip(("n_y", "n_columns", "n_rows"), shape, strict=True)),
    }


def _write_residuals(frame: Frame, baseline: Baseline, residual: np.ndarray) -> dict[str, np.ndarray]:
    """Stream the residuals into their memory map (x, t); return the arrays beside it."""
    n_rows, n_columns = frame.pixels_adu.shape
    n_blocks = -(-n_rows // BLOCK_ROWS)
    level = np.empty((n_blocks, n_columns), dtype=np.float32)
    sigma = np.empty((n_blocks, n_columns), dtype=np.float32)
    row_residual = np.empty(n_rows, dtype=np.float32)
    offset = (baseline.bias_adu - np.median(baseline.bias_adu)) * frame.readout.gain_e_per_adu
    for chunk in iterate_residuals(frame, baseline):
        stop = chunk.start + len(chunk.residual)
        residual[:, chunk.start : stop] = chunk.residual.astype(np.float16).T
        row_residual[chunk.start : stop] = chunk.row_residual
        offset[chunk.start : stop] += chunk.row_residual * np.median(chunk.sigma_e, axis=1)
        offset[chunk.start : stop][np.isnan(chunk.residual).all(axis=1)] = np.nan
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


def _manifest_row(name: str, description: Mapping[str, Any]) -> dict[str, Any]:
    readout = description["readout"]
    return {column: description.get(column, readout.get(column)) for column in MANIFEST_COLUMNS} | {"entry": name}
