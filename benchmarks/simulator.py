"""Measure the simulator from its pixels: settings against measured values, and its speed.

    python benchmarks/simulator.py

Everything is measured from integers in read order, as by an observer: the bias from the overscan, electrons with the
gain. The cameras are ZTF's, some with fewer columns so that many correlation times fit. Exits with 1 if a line fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.ndimage import label
from scipy.optimize import brentq
from scipy.signal import periodogram

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import read_amplifier
from shutterless.pipeline.simulation.camera.artefacts import draw_mains
from shutterless.pipeline.simulation.camera.detector import draw_detector
from shutterless.pipeline.simulation.content import AmplifierContent, draw_air, draw_content
from shutterless.pipeline.simulation.rendering import render_blocks
from shutterless.pipeline.simulation.scene import MAINS, PIXELS, draw_scene
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file

GAIN, READ_NOISE_E, ROW_RATE_HZ = 6.2, 10.0, 300.0
STILL = {"scintillation_rms": 0.0, "motion_rms_arcsec": 0.0, "focus_rms": 0.0, "transparency_rms": 0.0}
STAR_SPACING_PX = 40
BRIGHT_E_ROW = 40_000.0


@dataclass(frozen=True)
class Line:
    """One line of the table; ``tolerance`` is relative."""

    what: str
    asked: float
    found: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether the measured value agrees with the setting."""
        return abs(self.found / self.asked - 1) <= self.tolerance


def camera(folder: Path, n_columns: int) -> str:
    """Path of a profile of ZTF with fewer columns."""
    text = resources.files("shutterless.pipeline.reading.profiles").joinpath("ztf.toml").read_text()
    path = folder / f"ztf{n_columns}.toml"
    path.write_text(text.replace("n_columns = 3072", f"n_columns = {n_columns}"))
    return str(path)


def quiet(**changes: object) -> SceneSettings:
    """Steady sky without stars, events or artefacts, changed as given."""
    values = {"events": 0, "artefacts": False, "n_bright_stars": 0.0, "first_row": None, "suffix": ".fits", **changes}
    return SceneSettings(**values)  # type: ignore[arg-type]


def electrons(settings: SceneSettings, content: AmplifierContent, seed: int = 1) -> Iterator[np.ndarray]:
    """Blocks of rendered rows in electrons above the overscan."""
    for data, overscan in render_blocks(settings, content, np.random.default_rng(seed)):
        yield (data - overscan[:, 20:30].mean()) * GAIN


def spaced_stars(settings: SceneSettings, flux_e_row: float) -> AmplifierContent:
    """Equal isolated stars at sub-pixel positions, all exposed; with an atmosphere if the settings have one."""
    scene = draw_scene(settings, 1, 1)
    x = np.arange(20, scene.n_columns - 20, STAR_SPACING_PX) + np.random.default_rng(2).random()
    stars = {"x": x, "y0": np.linspace(0, 300, len(x)), "mag": np.zeros(len(x))}
    scene = replace(scene, **stars, flux_e_row=np.full(len(x), flux_e_row))
    air = draw_air(settings, scene, 1, 1) if settings.atmosphere else None
    return AmplifierContent(scene, settings.sequence_rows(0), air=air)


