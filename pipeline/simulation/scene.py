"""The stars of one amplifier, and their light on each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm

from shutterless.pipeline.events.events import smeared_step
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.star_counts import draw_magnitudes

# detector on which `n_bright_stars` is counted (one ZTF quadrant)
_REFERENCE_PIXELS = 3080 * 3072
# first key of every seed: the part of the simulation that draws from it
STARS, EVENTS, PIXELS, COSMIC_RAYS, PICKUP, MAINS, DRIFT, ATMOSPHERE, DETECTOR, DROPPED_ROWS, TRAILS, GHOSTS = range(12)
POINTING = 12
# consecutive sequence rows
Rows = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Scene:
    """Stars of one amplifier and the light on its pixels without events.

    Parameters
    ----------
    x, y0, mag, flux_e_row : ndarray of float64, shape (s,)
        Column, detector row counted from the register, magnitude, and electrons per row summed over columns.
    sky_e_s : float
        Electrons of the sky per pixel and second.
    read_noise_e, psf_sigma_px, row_rate_hz : float
    n_transit, n_columns : int
    """

    x: np.ndarray
    y0: np.ndarray
    mag: np.ndarray
    flux_e_row: np.ndarray
    sky_e_s: float
    read_noise_e: float
    psf_sigma_px: float
    row_rate_hz: float
    n_transit: int
    n_columns: int
    close_row: int | None = None

    def exposure_s(self, sequence_rows: Rows) -> np.ndarray:
        """Seconds of rows on the detector with the shutter open, in sky ramp, steady state and drain."""
        rows = np.asarray(sequence_rows)
        if self.close_row is None:
            return np.clip(rows, 0, self.n_transit) / self.row_rate_hz
        lit = np.minimum(rows, self.close_row) - np.maximum(rows - self.n_transit, 0)
        return np.maximum(lit, 0) / self.row_rate_hz

    def streak(self, sequence_rows: Rows, y0: float) -> np.ndarray:
        """Share of the light of a star at detector row ``y0`` in each row: 0, 1, or between at its ends, shape (t,).

        Notes
        -----
        Light that falls on detector row y at time t is read in row ``v t + y``; so a streak begins at sequence row y0
        and ends at y0 plus the row at which the shutter closes.
        """
        rows = np.asarray(sequence_rows)
        share = smeared_step(rows - y0, self.psf_sigma_px)
        if self.close_row is not None:
            share = share - smeared_step(rows - y0 - self.close_row, self.psf_sigma_px)
        return share

    def changing_stars(self, sequence_rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Stars whose streaks begin or end in or near consecutive rows, and stars with light in all; bool (s,)."""
        reach = 6 * self.psf_sigma_px + 1
        end = self.y0 + (np.inf if self.close_row is None else self.close_row)
        present = (self.y0 < sequence_rows[-1] + reach) & (end > sequence_rows[0] - reach)
        settled = (self.y0 < sequence_rows[0] - reach) & (end > sequence_rows[-1] + reach)
        return present & ~settled, settled

    def baseline_e(self, sequence_rows: Rows, first_column: int = 0, n_columns: int | None = None) -> np.ndarray:
        """Mean electrons per pixel of sky and stars in a window of consecutive rows, shape (t, x)."""
        width = self.n_columns - first_column if n_columns is None else n_columns
        reach = 6 * self.psf_sigma_px + 1
        near = (self.x > first_column - reach) & (self.x < first_column + width - 1 + reach)
        changing, settled = (near & stars for stars in self.changing_stars(sequence_rows))
        # between the ends of streaks all stars of the window are constant, and rows differ only by the sky
        constant = self._static_light(settled, first_column, width)
        baseline = self.sky_e_s * self.exposure_s(sequence_rows)[:, None] + constant
        for y0, (columns, light) in zip(self.y0[changing], self._profiles(changing, first_column, width), strict=True):
            baseline[:, columns] += self.streak(sequence_rows, y0)[:, None] * light
        return baseline

    def _static_light(self, chosen: np.ndarray, first_column: int, width: int) -> np.ndarray:
        """Summed electrons per row of the chosen stars in each column of the window, shape (x,)."""
        reach = 6 * self.psf_sigma_px + 1
        x = self.x[chosen][:, None]
        columns = np.ceil(x - reach).astype(int) + np.arange(int(2 * reach) + 1)
        light = self.flux_e_row[chosen][:, None] * pixel_profile(columns - x, self.psf_sigma_px)
        inside = (columns <= x + reach) & (columns >= first_column) & (columns < first_column + width)
        return np.bincount(columns[inside] - first_column, weights=light[inside], minlength=width)

    def _profiles(self, chosen: np.ndarray, first_column: int, width: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Columns of the window that each chosen star lights, and its electrons per row in them."""
        reach = 6 * self.psf_sigma_px + 1
        for x, flux in zip(self.x[chosen], self.flux_e_row[chosen], strict=True):
            start = max(int(np.ceil(x - reach)), first_column)
            stop = max(min(int(np.floor(x + reach)) + 1, first_column + width), start)
            light = flux * pixel_profile(np.arange(start, stop) - x, self.psf_sigma_px)
            yield slice(start - first_column, stop - first_column), light

    def variance_e2(self, sequence_rows: Rows, first_column: int, n_columns: int) -> np.ndarray:
        """Variance of photon and read noise per pixel of a window without events, shape (t, x)."""
        return self.baseline_e(sequence_rows, first_column, n_columns) + self.read_noise_e**2


def draw_scene(settings: SceneSettings, ccd: int, quadrant: int) -> Scene:
    """Draw the stars of one amplifier: the same for every file of the sequence.

    Notes
    -----
    ``N(< m) = n_bright_stars 10^(star_slope (m - 14.5))`` in one ZTF quadrant, uniform over the detector.
    """
    rng = settings.generator(STARS, ccd, quadrant)
    n_columns, n_transit = settings.profile.n_columns, int(settings.electronics("n_transit"))
    mag = _draw_magnitudes(settings, rng, n_columns * n_transit)
    n_stars = len(mag)
    scale = settings.electronics("pixel_scale_arcsec")
    zero_point = settings.magnitude_of_one_e_s
    return Scene(
        x=rng.uniform(-0.5, n_columns - 0.5, n_stars),
        y0=rng.uniform(0, n_transit, n_stars),
        mag=mag,
        flux_e_row=10 ** (-0.4 * (mag - zero_point)) / settings.row_rate_hz,
        sky_e_s=10 ** (-0.4 * (settings.sky_mag - zero_point)) * scale**2,
        read_noise_e=float(settings.electronics("read_noise_e")),
        psf_sigma_px=float(settings.seeing_arcsec / scale / gaussian_sigma_to_fwhm),
        row_rate_hz=settings.row_rate_hz,
        n_transit=n_transit,
        n_columns=n_columns,
        close_row=settings.shutter_close_row,
    )


def _draw_magnitudes(settings: SceneSettings, rng: np.random.Generator, n_pixels: int) -> np.ndarray:
    """Magnitudes of the stars on ``n_pixels`` pixels, shape (s,)."""
    limits = settings.bright_mag, settings.faint_mag
    if settings.galactic_latitude_deg is not None:
        area_deg2 = n_pixels * (settings.electronics("pixel_scale_arcsec") / 3600) ** 2
        return draw_magnitudes(rng, area_deg2, settings.galactic_latitude_deg, *limits)
    bright, faint = 10 ** (settings.star_slope * (np.array(limits) - 14.5))
    n_stars = rng.poisson(settings.n_bright_stars * (faint - bright) * n_pixels / _REFERENCE_PIXELS)
    return 14.5 + np.log10(bright + (faint - bright) * rng.random(n_stars)) / settings.star_slope
