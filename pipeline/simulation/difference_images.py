"""Simulate tiles of difference images, in units of their noise, with boxes around what they hold.

A difference image is a new image less a reference image. It holds noise that is alike in neighbouring pixels, residuals
of stars whose image changed (pairs of bright and dark), bad columns, trails, ghosts, faint structure of the background,
and, in a few fields, light echoes (`light_echoes`).

    field = draw_difference_field(rng, DifferenceSettings())
    tile = simulate_tile(rng, field, n_echoes=2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from scipy.ndimage import gaussian_filter, label, zoom

from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, enclose_points
from shutterless.pipeline.settings import Count, NotNegative, Positive, settings_class
from shutterless.pipeline.simulation.settings import SceneError, check_rising
from shutterless.pipeline.simulation.sky.light_echoes import LightEcho, echo_light, place_echo

BOX_KINDS = ("echo", "trail", "ghost", "artefact")
BOX_COLUMNS = (*GEOMETRY_COLUMNS, "kind", "confidence", "group")
SEEN_SIGMA = 0.35  # per pixel of the smoothed light: what an observer's box encloses
LEAST_SNR = 20.0  # of all light of an object; fainter ones get no box, and are left out of the tile

Drawn = Annotated[tuple[NotNegative, NotNegative], AfterValidator(check_rising)]


@settings_class(SceneError)
class DifferenceSettings:
    """Ranges from which difference images are drawn; each pair holds the smallest and the largest value.

    Parameters
    ----------
    n_pixels : int
        Side of a tile.
    pixel_scale_arcsec, seeing_px : pair of float
        Pixel, and standard deviation of a star's image in pixels.
    noise_scale_px : pair of float
        Standard deviation of the Gaussian that makes the noise of neighbouring pixels alike.
    stars : pair of float
        Expected star residuals in a tile.
    star_sigma : pair of float
        Brightest pixel of a residual in units of the noise; drawn from a power law between the two.
    bad_columns, trails, ghosts : float
        Expected number of each in a tile.
    background_sigma : pair of float
        Standard deviation of faint structure of the background, on scales of an eighth of the tile.
    echo_sigma : pair of float
        Surface brightness of an echo, in units of the noise of a pixel, log-uniform.
    echo_length_px : pair of float
    wiggle_px : pair of float
        How uneven the dust is across the arc.
    age_yr, distance_pc, front_ly : pair of float
        Of the explosion; see `light_echoes.LightEcho`. The defaults are those of the historical supernovae of our
        galaxy, whose echoes Rest et al. 2008 (ApJ 681, L81) found hundreds of light-years in front of them.
    """

    n_pixels: Count = 256
    pixel_scale_arcsec: Drawn = (0.5, 2.0)
    seeing_px: Drawn = (0.9, 1.8)
    noise_scale_px: Drawn = (0.0, 0.8)
    stars: Drawn = (2.0, 40.0)
    star_sigma: Drawn = (4.0, 400.0)
    bad_columns: NotNegative = 0.4
    trails: NotNegative = 0.15
    ghosts: NotNegative = 0.15
    background_sigma: Drawn = (0.0, 0.25)
    echo_sigma: Drawn = (0.8, 5.0)
    echo_length_px: Drawn = (25.0, 140.0)
    wiggle_px: Drawn = (0.0, 4.0)
    age_yr: Drawn = (300.0, 1000.0)
    distance_pc: Annotated[tuple[Positive, Positive], AfterValidator(check_rising)] = (2000.0, 5000.0)
    front_ly: Drawn = (50.0, 1500.0)


@dataclass(frozen=True)
class DifferenceField:
    """What all tiles of one field have in common.

    Parameters
    ----------
    settings : DifferenceSettings
    pixel_scale_arcsec, seeing_px, noise_scale_px, n_stars, background_sigma : float
    direction_rad : float
        In which the explosion's light moves.
    age_yr, distance_pc, bright_yr, reference_yr : float
        Of the explosion, and the time between the images.
    """

    settings: DifferenceSettings
    pixel_scale_arcsec: float
    seeing_px: float
    noise_scale_px: float
    n_stars: float
    background_sigma: float
    direction_rad: float
    age_yr: float
    distance_pc: float
    bright_yr: float
    reference_yr: float


@dataclass(frozen=True)
class DifferenceTile:
    """A simulated tile.

    Parameters
    ----------
    image : ndarray of float32, shape (y, x)
        In units of the noise.
    boxes : DataFrame
        `BOX_COLUMNS`, and ``snr``, the S/N of all light of an object in noise of independent pixels.
    """

    image: np.ndarray
    boxes: pd.DataFrame


def draw_difference_field(rng: np.random.Generator, settings: DifferenceSettings) -> DifferenceField:
    """Draw what all tiles of a field have in common."""
    return DifferenceField(
        settings,
        pixel_scale_arcsec=rng.uniform(*settings.pixel_scale_arcsec),
        seeing_px=rng.uniform(*settings.seeing_px),
        noise_scale_px=rng.uniform(*settings.noise_scale_px),
        n_stars=rng.uniform(*settings.stars),
        background_sigma=rng.uniform(*settings.background_sigma),
        direction_rad=rng.uniform(0, 2 * np.pi),
        age_yr=rng.uniform(*settings.age_yr),
        distance_pc=rng.uniform(*settings.distance_pc),
        bright_yr=rng.uniform(0.08, 0.3),  # a supernova's light curve lasts some months
        reference_yr=rng.uniform(0.5, 3.0),
    )


def simulate_tile(rng: np.random.Generator, field: DifferenceField, n_echoes: int) -> DifferenceTile:
    """Simulate one tile of a field.

    Parameters
    ----------
    rng : Generator
    field : DifferenceField
    n_echoes : int
        Pieces of light echoes; one that comes out fainter than `LEAST_SNR` is left out.
    """
    n = field.settings.n_pixels
    image = _noise(rng, field) + field.background_sigma * _structure(rng, n)
    boxes: list[dict[str, object]] = []
    lights = [("echo", _echo(rng, field)) for _ in range(n_echoes)]
    lights += [("trail", _trail(rng, field)) for _ in range(rng.poisson(field.settings.trails))]
    lights += [("ghost", _ghost(rng, field)) for _ in range(rng.poisson(field.settings.ghosts))]
    for group, (kind, light) in enumerate(lights):
        added = list(_box_light(light, kind, group))
        if added:
            image += light
            boxes += added
    for place, residual in _stars(rng, field):
        image[place] += residual
        if np.abs(residual).max() > _BOXED_STAR_SIGMA:
            boxes += _box_light(residual, "artefact", len(boxes) + len(lights), (place[1].start, place[0].start))
    for column, rows in _bad_columns(rng, field):
        image[rows, column] += rng.choice([-1, 1]) * rng.uniform(2, 30)
        boxes.append(_column_box(column, rows, len(boxes) + len(lights)))
    table = pd.DataFrame(boxes, columns=[*BOX_COLUMNS, "snr"])
    numbers = dict.fromkeys((*GEOMETRY_COLUMNS, "confidence", "snr"), np.float64)  # without a box pandas cannot know
    return DifferenceTile(image.astype(np.float32), table.astype({**numbers, "group": np.int64, "kind": "str"}))


_BOXED_STAR_SIGMA = 60.0  # residuals that an observer would box as one


def _noise(rng: np.random.Generator, field: DifferenceField) -> np.ndarray:
    n = field.settings.n_pixels
    return _unit_noise(rng, n, field.noise_scale_px) if field.noise_scale_px > 0.2 else rng.normal(size=(n, n))


def _unit_noise(rng: np.random.Generator, n: int, scale_px: float) -> np.ndarray:
    """Noise of standard deviation 1 that is alike over some pixels."""
    noise = gaussian_filter(rng.normal(size=(n, n)), scale_px, mode="wrap")
    return noise / noise.std()


def _structure(rng: np.random.Generator, n: int) -> np.ndarray:
    """Smooth structure of standard deviation 1 on scales of an eighth of the tile."""
    coarse = gaussian_filter(rng.normal(size=(33, 33)), 4.0)
    fine = zoom(coarse, n / 32, order=1)[:n, :n]
    return fine / fine.std()


def _echo(rng: np.random.Generator, field: DifferenceField) -> np.ndarray:
    settings, n = field.settings, field.settings.n_pixels
    echo = LightEcho(
        field.age_yr, field.distance_pc, front_ly=rng.uniform(*settings.front_ly),
        thickness_ly=np.exp(rng.uniform(*np.log([0.02, 0.6]))), bright_yr=field.bright_yr,
    )  # fmt: skip
    x, y = rng.uniform(0, n - 1, 2)
    arc = place_echo(
        echo, x, y, field.direction_rad + rng.normal(0, 0.15), rng.uniform(*settings.echo_length_px),
        pixel_scale_arcsec=field.pixel_scale_arcsec, psf_px=field.seeing_px, reference_yr=field.reference_yr,
    )  # fmt: skip
    now, before = echo_light(rng, arc, n, rng.uniform(8, 40), rng.uniform(*settings.wiggle_px))
    return float(np.exp(rng.uniform(*np.log(settings.echo_sigma)))) * (now - before)


def _trail(rng: np.random.Generator, field: DifferenceField) -> np.ndarray:
    """Light of a satellite across the tile, as wide as a star's image."""
    n, angle = field.settings.n_pixels, rng.uniform(0, np.pi)
    x0, y0 = rng.uniform(0, n - 1, 2)
    y, x = np.mgrid[:n, :n]
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    return rng.choice([-1, 1], p=[0.2, 0.8]) * _power_law(rng, 0.8, 40) * np.exp(-0.5 * (across / field.seeing_px) ** 2)


