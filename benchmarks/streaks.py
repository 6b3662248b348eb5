"""Measure how well and how fast streaks are found and fitted, and the assignment of events to stars of close pairs.

    python benchmarks/streaks.py --rows 8192 --amplifiers 2

Steady amplifiers of the ZTF camera with artefacts are simulated and calibrated as by `ingest`: level, collapsed
profile, streaks. Densities are stars brighter than r = 15 on an amplifier. Terms used in the tables:

* *isolated*: brighter than r = 13, and all other stars within 6 px together have less than 2 % of its flux.
* *countable*: brighter than r = 14, more than 4 px from the edge, and within 1.5 px no other star has a third
  of its flux or more. It is *found* if a streak of its own within 1 px has its flux within a factor of 1.5.
* *false*: a streak brighter than r = 14 for which, within 1 px, neither one star nor the light of all stars together
  agrees within a factor of 1.5. An unresolved pair is one streak with the light of both, and not false.

With an atmosphere, true positions and fluxes are means over the rows of the file in each star's own time (row - y0).
The run time is that of `collapse_profile` and `find_streaks` on 1,024 rows, best of several. Pairs of stars 3 px apart,
with a flux ratio of up to three, get top-hat events of optimal S/N 10 to 15. An event is assigned to the star whose
light curve rises more, in units of its error. The search assigns it to the streak of its strongest trigger.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import wilson_interval
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.residuals import (
    BLOCK_ROWS,
    Baseline,
    fit_baseline,
    iterate_residuals,
    noise_floor_e2,
)
from shutterless.pipeline.calibration.streaks.find import collapse_profile, find_streaks
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.lightcurves import fit_light_curves
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import PIXELS, Scene
from shutterless.pipeline.simulation.settings import SceneSettings

SPEED_ROWS = 1024
LEAST_RATIO, FACTOR, WITHIN_PX = 1 / 3, 1.5, 1.0
PAIR_PX, PAIR_EVERY_PX, EVENT_EVERY_ROWS = 3.0, 40, 160


@dataclass(frozen=True)
class Truth:
    """Mean positions and fluxes of stars over the rows of a file."""

    x: np.ndarray
    flux: np.ndarray
    mag: np.ndarray

    def ratios(self, within_px: float) -> np.ndarray:
        """Flux of every other star within ``within_px`` relative to each star's own, (s, s); 0 beyond."""
        distance = np.abs(self.x[:, None] - self.x)
        np.fill_diagonal(distance, np.inf)
        return (distance < within_px) * self.flux / self.flux[:, None]

    def inside(self, edge_px: float, n_columns: int = 3072) -> np.ndarray:
        """Whether stars are more than ``edge_px`` from the edges of an amplifier, (s,)."""
        return (self.x > edge_px) & (self.x < n_columns - 1 - edge_px)


def scene_settings(n_stars: float, n_rows: int, seed: int, *, atmosphere: bool) -> SceneSettings:
    """A steady amplifier with ``n_stars`` stars brighter than r = 15."""
    n_bright = n_stars * 10 ** (-0.5 * SceneSettings.star_slope)
    return SceneSettings(
        rows=n_rows, events=0, seed=seed, first_row=None, atmosphere=atmosphere, n_bright_stars=n_bright
    )


def make_frame(settings: SceneSettings, content: AmplifierContent) -> Frame:
    """Expose and read an amplifier."""
    data, overscan = render(settings, content, settings.generator(PIXELS, 1, 1, 0))
    readout = Readout(
        settings.row_rate_hz,
        *(float(settings.electronics(name)) for name in ("gain_e_per_adu", "read_noise_e", "saturation_adu")),
        content.scene.n_transit,
        zero_point_mag=settings.magnitude_of_one_e_s,
        pixel_scale_arcsec=float(settings.electronics("pixel_scale_arcsec")),
        seeing_arcsec=settings.seeing_arcsec,
    )
    return Frame(data, overscan, readout, settings.profile, Path("simulated.fits"))


