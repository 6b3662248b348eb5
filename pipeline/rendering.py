"""Light to numbers, block by block of rows: the mean charge of every pixel, photons, the amplifier that reads them."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np

from shutterless.pipeline.atmosphere import AirRun, add_sources
from shutterless.pipeline.content import AmplifierContent
from shutterless.pipeline.scene import SceneSettings

BIAS_ADU = 100.0
# deferred charge in the first overscan columns: about 250 ADU in the first, gone by the twentieth
DEFERRED_ADU, DEFERRED_SCALE_PX = 150.0, 3.0
BLOCK_ROWS = 512


def render(
    settings: SceneSettings, content: AmplifierContent, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Expose and read a whole amplifier at once; see `render_blocks`."""
    data, overscan = zip(*render_blocks(settings, content, rng), strict=True)
    return np.concatenate(data), np.concatenate(overscan)


def render_blocks(
    settings: SceneSettings, content: AmplifierContent, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Expose and read one amplifier.

    Yields
    ------
    data : ndarray of uint16, shape (t, x)
        ADU of the next rows in read order.
    overscan : ndarray of uint16, shape (t, o)
    """
    scene, profile = content.scene, settings.profile
    gain, saturation = float(settings.electronics("gain_e_per_adu")), float(settings.electronics("saturation_adu"))
    a, b = profile.nonlinearity or (0.0, 0.0)
    deferred_e = gain * DEFERRED_ADU * np.exp(-np.arange(profile.n_overscan_columns) / DEFERRED_SCALE_PX)
    air = None if content.air is None else AirRun(content.air, scene.n_transit)
    for start in range(0, len(content.rows), BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, len(content.rows)))
        n_rows = block.stop - block.start
        charge = _draw_electrons(rng, mean_electrons(content, block, air))
        for ray in content.cosmic_rays:
            inside = (ray.rows >= block.start) & (ray.rows < block.stop)
            charge[ray.rows[inside] - block.start, ray.columns[inside]] += ray.charge_e[inside]
        offsets = content.row_offsets_e(block)
        data = np.empty((n_rows, profile.n_columns), dtype=np.uint16)
        overscan = np.empty((n_rows, profile.n_overscan_columns), dtype=np.uint16)
        _digitise(rng, charge, offsets, scene.read_noise_e, gain, a, b, saturation, data)
        empty = np.broadcast_to(deferred_e, overscan.shape).copy()
        _digitise(rng, empty, offsets, scene.read_noise_e, gain, a, b, saturation, overscan)
        yield data, overscan


def mean_electrons(content: AmplifierContent, block: slice, air: AirRun | None = None) -> np.ndarray:
    """Mean electrons from the sky, stars and events in a block of file rows, shape (t, x).

    Parameters
    ----------
    content : AmplifierContent
    block : slice
    air : AirRun, optional
        Of `content.air`, to go on from the block before.
    """
    if content.air is not None:
        mean = _mean_through_air(content, air or AirRun(content.air, content.scene.n_transit), block)
    else:
        mean = content.scene.baseline_e(content.rows[block])
        for placed in content.events:
            first, curve = placed.within(block)
            columns = slice(placed.first_column, placed.first_column + len(placed.profile))
            mean[first : first + len(curve), columns] += placed.event.amplitude_e * np.outer(curve, placed.profile)
    return np.maximum(mean, 0.0, out=mean)


def _mean_through_air(content: AmplifierContent, air: AirRun, block: slice) -> np.ndarray:
    """Mean electrons with every star, and every event with its star, moved, widened and dimmed by the air.

    The sky is left steady: what cloud takes from it, it spreads over the transit of 10 s. An orphan does not
    scintillate, which nobody could tell from its shape.
    """
    scene, rows = content.scene, content.rows[block]
    first_row = int(rows[0])
    mean = np.repeat((scene.sky_e_s * scene.exposure_s(rows))[:, None], scene.n_columns, axis=1)
    factors, series = air.factors(first_row, len(rows)), air.series(first_row, len(rows))
    light = factors * scene.flux_e_row
    changing, settled = scene.changing_stars(rows)
    light[:, ~(changing | settled)] = 0.0
    for star in np.flatnonzero(changing):
        light[:, star] *= np.maximum(scene.streak(rows, scene.y0[star]), 0.0)
    add_sources(mean, first_row, light, scene.x, scene.y0, scene.psf_sigma_px, series)
    for placed in content.events:
        first, curve = placed.within(block)
        if len(curve):
            star = int(placed.event.star_id)
            own = factors[first : first + len(curve), star] if star >= 0 else 1.0
            light = placed.event.amplitude_e * (curve * own)[:, None]
            x, y0 = np.array([placed.event.x]), np.array([placed.y0])
            add_sources(mean[first:], first_row + first, light, x, y0, scene.psf_sigma_px, series)
    return mean


@numba.njit(cache=True)
def _draw_electrons(rng: np.random.Generator, mean_e: np.ndarray) -> np.ndarray:
    """Poisson counts of each pixel, exact at any mean; shape (t, x)."""
    counts = np.empty(mean_e.shape, dtype=np.float64)
    for t in range(mean_e.shape[0]):
        for x in range(mean_e.shape[1]):
            counts[t, x] = rng.poisson(mean_e[t, x])
    return counts


@numba.njit(cache=True)
def _digitise(rng, charge_e, row_offsets_e, read_noise_e, gain, a, b, saturation_adu, out):  # type: ignore[no-untyped-def]
    """Read charge with noise, row offsets, non-linearity and bias into integers ``out``, shape (t, x).

    The profile's ``true = x / (a x² + b x + 1)`` is solved for the reading x, in a form that stands ``a = 0``.
    """
    for t in range(charge_e.shape[0]):
        for x in range(charge_e.shape[1]):
            true = (charge_e[t, x] + row_offsets_e[t] + read_noise_e * rng.standard_normal()) / gain
            linear = 1 - b * true
            reading = 2 * true / (linear + np.sqrt(linear**2 - 4 * a * true**2))
            out[t, x] = np.uint16(min(max(np.rint(reading + BIAS_ADU), 0.0), saturation_adu))
