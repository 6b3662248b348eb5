"""Render a simulated amplifier by blocks of rows: mean charge of every pixel, photon noise, and readout to ADU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numba
import numpy as np

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.simulation.camera.artefacts import CosmicRay
from shutterless.pipeline.simulation.camera.detector import Trap, pass_trap
from shutterless.pipeline.simulation.camera.photons import draw_photons
from shutterless.pipeline.simulation.content import AmplifierContent
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.atmosphere import AirRun, add_sources, source_edges

BIAS_ADU = 100.0
# deferred charge in the first overscan columns, about 250 ADU in the first and none from the twentieth
DEFERRED_ADU, DEFERRED_SCALE_PX = 150.0, 3.0
RENDERED_ROWS = 256


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
    air = None if content.air is None else AirRun(content.air, content.scene.n_transit)
    camera = _Camera(settings, content)
    for start in range(0, len(content.rows), RENDERED_ROWS):
        block = slice(start, min(start + RENDERED_ROWS, len(content.rows)))
        charge = camera.empty_rows(block.stop - block.start)
        draw_photons(rng, mean_electrons(content, block, air), camera.data_of(charge))
        _add_cosmic_rays(camera.data_of(charge), content.cosmic_rays, block)
        adu = camera.read(rng, charge, block)
        # a copy, since a view of the overscan would keep the data in memory
        yield camera.data_of(adu), camera.overscan_of(adu).copy()


def _add_cosmic_rays(charge_e: np.ndarray, rays: Sequence[CosmicRay], block: slice) -> None:
    for ray in rays:
        inside = (ray.rows >= block.start) & (ray.rows < block.stop)
        if inside.any():
            charge_e[ray.rows[inside] - block.start, ray.columns[inside]] += ray.charge_e[inside]


class _Camera:
    """Readout of one amplifier: data columns, then the overscan, which holds no charge."""

    def __init__(self, settings: SceneSettings, content: AmplifierContent) -> None:
        profile = settings.profile
        self.content, self.n_columns, n_overscan = content, profile.n_columns, profile.n_overscan_columns
        self.gain = float(settings.electronics("gain_e_per_adu"))
        self.saturation_adu = float(settings.electronics("saturation_adu"))
        self.nonlinearity = profile.nonlinearity or (0.0, 0.0)
        detector = content.detector
        self.serial_trap = None if detector is None else profile.serial_trap
        self.pattern_e = np.zeros(self.n_columns + n_overscan) if detector is None else detector.pattern_e.copy()
        self.pattern_e[self.n_columns :] += (
            self.gain * DEFERRED_ADU * np.exp(-np.arange(n_overscan) / DEFERRED_SCALE_PX)
        )
        self.held_e = [] if detector is None else [self._begin_with(trap) for trap in detector.traps]

    def _begin_with(self, trap: Trap) -> float:
        """Charge in a trap before the file's first row, from the light before it; none at the start of a sequence."""
        packet = self.content.scene.baseline_e([self.content.rows[0] - 1], trap.column, 1)[0, 0]
        return trap.filling_e(float(packet))

    def empty_rows(self, n_rows: int) -> np.ndarray:
        """Rows of data and overscan without charge, shape (t, x + o)."""
        return np.zeros((n_rows, len(self.pattern_e)))

    def data_of(self, rows: np.ndarray) -> np.ndarray:
        """View of the data columns, shape (t, x)."""
        return rows[:, : self.n_columns]

    def overscan_of(self, rows: np.ndarray) -> np.ndarray:
        """View of the overscan columns, shape (t, o)."""
        return rows[:, self.n_columns :]

    def read(self, rng: np.random.Generator, charge_e: np.ndarray, block: slice) -> np.ndarray:
        """Read the next rows as ADU, uint16, shape (t, x + o). The array of charge is overwritten."""
        detector = self.content.detector
        if detector is not None:
            for i, trap in enumerate(detector.traps):
                self.held_e[i] = pass_trap(charge_e[:, trap.column], trap, self.held_e[i])
        if self.serial_trap is not None:
            apply_serial_trap(charge_e, self.serial_trap)
        adu = np.empty(charge_e.shape, dtype=np.uint16)
        _add_noise(rng, charge_e, self.content.row_offsets_e(block), self.pattern_e, self.content.scene.read_noise_e)
        _digitise(charge_e, self.gain, *self.nonlinearity, self.saturation_adu, adu)
        for first, length in () if detector is None else detector.dropped_rows:
            adu[max(first - block.start, 0) : max(first + length - block.start, 0)] = 0
        return adu