def moments(settings: SceneSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux relative to its mean, centroid and width of bright stars in every row, each of shape (t, s)."""
    content = spaced_stars(settings, BRIGHT_E_ROW)
    sky = content.scene.sky_e_s * content.scene.n_transit / ROW_RATE_HZ
    offsets = np.arange(-7, 8)
    columns = np.rint(content.scene.x).astype(int)[:, None] + offsets
    parts = []
    for block in electrons(settings, content):
        window = block[:, columns] - sky
        flux = window.sum(axis=2)
        centre = window @ offsets / flux
        width = np.sqrt(np.maximum(window @ offsets**2 / flux - centre**2 - 1 / 12, 0))
        parts.append((flux / BRIGHT_E_ROW, centre, width))
    flux, centre, width = (np.concatenate(values) for values in zip(*parts, strict=True))
    return flux, centre, width


def signal(series: np.ndarray) -> tuple[float, np.ndarray]:
    """Scatter of the correlated part of a series, and its autocorrelation, both without white noise.

    White noise adds only to lag 0 of the autocovariance, which is extrapolated by a parabola through lags 1 to 3.
    """
    centred = series - series.mean(axis=0)
    lags = np.arange(1, min(2000, len(series) // 4))
    covariance = np.array([np.mean(centred[lag:] * centred[:-lag]) for lag in lags])
    zero = 3 * covariance[0] - 3 * covariance[1] + covariance[2]
    return float(np.sqrt(zero)), np.concatenate([[1.0], covariance / zero])


def crossing(correlation: np.ndarray, level: float) -> float:
    """Lag in seconds at which an autocorrelation falls to a level."""
    lag = int(np.argmax(correlation < level))
    share = (correlation[lag - 1] - level) / (correlation[lag - 1] - correlation[lag])
    return (lag - 1 + share) / ROW_RATE_HZ


def measure_air(folder: Path) -> Iterator[Line]:
    """Every amplitude and correlation time of the atmosphere, one effect at a time."""
    base = quiet(instrument=camera(folder, 240), atmosphere=True, rows=90_000, **STILL)
    flux, _, _ = moments(replace(base, scintillation_rms=0.011, rows=40_000))
    rms, correlation = signal(flux)
    yield Line("scintillation, rms of the flux", 0.011, rms, 0.1)
    yield Line("scintillation, correlation time (s)", 0.065, crossing(correlation, np.exp(-1)), 0.1)
    flux, centre, _ = moments(replace(base, motion_rms_arcsec=0.4))
    rms, correlation = signal(centre)
    yield Line("motion, rms (arcsec)", 0.4, rms * 1.012, 0.1)
    yield Line("motion, correlation time (s)", 0.1, crossing(correlation, 2 / np.e), 0.1)
    speed = np.sqrt(2 * (1 - correlation[3])) * rms / (3 / ROW_RATE_HZ)
    # the structure function of the series over 3 rows, (1 + t/τ) exp(-t/τ)
    tau = brentq(lambda t: 2 * (1 - (1 + 0.01 / t) * np.exp(-0.01 / t)) - (speed * 0.01 / rms) ** 2, 0.02, 1.0)
    yield Line("motion, speed (rms over correlation time, px/s)", 0.4 / 1.012 / 0.1, rms / tau, 0.1)
    yield Line("motion, flux modulation it causes", 0.4 / 1.012 / 0.1 / ROW_RATE_HZ, signal(flux)[0], 0.1)
    _, _, width = moments(replace(base, focus_rms=0.15, rows=240_000, instrument=camera(folder, 80)))
    yield Line("focus, rms of the FWHM", 0.15, signal(width / width.mean())[0], 0.1)
    yield Line("focus, correlation time (s)", 1.0, crossing(signal(width)[1], 2 / np.e), 0.1)
    cloudy = replace(base, transparency_rms=0.03, transparency_s=0.5, rows=120_000, instrument=camera(folder, 80))
    rms, correlation = signal(moments(cloudy)[0])
    yield Line("transparency, rms", 0.03, rms, 0.1)
    yield Line("transparency, correlation time (s)", 0.5, crossing(correlation, 2 / np.e), 0.1)


def measure_sky(folder: Path) -> Iterator[Line]:
    """Sky of 20.8 mag/arcsec² and its ramp, from a file."""
    settings = quiet(rows=4000, first_row=0)
    path, _, _ = simulate_file(settings, 1, 0, folder)
    frame = read_amplifier(path, 3)
    rows = (frame.pixels_adu.mean(axis=1) - frame.overscan_adu[:, 20:30].mean()) * GAIN
    # 62.5 e-/s at magnitude 20 on 1.012 arcsec pixels, 3080 rows at 300 Hz
    sky = 10 ** (-0.4 * (20.8 - 24.49)) * 1.012**2 * 3080 / ROW_RATE_HZ
    yield Line("sky (e-)", sky, float(rows[3100:].mean()), 0.01)
    yield Line("ramp (e-/row)", sky / 3080, float(np.polyfit(np.arange(3000), rows[:3000], 1)[0]), 0.01)


def measure_stars() -> Iterator[Line]:
    """S/N of an optimally weighted row of an isolated star in steady air."""
    for mag, asked in ((10, 36.0), (12, 8.3), (14, 1.45), (16, 0.23)):
        settings = quiet(rows=6000)
        content = spaced_stars(settings, 10 ** (-0.4 * (mag - 24.49)) / ROW_RATE_HZ)
        scene = content.scene
        columns = np.rint(scene.x).astype(int)[:, None] + np.arange(-8, 9)
        profile = pixel_profile(columns - scene.x[:, None], scene.psf_sigma_px)
        far = np.min(np.abs(np.arange(scene.n_columns)[:, None] - scene.x), axis=1) > 12
        sky = scene.sky_e_s * scene.n_transit / ROW_RATE_HZ
        weight = profile / (sky + READ_NOISE_E**2 + scene.flux_e_row[:, None] * profile)
        weight /= np.sum(weight * profile, axis=1, keepdims=True)
        flux = np.concatenate(
            [
                np.sum((block[:, columns] - block[:, far].mean()) * weight, axis=2)
                for block in electrons(settings, content)
            ]
        )
        yield Line(f"S/N per row at r = {mag}", asked, float(flux.mean() / flux.std(axis=0).mean()), 0.05)


def measure_artefacts() -> Iterator[Line]:
    """Cosmic rays per second and the mains, on steady sky."""
    n_found, seconds, first_rows = 0, 0.0, None
    for index in range(10):
        settings = quiet(rows=24_000, artefacts=True, seed=20 + index)
        content = draw_content(settings, 1, 1, 0)
        seconds += settings.rows / ROW_RATE_HZ
        means = []
        for block in electrons(settings, content):
            row_means = np.median(block, axis=1)
            means.append(block.mean(axis=1))
            n_found += count_clusters(block - row_means[:, None])
        if first_rows is None:
            first_rows = np.concatenate(means), draw_mains(settings.generator(MAINS, 1)), settings
    yield Line(f"cosmic rays (per s; {n_found} found)", 0.85, n_found / seconds, 0.1)
    assert first_rows is not None
    rows, mains, settings = first_rows
    for frequency, amplitude in zip(mains.frequencies_hz, mains.amplitudes_e, strict=True):
        found_hz, found_e = strongest_wave(rows, frequency)
        yield Line(f"mains at {frequency:.0f} Hz (Hz)", float(frequency), found_hz, 0.001)
        yield Line(f"mains at {frequency:.0f} Hz (e-)", float(amplitude), found_e, 0.1)


def count_clusters(excess_e: np.ndarray) -> int:
    """Number of groups of pixels 5.5 σ above the sky with one above 6.3 σ, more than a pixel apart."""
    sigma = np.sqrt(314 + READ_NOISE_E**2 + GAIN**2 / 12)
    high = excess_e > 5.5 * sigma
    if not high.any():
        return 0
    grown = high.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            grown |= np.roll(grown, shift, axis)
    groups, _ = label(grown, structure=np.ones((3, 3)))
    return len(np.unique(groups[excess_e > 6.3 * sigma]))


def strongest_wave(rows: np.ndarray, near_hz: float) -> tuple[float, float]:
    """Frequency and amplitude of the highest peak of the spectrum within 2 Hz."""
    n = len(rows)
    frequencies, power = periodogram(rows, ROW_RATE_HZ, np.hanning(n), nfft=8 * n, scaling="spectrum")
    near = np.flatnonzero(np.abs(frequencies - near_hz) < 2)
    peak = near[np.argmax(power[near])]
    return float(frequencies[peak]), float(np.sqrt(2 * power[peak]))


def measure_faults(folder: Path) -> Iterator[Line]:
    """Columns that are 15 e- or more above the others on average, and runs of rows that are 0."""
    narrow = camera(folder, 64)
    rng = np.random.default_rng(3)
    drawn = [
        c
        for _ in range(4000)
        for c in draw_detector(rng, 64, 30, hot_columns=4.0, traps=2.0, row_rate_hz=300.0).hot_columns
    ]
    on = [1.0 if c.blinking is None else c.blinking.on_s / (c.blinking.on_s + c.blinking.off_s) for c in drawn]
    levels = np.array([column.level_e for column in drawn])
    asked = 4.0 * float(np.mean(levels * on > 15))
    n_hot = n_runs = n_amplifiers = 0
    hours = 0.0
    for seed in range(8):
        settings = quiet(instrument=narrow, detector=True, rows=6000, seed=40 + seed, dropped_runs_per_hour=1000.0)
        for ccd in range(1, 17):
            for quadrant in range(1, 5):
                zero, means = [], []
                content = draw_content(settings, ccd, quadrant, 0)
                for data, _ in render_blocks(settings, content, settings.generator(PIXELS, ccd, quadrant, 0)):
                    zero.append(np.all(data == 0, axis=1))
                    means.append(data[~zero[-1]].mean(axis=0, dtype=np.float64) * GAIN)
                profile = np.mean(means, axis=0)
                n_hot += int(np.count_nonzero(profile - np.median(profile) > 15))
                n_amplifiers += 1
                if quadrant == 1:  # all amplifiers of a CCD lose the same rows
                    n_runs += int(np.count_nonzero(np.diff(np.concatenate([[False], *zero]).astype(int)) == 1))
                    hours += settings.rows / ROW_RATE_HZ / 3600
    yield Line(f"hot columns of 15 e- (per amplifier; {n_hot} found)", asked, n_hot / n_amplifiers, 0.1)
    yield Line(f"dropped runs (per hour; {n_runs} found)", 1000.0, n_runs / hours, 0.1)


def process_seconds(work: object, repeats: int = 3) -> float:
    """Best of several runs, in seconds of processor time."""
    best = np.inf
    for _ in range(repeats):
        started = time.process_time()
        work()  # type: ignore[operator]
        best = min(best, time.process_time() - started)
    return best


def measure_speed(folder: Path, rows: int) -> Iterator[tuple[str, float]]:
    """Million pixels a second and core, data columns only."""
    on = {"artefacts": True, "atmosphere": True, "detector": True, "sky_lights": True}
    on["shutter_close_row"] = 3080 + 3 * rows // 4
    off = {"artefacts": False, "events": 0}
    for name, changes in (("everything off", off), ("everything on", on)):
        settings = SceneSettings(rows=rows, first_row=3000, **changes)  # type: ignore[arg-type]
        content = draw_content(settings, 1, 1, 0)

        def render(settings: SceneSettings = settings, content: AmplifierContent = content) -> None:
            for _ in render_blocks(settings, content, settings.generator(PIXELS, 1, 1, 0)):
                pass

        def write(settings: SceneSettings = settings) -> None:
            simulate_file(settings, 1, 0, folder)

        render()
        yield f"{name}, rendering", rows * 3072 / process_seconds(render) / 1e6
        yield f"{name}, drawn, rendered and written as .fits.fz", 4 * rows * 3072 / process_seconds(write, 2) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--rows", type=int, default=6000, help="rows of the frames that are timed")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Mpix/s per core (processor time)")
        for what, speed in measure_speed(folder, arguments.rows):
            print(f"  {what:60s} {speed:8.1f}", flush=True)
        if arguments.speed_only:
            return
        print(f"{'':62s} {'asked':>10s} {'found':>10s} {'differs':>8s}")
        for measure in (
            lambda: measure_sky(folder), measure_stars, lambda: measure_air(folder), measure_artefacts,
            lambda: measure_faults(folder),
        ):  # fmt: skip
            for line in measure():
                failed += not line.passes
                verdict = "" if line.passes else f"  FAILS ({line.tolerance:.0%})"
                differs = line.found / line.asked - 1
                print(f"  {line.what:60s} {line.asked:10.4g} {line.found:10.4g} {differs:+8.1%}{verdict}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
