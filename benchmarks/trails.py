"""Measure simulated trails and ghosts from noisy pixels, against their settings.

    python benchmarks/trails.py

Trails are drawn for a ZTF sequence and rendered piece by piece with sky at r = 20.8, photon and read noise. Directions
are measured by the principal axis of all pixels above 5 sigma, lengths of meteors by the rows with the central 90 % of
the light along it, and blinking of aircraft by their flashes in all amplifiers of the mosaic. Exits with 1 if a mean
ratio is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from shutterless.pipeline.astrometry.focal_plane import FocalPlane, focal_plane
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.simulation.content import trail_rates
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.ghosts import Ghost, add_ghosts, own_time_rows, steady_light
from shutterless.pipeline.simulation.sky.moving_lights import SkyTrail, TrailRates, draw_trails
from shutterless.pipeline.simulation.sky.trails import AmplifierTrail, add_trails, trail_patches, trails_in_amplifier

SKY_E, READ_NOISE_E, ROW_RATE_HZ, SIGMA_PX = 314.0, 10.0, 300.0, 0.84
NOISE_E = np.sqrt(SKY_E + READ_NOISE_E**2)
ZERO_POINT_MAG, PIXEL_SCALE_ARCSEC = 24.49, 1.012
N_TRANSIT, N_COLUMNS = 3080, 3072
LEAST_PIXELS = 100
# a flash that an edge cuts by less than a fifth counts as complete; its middle is off by up to half of the cut
_CUT_FLASH_S = 0.02


def draw(rng: np.random.Generator, plane: FocalPlane, seconds: float, **rates: float) -> list[SkyTrail]:
    """Draw one sequence with these kinds only."""
    none = {"geosynchronous": 0.0, "low_orbit": 0.0, "aircraft": 0.0, "meteor": 0.0}
    return draw_trails(
        rng,
        plane,
        seconds,
        TrailRates(**{**none, **rates}),
        zero_point_mag=ZERO_POINT_MAG,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
    )


def on_amplifier(trails: Sequence[SkyTrail], plane: FocalPlane, ccd: int, quadrant: int) -> list[AmplifierTrail]:
    """Trails on one amplifier of the benchmark's camera."""
    return trails_in_amplifier(trails, plane, ccd, quadrant, row_rate_hz=ROW_RATE_HZ, sigma_px=SIGMA_PX)