def mean_electrons(content: AmplifierContent, block: slice, air: AirRun | None = None) -> np.ndarray:
    """Mean electrons of all light and dark charge in a block of file rows, shape (t, x).

    Parameters
    ----------
    content : AmplifierContent
    block : slice
    air : AirRun, optional
        Of `content.air`, to continue from the block before.
    """
    if content.air is not None:
        mean = _mean_through_air(content, air or AirRun(content.air, content.scene.n_transit), block)
    else:
        mean = content.scene.baseline_e(content.rows[block])
        for placed in content.events:
            first, curve = placed.within(block)
            columns = slice(placed.first_column, placed.first_column + len(placed.profile))
            mean[first : first + len(curve), columns] += placed.event.amplitude_e * np.outer(curve, placed.profile)
    if content.sky_lights is not None:
        content.sky_lights.add(mean, int(content.rows[block.start]))
    if content.detector is not None:
        for hot in content.detector.hot_columns:
            mean[:, hot.column] += hot.light_e(content.rows[block], content.scene.row_rate_hz)
    return np.maximum(mean, 0.0, out=mean)


def _mean_through_air(content: AmplifierContent, air: AirRun, block: slice) -> np.ndarray:
    """Mean electrons with every star, and every event with its star, moved, widened and dimmed by the air.

    The sky stays steady, since the effect of a cloud on it is spread over the transit of 10 s. An orphan does not
    scintillate, which cannot be distinguished from a different light curve.
    """
    scene, rows = content.scene, content.rows[block]
    first_row = int(rows[0])
    mean = np.repeat((scene.sky_e_s * scene.exposure_s(rows))[:, None], scene.n_columns, axis=1)
    factors, series = air.factors(first_row, len(rows)), air.series(first_row, len(rows))
    light = factors * scene.flux_e_row
    changing, settled = scene.changing_stars(rows)
    light[:, ~(changing | settled)] = 0.0
    for beginning in np.flatnonzero(changing):
        light[:, beginning] *= np.maximum(scene.streak(rows, scene.y0[beginning]), 0.0)
    add_sources(mean, first_row, light, scene.x, scene.y0, scene.psf_sigma_px, series, source_edges(scene.flux_e_row))
    for placed in content.events:
        first, curve = placed.within(block)
        if len(curve):
            star = int(placed.event.star_id)
            own = factors[first : first + len(curve), star] if star >= 0 else 1.0
            light = placed.event.amplitude_e * (curve * own)[:, None]
            x, y0 = np.array([placed.event.x]), np.array([placed.y0])
            add_sources(mean[first:], first_row + first, light, x, y0, scene.psf_sigma_px, series)
    return mean


@numba.njit(cache=True, nogil=True)
def _add_noise(rng, charge_e, row_offsets_e, pattern_e, read_noise_e):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add the offsets of rows and columns and the read noise of each pixel, in place, shape (t, x)."""
    for t in range(charge_e.shape[0]):
        for x in range(charge_e.shape[1]):
            charge_e[t, x] += row_offsets_e[t] + pattern_e[x] + read_noise_e * rng.standard_normal()


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _digitise(charge_e, gain, a, b, saturation_adu, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Turn charge into integers ``out`` with non-linearity and bias, shape (t, x).

    The profile's ``true = x / (a x² + b x + 1)`` is solved for the reading x, in a form that allows ``a = 0``.
    """
    for t in range(charge_e.shape[0]):
        for x in range(charge_e.shape[1]):
            true = charge_e[t, x] / gain
            linear = 1 - b * true
            reading = 2 * true / (linear + np.sqrt(linear * linear - 4 * a * true * true)) + BIAS_ADU
            reading = reading if reading > 0 else 0.0
            out[t, x] = np.uint16(np.rint(reading if reading < saturation_adu else saturation_adu))