def _ghost(rng: np.random.Generator, field: DifferenceField) -> np.ndarray:
    """Ring of a pupil's image, bright or dark."""
    n, radius = field.settings.n_pixels, rng.uniform(12, 30)
    x0, y0 = rng.uniform(0, n - 1, 2)
    y, x = np.mgrid[:n, :n]
    distance = np.hypot(x - x0, y - y0)
    ring = ((distance < radius) & (distance > 0.45 * radius)).astype(float)
    return rng.choice([-1, 1]) * rng.uniform(0.5, 2.5) * gaussian_filter(ring, 1.0)


def _stars(rng: np.random.Generator, field: DifferenceField) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Places and residuals of stars: an image less one that is shifted and wider."""
    n, sigma = field.settings.n_pixels, field.seeing_px
    reach = int(np.ceil(5 * sigma))
    for _ in range(rng.poisson(field.n_stars)):
        x0, y0 = rng.uniform(0, n - 1, 2)
        shift_x, shift_y = rng.normal(0, 0.12 * sigma, 2)
        rows, columns = (slice(max(int(c) - reach, 0), int(c) + reach + 1) for c in (y0, x0))
        place = rows, columns
        y, x = np.mgrid[rows.start : min(rows.stop, n), columns.start : min(columns.stop, n)]
        now, before = (
            _star(x - x0, y - y0, sigma),
            _star(x - x0 - shift_x, y - y0 - shift_y, sigma * (1 + abs(rng.normal(0, 0.05)))),
        )
        shape = now - rng.uniform(0.97, 1.03) * before
        yield place, shape / np.abs(shape).max() * _power_law(rng, *field.settings.star_sigma)


def _star(dx: np.ndarray, dy: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.exp(-0.5 * (dx**2 + dy**2) / sigma_px**2) / sigma_px**2


def _power_law(rng: np.random.Generator, low: float, high: float) -> float:
    """Number with the density of 1/value² between two limits: few are bright."""
    return float(1 / rng.uniform(1 / high, 1 / low))


def _bad_columns(rng: np.random.Generator, field: DifferenceField) -> Iterator[tuple[int, slice]]:
    n = field.settings.n_pixels
    for _ in range(rng.poisson(field.settings.bad_columns)):
        first = int(rng.integers(0, n - 16)) if rng.random() < 0.5 else 0
        yield int(rng.integers(0, n)), slice(first, int(rng.integers(first + 16, n + 1)))


def _box_light(
    light: np.ndarray, kind: str, group: int, first: tuple[int, int] = (0, 0)
) -> Iterator[dict[str, object]]:
    """Box of what is seen of an object whose first pixel has the given x and y; nothing where it is too faint."""
    snr = float(np.sqrt(np.sum(light**2)))
    seen, n_parts = label(gaussian_filter(np.abs(light), 1.0) > SEEN_SIGMA)
    if not n_parts or snr < LEAST_SNR:
        return
    y, x = np.nonzero(seen)
    if len(x) < _LEAST_SEEN_PIXELS:
        return
    yield _entry(enclose_points(x + first[0], y + first[1]), kind, group, snr)


_LEAST_SEEN_PIXELS = 12


def _column_box(column: int, rows: slice, group: int) -> dict[str, object]:
    length = rows.stop - rows.start
    box = np.array([column, rows.start + (length - 1) / 2, length, 3.0, -np.pi / 2])
    return _entry(box, "artefact", group, float("nan"))


def _entry(box: np.ndarray, kind: str, group: int, snr: float) -> dict[str, object]:
    values = dict(zip(GEOMETRY_COLUMNS, map(float, box), strict=True))
    return {**values, "kind": kind, "confidence": 1.0, "group": group, "snr": snr}