def true_stars(content: AmplifierContent) -> Truth:
    """Positions and fluxes averaged over the file's rows, each star in its own time (row - y0)."""
    scene, n_rows = content.scene, len(content.rows)
    if content.air is None:
        return Truth(scene.x, scene.flux_e_row, scene.mag)
    first = int(content.rows[0]) - scene.n_transit - 1
    series = content.air.shared(first, n_rows + scene.n_transit + 2)
    start = np.round(content.rows[0] - scene.y0 - first).astype(int)
    shift, light = (np.append(0, np.cumsum(values)) for values in (series.shift_px, series.light))
    moved = (shift[start + n_rows] - shift[start]) / n_rows
    return Truth(scene.x + moved, scene.flux_e_row * (light[start + n_rows] - light[start]) / n_rows, scene.mag)


def measure_isolated(truth: Truth, streaks: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Errors of position (px) and flux (relative) of isolated stars."""
    isolated = (truth.mag < 13) & truth.inside(6) & (truth.ratios(6).sum(axis=1) < 0.02)
    x, flux = streaks["x"].to_numpy(), streaks["flux_e_row"].to_numpy()
    nearest = np.abs(x[:, None] - truth.x[isolated]).argmin(axis=0)
    return x[nearest] - truth.x[isolated], flux[nearest] / truth.flux[isolated] - 1


def count_found(truth: Truth, streaks: pd.DataFrame) -> tuple[int, int]:
    """Numbers of countable stars found one to one, brightest first, and of all countable stars."""
    countable = (truth.mag < 14) & truth.inside(4) & (truth.ratios(1.5).max(axis=1) < LEAST_RATIO)
    x, flux = streaks["x"].to_numpy(), streaks["flux_e_row"].to_numpy()
    free, n_found = np.ones(len(x), dtype=bool), 0
    for star in np.flatnonzero(countable)[np.argsort(truth.mag[countable])]:
        contrast = np.abs(np.log(flux / truth.flux[star]))
        contrast[(np.abs(x - truth.x[star]) > WITHIN_PX) | ~free] = np.inf
        if contrast.min() < np.log(FACTOR):
            free[contrast.argmin()] = False
            n_found += 1
    return n_found, int(countable.sum())


def count_false(truth: Truth, streaks: pd.DataFrame) -> tuple[int, int]:
    """Numbers of streaks brighter than r = 14 that are no star and no blend, and of all so bright."""
    bright = streaks[streaks["mag"] < 14]
    n_false = 0
    for streak in bright.itertuples():
        near = truth.flux[np.abs(truth.x - streak.x) < WITHIN_PX]
        alike = [abs(np.log(light / streak.flux_e_row)) < np.log(FACTOR) for light in (*near, near.sum()) if light > 0]
        n_false += not any(alike)
    return n_false, len(bright)


def best_time(function: Callable[[], object], repeats: int = 7) -> float:
    """Least processor time of several calls, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def measure_density(n_stars: float, n_rows: int, n_amplifiers: int, *, atmosphere: bool) -> str:
    """One row of the table."""
    errors_x, errors_flux, curves = [], [], []
    found, false, fastest = np.zeros(2, dtype=int), np.zeros(2, dtype=int), np.inf
    for seed in range(n_amplifiers):
        settings = scene_settings(n_stars, n_rows, 1000 + seed, atmosphere=atmosphere)
        content = draw_content(settings, 1, 1, 0)
        frame = make_frame(settings, content)
        amplifier = calibrate(frame)
        truth, readout = true_stars(content), frame.readout
        level = np.ascontiguousarray(amplifier.baseline_e[0, :, : SPEED_ROWS // BLOCK_ROWS].T)

        def find(level: np.ndarray = level, readout: Readout = readout) -> object:
            profile, error = collapse_profile(level, readout.read_noise_e, SPEED_ROWS)
            return find_streaks(profile, error, readout.psf_sigma_px, readout)

        find()  # compiles
        fastest = min(fastest, best_time(find))
        dx, relative = measure_isolated(truth, amplifier.streaks)
        errors_x.append(dx)
        errors_flux.append(relative)
        mean_flux = np.nanmean(fit_light_curves(amplifier, bin_rows=n_rows).flux_e_row, axis=1)
        curves.append(measure_isolated(truth, amplifier.streaks.assign(flux_e_row=mean_flux))[1])
        found += count_found(truth, amplifier.streaks)
        false += count_false(truth, amplifier.streaks)
    dx, relative, curve = (np.concatenate(parts) for parts in (errors_x, errors_flux, curves))
    return (
        f"{n_stars:5g} {'moving' if atmosphere else 'still':>6} {len(dx):4d} {rms(dx):7.4f} {dx.mean():+8.4f} "
        f"{100 * rms(relative):6.2f} {100 * relative.mean():+6.2f} {100 * curve.mean():+6.2f} "
        f"{found[0]:5d}/{found[1]:5d} = {found[0] / found[1]:.3f} {false[0]:4d}/{false[1]:4d} = "
        f"{false[0] / false[1]:.3f} {1e3 * fastest:6.1f}"
    )


def rms(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def calibrate(frame: Frame) -> Amplifier:
    """An amplifier in memory, calibrated as by `ingest`, without the cleaning of moving streaks."""
    baseline = fit_baseline(frame)
    n_rows = len(frame.pixels_adu)
    profile, error = collapse_profile(baseline.level_e, frame.readout.read_noise_e, n_rows)
    streaks, sigma_px = find_streaks(profile, error, frame.readout.psf_sigma_px, frame.readout)
    residual, sigma = _residuals(frame, baseline)
    level = sigma**2 - np.float32(noise_floor_e2(frame.readout))
    return Amplifier(
        residual=residual[None],
        baseline_e=level[None],
        sigma_e=sigma[None],
        row_residual=np.zeros(n_rows, dtype=np.float32),
        streaks=streaks,
        readout=frame.readout,
        file=frame.path.name,
        entry="simulated",
        psf_sigma_px=sigma_px,
        live_pixel_rows=residual.size,
        sky_e=float(np.median(level)),
        sky_sigma_e=float(np.median(sigma)),
    )


def _residuals(frame: Frame, baseline: Baseline) -> tuple[np.ndarray, np.ndarray]:
    n_rows, n_columns = frame.pixels_adu.shape
    residual = np.empty((n_columns, n_rows), dtype=np.float16)
    sigma = np.empty((n_columns, -(-n_rows // BLOCK_ROWS)), dtype=np.float32)
    for chunk in iterate_residuals(frame, baseline):
        for start in range(0, len(chunk.residual), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            sigma[:, (chunk.start + start) // BLOCK_ROWS] = chunk.sigma_e[rows].mean(axis=0)
        residual[:, chunk.start : chunk.start + len(chunk.residual)] = chunk.residual.T
    return residual, sigma


def pair_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Pairs `PAIR_PX` apart, the left star r = 11.5 to 14.5 and the right one a third as bright to as bright."""
    left = np.arange(20, scene.n_columns - 20, PAIR_EVERY_PX) + rng.uniform(
        -0.5, 0.5, (scene.n_columns - 40 - 1) // 40 + 1
    )
    mag = rng.uniform(11.5, 14.5, left.size)
    fainter = rng.uniform(0, 2.5 * np.log10(3), left.size)
    zero = scene.mag[0] + 2.5 * np.log10(scene.flux_e_row[0])
    magnitudes = np.stack([mag, mag + fainter], axis=1).ravel()
    return replace(
        scene,
        x=np.stack([left, left + PAIR_PX], axis=1).ravel(),
        y0=np.repeat(rng.uniform(0, scene.n_transit, left.size), 2),
        mag=magnitudes,
        flux_e_row=10 ** (-0.4 * (magnitudes - zero)),
    )


def measure_pairs(n_rows: int) -> list[str]:
    """Share of events assigned to the right star, and the bias of the pairs' light curves without events."""
    rng = np.random.default_rng(7)
    settings = scene_settings(250, n_rows, 77, atmosphere=False)
    content = draw_content(settings, 1, 1, 0)
    content = replace(content, scene=pair_scene(content.scene, rng))
    frame, scene = make_frame(settings, content), content.scene
    quiet = calibrate(frame)
    mean_flux = np.nanmean(fit_light_curves(quiet, bin_rows=n_rows).flux_e_row, axis=1)
    own = np.abs(quiet.streaks["x"].to_numpy()[:, None] - scene.x).argmin(axis=0)
    bias = mean_flux[own] / scene.flux_e_row - 1
    variance = scene.variance_e2(np.array(content.rows[:1]), 0, scene.n_columns)[0]
    pixels, events = frame.pixels_adu.astype(np.float64), []
    for pair in range(len(scene.x) // 2):
        for row in range(EVENT_EVERY_ROWS, n_rows - EVENT_EVERY_ROWS, EVENT_EVERY_ROWS):
            star, n = 2 * pair + int(rng.integers(2)), int(rng.choice([1, 3, 10, 30, 60]))
            first = int(np.round(scene.x[star])) - 6
            light = pixel_profile(np.arange(first, first + 13) - scene.x[star], scene.psf_sigma_px)
            unit_rho = np.sqrt(n * np.sum(light**2 / variance[first : first + 13]))
            charge = rng.poisson(rng.uniform(10, 15) / unit_rho * np.tile(light, (n, 1)))
            pixels[row : row + n, first : first + 13] += charge / frame.readout.gain_e_per_adu
            events.append((star, row, n))
    whole = np.floor(pixels + rng.random(pixels.shape))  # digitised again, rounded at random so that the mean is kept
    amplifier = calibrate(replace(frame, pixels_adu=whole.astype(np.uint16)))
    curves = fit_light_curves(amplifier)
    x = curves.streaks["x"].to_numpy()
    streak = np.abs(x[:, None] - scene.x).argmin(axis=0)
    steady = np.nanmedian(curves.flux_e_row, axis=1)
    right = 0
    for star, row, n in events:
        both = streak[[star, star ^ 1]]
        change = curves.flux_e_row[both, row : row + n] - steady[both, None]
        rise = np.nansum(change, axis=1) / np.sqrt(np.nansum(curves.error_e_row[both, row : row + n] ** 2, axis=1))
        right += bool(rise[0] > rise[1])
    bright = scene.mag < 13
    searched = share_text(*count_triggers(amplifier, scene, streak, events))
    return [
        f"pairs {PAIR_PX:g} px apart, S/N 10 to 15, light curves: {share_text(right, len(events))} to the right star",
        f"the same by the search, of those triggered on: {searched}",
        f"light curves of the pairs: {100 * bias[bright].mean():+.2f} % (r < 13, {bright.sum()} stars, rms "
        f"{100 * rms(bias[bright]):.2f} %), {100 * bias[~bright].mean():+.2f} % (fainter, {np.sum(~bright)} stars)",
    ]


def count_triggers(
    amplifier: Amplifier, scene: Scene, streak: np.ndarray, events: list[tuple[int, int, int]]
) -> tuple[int, int]:
    """Numbers of events whose strongest trigger is on the streak of their star, and of all with a trigger."""
    triggers = find_triggers(amplifier)
    number = amplifier.streaks["streak_id"].to_numpy()
    right = n_seen = 0
    for star, row, n in events:
        near = triggers[(triggers["x"] - scene.x[star]).abs() < 2 * PAIR_PX]
        near = near[(near["row_stop"] >= row - 3) & (near["row_start"] <= row + n + 2)]
        if len(near):
            n_seen += 1
            right += bool(near.loc[near["snr"].abs().idxmax(), "streak_id"] == number[streak[star]])
    return right, n_seen


def share_text(n: int, n_all: int) -> str:
    """Share with the 95 % interval of a binomial fraction."""
    low, high = wilson_interval(n, n_all)
    return f"{n} of {n_all} events = {n / n_all:.4f} ({low:.4f} to {high:.4f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="rows of each amplifier")
    parser.add_argument("--amplifiers", type=int, default=2, help="amplifiers of each density")
    arguments = parser.parse_args()
    print(
        "                isolated, r < 13: dx (px)    flux error (%)  curve   found one to one,       false,        ms"
    )
    print(
        "stars    air    n     rms     bias    rms   bias   bias   r < 14                 r < 14       per 1,024 rows"
    )
    for atmosphere in (False, True):
        for n_stars in (250, 500, 1000):
            print(measure_density(n_stars, arguments.rows, arguments.amplifiers, atmosphere=atmosphere), flush=True)
    for line in measure_pairs(arguments.rows):
        print(line)


if __name__ == "__main__":
    main()