def observed(
    rng: np.random.Generator, trail: AmplifierTrail, most_rows: int = 4096
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Pieces of a trail with the noise of sky and readout; at most ``most_rows`` around its middle."""
    first, last = trail.rows
    start = max((first + last - most_rows) // 2, first)
    for top, left, patch in trail_patches(trail, start, min(most_rows, last - start + 1)):
        noisy = rng.poisson(patch + SKY_E) + rng.normal(0, READ_NOISE_E, patch.shape)
        yield top, left, noisy - SKY_E


def lit_pixels(rng: np.random.Generator, trail: AmplifierTrail) -> np.ndarray:
    """Row, column and electrons of pixels above 5 sigma, shape (3, p)."""
    found = []
    for top, left, patch in observed(rng, trail):
        rows, columns = np.nonzero(patch > 5 * NOISE_E)
        found.append(np.stack([rows + top, columns + left, patch[rows, columns]]))
    return np.concatenate(found, axis=1) if found else np.zeros((3, 0))


def principal_axis(pixels: np.ndarray) -> np.ndarray:
    """Principal direction of pixels in rows and columns, towards later rows, with equal weights."""
    axis = np.linalg.eigh(np.cov(pixels[:2]))[1][:, 1]
    return axis * np.copysign(1.0, axis[0])


def measure_angles(rng: np.random.Generator, trails: Sequence[AmplifierTrail]) -> np.ndarray:
    """True and measured angles from vertical of the trails with enough bright pixels, shape (n, 2)."""
    pairs = []
    for trail in trails:
        pixels = lit_pixels(rng, trail)
        if pixels.shape[1] >= LEAST_PIXELS:
            row, column = principal_axis(pixels)
            pairs.append((abs(trail.angle_deg), float(np.degrees(np.arctan2(abs(column), row)))))
    return np.array(pairs)


def central_rows_asked(trail: AmplifierTrail) -> float:
    """Rows between 5 and 95 % of a meteor's light, from its path and light curve over a fine grid of time."""
    t = np.linspace(trail.start_s, trail.stop_s, 20_001)
    x, y = trail.x + trail.velocity_x * (t - t[0]), trail.y + trail.velocity_y * (t - t[0])
    u = (t - trail.begin_s) / (trail.end_s - trail.begin_s)
    light = u * (1 - u) * ((x > -0.5) & (x < N_COLUMNS - 0.5) & (y > -0.5) & (y < N_TRANSIT - 0.5))
    share = np.cumsum(light) / light.sum()
    begin, end = np.interp([0.05, 0.95], share, ROW_RATE_HZ * t + y)
    return abs(end - begin)


def measure_meteors(rng: np.random.Generator, trails: Sequence[AmplifierTrail]) -> np.ndarray:
    """True and measured rows of the central 90 % of the light of meteors longer than 30 rows, shape (n, 2)."""
    pairs = []
    for trail in trails:
        pixels = lit_pixels(rng, trail)
        asked = central_rows_asked(trail) if pixels.shape[1] >= LEAST_PIXELS else 0.0
        if asked > 30:
            begin, end = central_rows(rng, trail, pixels)
            pairs.append((asked, end - begin))
    return np.array(pairs)


def central_rows(rng: np.random.Generator, trail: AmplifierTrail, pixels: np.ndarray) -> np.ndarray:
    """Rows between 5 and 95 % of the light within 6 px of the axis of the lit pixels."""
    axis, centre = principal_axis(pixels), pixels[:2].mean(axis=1)
    first, last = trail.rows
    light = np.zeros(last - first + 1)
    for top, left, patch in observed(rng, trail, len(light)):
        row, column = np.indices(patch.shape)
        across = (row + top - centre[0]) * axis[1] - (column + left - centre[1]) * axis[0]
        light[top - first : top - first + len(patch)] += np.where(np.abs(across) < 6, patch, 0).sum(axis=1)
    share = np.cumsum(light) / light.sum()
    return first + np.searchsorted(share, [0.05, 0.95])


def flash_times(rng: np.random.Generator, plane: FocalPlane, trail: SkyTrail) -> np.ndarray:
    """Middle of every flash of one wing tip that lies completely on an amplifier, in seconds."""
    curves = []
    for ccd in range(1, plane.n_ccds + 1):
        for quadrant in range(1, len(plane.quadrants) + 1):
            for part in on_amplifier([trail], plane, ccd, quadrant):
                rows_s = abs(ROW_RATE_HZ + part.velocity_y)
                if rows_s > 500:  # for slower ones, the image of the pupil lasts as long as a flash
                    curves.append((part, rows_s, rows_s * row_light(rng, part)))
    brightest = max((curve.max() for *_, curve in curves), default=0.0)
    flashes = [flash for part, rows_s, curve in curves for flash in _flashes(part, rows_s, curve > 0.4 * brightest)]
    longest = max((duration for _, duration in flashes), default=0.0)
    return np.sort([middle for middle, duration in flashes if duration > 0.8 * longest])


def row_light(rng: np.random.Generator, part: AmplifierTrail) -> np.ndarray:
    """Light in each of a trail's rows, with noise."""
    first, last = part.rows
    light = np.zeros(last - first + 1)
    for top, _, patch in observed(rng, part, len(light)):
        light[top - first : top - first + len(patch)] += patch.sum(axis=1)
    return light


def _flashes(part: AmplifierTrail, rows_s: float, lit: np.ndarray) -> list[tuple[float, float]]:
    """Middle and duration of runs of lit rows, in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lit, [False]]).astype(int)))
    middles = part.rows[0] + (edges[::2] + edges[1::2] - 1) / 2
    seconds = part.start_s + (middles - part.row_enter) / (ROW_RATE_HZ + part.velocity_y)
    return list(zip(seconds, np.diff(edges)[::2] / rows_s, strict=True))


def measure_aircraft(rng: np.random.Generator, plane: FocalPlane, n_tips: int) -> np.ndarray:
    """True and measured periods of wing tips with at least four complete flashes, shape (n, 2)."""
    pairs = []
    for trail in draw(rng, plane, 3600.0, aircraft=20.0)[: 2 * n_tips : 2]:
        times = flash_times(rng, plane, trail)
        if np.sum(np.diff(times) > 0.1) >= 3:  # at the edge of two amplifiers, both have the same flash
            pairs.append((trail.brightness.period_s, fold(times)))
    return np.array(pairs)


def fold(times: np.ndarray) -> float:
    """Longest period that fits all flashes; gaps in the mosaic hide some."""
    periods = np.arange(0.5, 1.6, 0.0005)
    cycles = (times[:, None] - times[0]) / periods
    apart = np.abs(cycles - np.rint(cycles)).max(axis=0) * periods
    together = np.flatnonzero(apart < _CUT_FLASH_S)
    return float(periods[together[-1]]) if together.size else float("nan")


def count_crossings(plane: FocalPlane, trails: Sequence[SkyTrail], seconds: float) -> float:
    """Mean number of objects per hour that enter a CCD after the shutter has opened, over all CCDs."""
    total = 0
    for ccd in range(1, plane.n_ccds + 1):
        parts = [part for quadrant in (1, 2, 3, 4) for part in on_amplifier(trails, plane, ccd, quadrant)]
        total += len({part.object_id for part in parts if 0 < part.start_s < seconds})
    return total / plane.n_ccds / seconds * 3600


def ghost_width(rng: np.random.Generator) -> tuple[float, float]:
    """True and measured rms width along columns of a ghost's streak over 20,000 rows, in pixels."""
    ghost = Ghost(100.0, 50, 0, 3.0, 1e-3, 28.0, 1310.0)
    n_rows, first_row = 20_000, N_TRANSIT
    first, n_star_rows = own_time_rows([ghost], first_row, n_rows)
    mean_e = np.zeros((n_rows, 200))
    add_ghosts(mean_e, first_row, [ghost], steady_light([ghost], first, n_star_rows), first, N_TRANSIT)
    profile = (rng.poisson(mean_e + SKY_E) - SKY_E).mean(axis=0)[100 - 35 : 100 + 36]
    offset = np.arange(-35, 36)
    return 28.0 * np.sqrt((1 + 0.45**2) / 4), float(np.sqrt((profile * offset**2).sum() / profile.sum()))


def cost_s(plane: FocalPlane, seed: int) -> float:
    """Process time for adding trails at the default rates to 100,000 rows of an amplifier, in blocks of 512."""
    n_rows, block = 100_000, np.zeros((512, N_COLUMNS))
    trails = draw_trails(
        np.random.default_rng(seed),
        plane,
        n_rows / ROW_RATE_HZ,
        trail_rates(SceneSettings()),
        zero_point_mag=ZERO_POINT_MAG,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
    )
    started = time.process_time()
    parts = on_amplifier(trails, plane, 6, 1)
    for first in range(0, n_rows, 512):
        add_trails(block, first, parts)
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    plane = focal_plane(load_profile("ztf"), N_TRANSIT)
    measured = {
        "geosynchronous angle, deg": measure_angles(
            rng, on_amplifier(draw(rng, plane, 1800.0, geosynchronous=200.0), plane, 6, 1)
        ),
        "low-orbit angle, deg": measure_angles(
            rng, on_amplifier(draw(rng, plane, 3600.0, low_orbit=200.0), plane, 6, 1)
        ),
        "meteor rows": measure_meteors(rng, on_amplifier(draw(rng, plane, 3600.0, meteor=3000.0), plane, 6, 1)),
        "aircraft period, s": measure_aircraft(rng, plane, 30),
    }
    for kind in ("geosynchronous", "low_orbit", "aircraft", "meteor"):
        found = count_crossings(plane, draw(rng, plane, 7200.0, **{kind: 100.0}), 7200.0)
        measured[f"{kind} per CCD-hour"] = np.array([[100.0, found]])
    measured["ghost width, px"] = np.array([ghost_width(rng)])
    print(f"{'quantity':28s} {'n':>4s} {'asked':>18s} {'found':>18s} {'ratio':>7s} {'scatter':>8s}")
    failed = False
    for name, pairs in measured.items():
        ratio = pairs[:, 1] / pairs[:, 0]
        spans = [f"{pairs[:, i].min():.4g} .. {pairs[:, i].max():.4g}" for i in (0, 1)]
        print(f"{name:28s} {len(pairs):4d} {spans[0]:>18s} {spans[1]:>18s} {ratio.mean():7.3f} {ratio.std():8.3f}")
        failed |= not abs(ratio.mean() - 1) <= 0.1
    cost_s(plane, arguments.seed)  # compiled
    seconds = [cost_s(plane, seed) for seed in range(arguments.seed, arguments.seed + 5)]
    print(f"trails at the default rates: {np.mean(seconds):.3f} s per 100,000 rows of {N_COLUMNS} columns (307 Mpix)")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
