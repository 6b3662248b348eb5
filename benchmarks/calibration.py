"""Measure the residuals of event-free frames with all nuisances on, after each step of the calibration.

    python benchmarks/calibration.py --amplifiers 2

Amplifiers of 16,384 rows are simulated in the steady state: atmosphere, cosmic rays, pickup, drift, serial trap, hot
columns, traps, dropped rows, satellites, aircraft, meteors, ghosts. The truth masks pixels that an artefact reaches.
After every step the script prints the noise over its expectation in sky columns and in the seven columns of isolated
streaks, and the correlation of neighbouring rows and columns of sky. At the end it prints the tails at 5 sigma against
Poisson and read noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.motion.clean import subtract_own_motions
from shutterless.pipeline.calibration.motion.shared import bright_streaks, learn_motion, subtract_shared
from shutterless.pipeline.calibration.quality import expected_tails
from shutterless.pipeline.calibration.residuals import Baseline, fit_baseline, iterate_residuals, noise_floor_e2
from shutterless.pipeline.calibration.serial_trap import noise_gain
from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.pipeline.calibration.streaks.find import collapse_profile, find_streaks
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import PIXELS
from shutterless.pipeline.simulation.settings import SceneSettings

MAG_BINS = ((7.5, 10.0), (10.0, 10.7), (10.7, 11.3), (11.3, 12.0), (12.0, 12.5), (12.5, 13.5), (13.5, 15.0))
SKY_COLUMN = 0.01  # starlight in a sky column, over the sky
ISOLATED_PX, ISOLATED_SHARE = (
    8.0,
    0.1,
)  # an isolated streak has nothing brighter than this share of it within this distance
RAY_REACH, SERIAL_TRAP_REACH = (
    1,
    8,
)  # pixels around a cosmic ray, and columns behind it into which the serial trap releases charge


def simulate(settings: SceneSettings, quadrant: int) -> tuple[Frame, AmplifierContent]:
    """One amplifier in memory, as the reader returns it."""
    content = draw_content(settings, 1, quadrant, 0)
    data, overscan = render(settings, content, settings.generator(PIXELS, 1, quadrant, 0))
    readout = Readout(
        settings.row_rate_hz, 6.2, 10.0, 48_000.0, content.scene.n_transit, first_row=settings.first_row,
        zero_point_mag=settings.magnitude_of_one_e_s, pixel_scale_arcsec=1.012, seeing_arcsec=settings.seeing_arcsec,
    )  # fmt: skip
    return Frame(data, overscan, readout, settings.profile, Path("memory.fits")), content


def artefact_mask(content: AmplifierContent) -> np.ndarray:
    """Pixels (x, t) that hold more than sky, stars and noise, by the truth."""
    n_columns, n_rows = content.scene.n_columns, len(content.rows)
    mask = np.zeros((n_columns, n_rows), dtype=bool)
    for ray in content.cosmic_rays:
        for row, column in zip(ray.rows, ray.columns, strict=True):
            here = slice(max(column - RAY_REACH, 0), column + SERIAL_TRAP_REACH + 1)
            mask[here, max(row - RAY_REACH, 0) : row + RAY_REACH + 1] = True
    for burst in content.pickup_bursts:
        mask[:, burst.first_row : burst.first_row + len(burst.offsets_e)] = True
    if content.detector is not None:
        faults = [*content.detector.hot_columns, *content.detector.traps]
        for column in [fault.column for fault in faults]:
            mask[max(column - 1, 0) : column + 3] = True
    if content.sky_lights is not None:
        trails = replace(content.sky_lights, ghosts=())
        for start in range(0, n_rows, 256):
            light = np.zeros((min(256, n_rows - start), n_columns))
            trails.add(light, int(content.rows[start]))
            mask[:, start : start + len(light)] |= (light > 0.5).T
    return mask


def calibrate(frame: Frame, baseline: Baseline, *, shared_rows: bool) -> tuple[np.ndarray, np.ndarray]:
    """Residual (x, t) and noise per block (x, b), as in the store."""
    n_rows, n_columns = frame.pixels_adu.shape
    residual = np.empty((n_columns, n_rows), dtype=np.float16)
    sigma = np.empty((n_columns, -(-n_rows // BLOCK_ROWS)), dtype=np.float32)
    for chunk in iterate_residuals(frame, baseline, shared_rows=shared_rows):
        stop = chunk.start + len(chunk.residual)
        residual[:, chunk.start : stop] = chunk.residual.T
        for row in range(chunk.start, stop, BLOCK_ROWS):
            sigma[:, row // BLOCK_ROWS] = chunk.sigma_e[row - chunk.start : row - chunk.start + BLOCK_ROWS].mean(axis=0)
    return residual, sigma


def steps(frame: Frame) -> Iterator[tuple[str, np.ndarray]]:
    """Residuals after each step of the calibration."""
    whole = fit_baseline(frame)
    constant = np.full_like(whole.bias_adu, np.median(whole.bias_adu))
    level = np.repeat(whole.level_e.mean(axis=0, keepdims=True), len(whole.level_e), axis=0)
    uncorrected = replace(whole, level_e=as_read(frame, whole), serial_trap=None)
    yield "constant bias and level", calibrate(frame, replace(uncorrected, bias_adu=constant), shared_rows=False)[0]
    yield "+ overscan of each row", calibrate(frame, uncorrected, shared_rows=False)[0]
    yield "+ serial trap", calibrate(frame, replace(whole, level_e=level), shared_rows=False)[0]
    yield "+ running level", calibrate(frame, whole, shared_rows=False)[0]
    residual, sigma = calibrate(frame, whole, shared_rows=True)
    yield "+ shared rows", residual.copy()
    steady = whole.level_e.mean(axis=0)
    profile, error = collapse_profile(whole.level_e, frame.readout.read_noise_e, len(frame.pixels_adu))
    streaks, sigma_px = find_streaks(profile, error, frame.readout.psf_sigma_px, frame.readout)
    bright, crowding = bright_streaks(
        sigma, steady, sky_level(steady), streaks, sigma_px, frame.readout, residual.shape[1]
    )
    motion = learn_motion(residual, bright, crowding, sigma_px, frame.readout)
    if motion is not None:
        subtract_shared(residual, bright, motion)
    yield "+ shared motion", residual.copy()
    subtract_own_motions(residual, bright, sigma_px, streaks["x"].to_numpy(), frame.readout)
    yield "+ own motion", residual


def as_read(frame: Frame, baseline: Baseline) -> np.ndarray:
    """Constant level of each column without the correction of the serial trap."""
    chunks = iterate_residuals(
        frame, replace(baseline, level_e=np.zeros_like(baseline.level_e), serial_trap=None), shared_rows=False
    )
    floor = frame.readout.read_noise_e**2 + frame.readout.gain_e_per_adu**2 / 12
    mean = np.mean([np.nanmedian(chunk.residual, axis=0) for chunk in chunks], axis=0) * np.sqrt(floor)
    return np.repeat(mean[None].astype(np.float32), len(baseline.level_e), axis=0)


class Columns:
    """Columns of sky, and columns of isolated streaks by magnitude, of an amplifier."""

    def __init__(self, content: AmplifierContent) -> None:
        scene = content.scene
        light = scene.baseline_e(content.rows[-1:])[0] - scene.sky_e_s * scene.n_transit / scene.row_rate_hz
        self.sky_e = float(scene.sky_e_s * scene.n_transit / scene.row_rate_hz)
        self.sky = np.flatnonzero(light < SKY_COLUMN * self.sky_e)
        self.streaks: dict[tuple[float, float], list[int]] = {bounds: [] for bounds in MAG_BINS}
        for x, mag, flux in zip(scene.x, scene.mag, scene.flux_e_row, strict=True):
            near = (np.abs(scene.x - x) < ISOLATED_PX) & (scene.flux_e_row > ISOLATED_SHARE * flux)
            if near.sum() == 1 and 6 < x < scene.n_columns - 7:
                for bounds, columns in self.streaks.items():
                    if bounds[0] <= mag < bounds[1]:
                        columns.append(round(x))

    def spread(self, residual: np.ndarray, middle: int) -> float:
        """Largest standard deviation of the seven columns around a streak, without outliers."""
        window = residual[middle - 3 : middle + 4].astype(np.float32)
        limit = np.maximum(6.0, 6 * np.nanstd(window, axis=1, keepdims=True))
        return float(np.nanmax(np.nanstd(np.where(np.abs(window) < limit, window, np.nan), axis=1)))

    def counts(self) -> dict[str, int]:
        """Number of isolated streaks in each range of magnitudes."""
        return {f"r {low:g}-{high:g}": len(columns) for (low, high), columns in self.streaks.items()}

    def row(self, residual: np.ndarray) -> dict[str, float]:
        """Numbers of one step: medians over streaks, correlations of neighbouring sky pixels."""
        sky = residual[self.sky].astype(np.float32)
        sky[np.abs(sky) > 6] = np.nan
        beside = np.flatnonzero(np.diff(self.sky) == 1)
        numbers = {
            "sky": float(np.nanstd(sky)),
            "rows": correlation(sky[:, 1:], sky[:, :-1]),
            "columns": correlation(sky[beside], sky[beside + 1]),
        }
        for (low, high), columns in self.streaks.items():
            values = [self.spread(residual, middle) for middle in columns]
            numbers[f"r {low:g}-{high:g}"] = float(np.nanmedian(values)) if values else np.nan
        return numbers


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two arrays of mean 0, NaN left out."""
    return float(np.nanmean(one * other) / np.sqrt(np.nanmean(one**2) * np.nanmean(other**2)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amplifiers", type=int, default=2, choices=range(1, 5))
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--n-bright-stars", type=float, default=300.0)
    arguments = parser.parse_args()
    settings = SceneSettings(
        rows=arguments.rows, first_row=5000, events=0, atmosphere=True, detector=True, sky_lights=True,
        n_bright_stars=arguments.n_bright_stars, seed=arguments.seed,
    )  # fmt: skip
    tables, counts = [], []
    below, above, pixels, expected = 0, 0, 0, (0.0, 0.0)
    for quadrant in range(1, arguments.amplifiers + 1):
        frame, content = simulate(settings, quadrant)
        started = time.process_time()
        columns, mask = Columns(content), artefact_mask(content)
        rows = {}
        for name, residual in steps(frame):
            residual[mask] = np.nan
            rows[name] = columns.row(residual)
        tables.append(pd.DataFrame(rows).T)
        counts.append(columns.counts())
        sky = residual[columns.sky].astype(np.float32)
        below, above, pixels = (
            below + int((sky < -5).sum()),
            above + int((sky > 5).sum()),
            pixels + int(np.isfinite(sky).sum()),
        )
        gain = noise_gain(columns.sky_e, settings.profile.serial_trap)
        expected = expected_tails(columns.sky_e, np.sqrt(gain * noise_floor_e2(frame.readout)))
        print(f"quadrant {quadrant}: {mask.mean():.2%} masked by truth, {time.process_time() - started:.0f} s")
    print("isolated streaks:", ", ".join(f"{name}: {n}" for name, n in pd.DataFrame(counts).sum().items()))
    print(pd.concat(tables).groupby(level=0, sort=False).mean().to_string(float_format="{:.3f}".format))
    print(f"tails of {pixels / 1e6:.1f} million sky pixels at 5 sigma, found / expected:")
    for name, found, share in (("below", below, expected[0]), ("above", above, expected[1])):
        print(f"  {name}: {found} / {share * pixels:.1f}")


if __name__ == "__main__":
    main()
