"""Settings of a simulation, the stars of one amplifier, and their light on each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.time import Time

from shutterless.pipeline.events.events import LONGEST_FLARE_S, smeared_step
from shutterless.pipeline.events.kinds import DEFAULT_KINDS, EVENT_KINDS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import FRAME_SUFFIXES
from shutterless.pipeline.reading.instruments import InstrumentProfile, load_frame_profile
from shutterless.pipeline.simulation.sky.star_counts import draw_magnitudes

# magnitude of 1 e-/s: ZTF headers' MAGZP at a gain of 5.8 e-/ADU
ZERO_POINTS_MAG = {"g": 24.54, "r": 24.49, "i": 23.88}
# detector on which `n_bright_stars` is counted (one ZTF quadrant)
_REFERENCE_PIXELS = 3080 * 3072
# first key of every seed: the part of the simulation that draws from it
STARS, EVENTS, PIXELS, COSMIC_RAYS, PICKUP, MAINS, DRIFT, ATMOSPHERE, DETECTOR, DROPPED_ROWS, TRAILS, GHOSTS = range(12)
_STRENGTHS = ("scintillation_rms", "motion_rms_arcsec", "focus_rms", "transparency_rms")
# consecutive sequence rows
Rows = Sequence[int] | np.ndarray
_TRAIL_RATES = ("geosynchronous_per_hour", "low_orbit_per_hour", "aircraft_per_hour", "meteors_per_hour")
_TIMES = ("scintillation_s", "motion_s", "focus_s", "transparency_s")


class SceneError(ValueError):
    """Settings of a simulation that contradict each other or cannot be fulfilled."""


@dataclass(frozen=True)
class SceneSettings:
    """All settings of a simulated sequence; the same settings give the same files to the bit.

    Parameters
    ----------
    instrument : str
        Profile name or path of a TOML file; gives geometry, header keywords and electronics.
    ccds : tuple of int
        CCD numbers, from 1.
    rows, files : int
        Rows in each file, and files in the sequence of each CCD.
    events : int
        Events in each amplifier and file.
    kinds : tuple of str
        Kinds of events, equally probable.
    partial : float
        Share of events that the first or the last row of the file cuts.
    longest_flare_s : float
        Width of the longest flare among those that are not cut.
    rho : (float, float)
        Optimal S/N of events, drawn uniformly between the two.
    artefacts : bool
        Cosmic rays and pickup.
    sky_lights : bool
        Satellites, aircraft, meteors and ghosts of bright stars; see `sky_lights.SkyLights`.
    geosynchronous_per_hour, low_orbit_per_hour, aircraft_per_hour, meteors_per_hour : float
        Objects that cross a CCD (3.0 deg²) in an hour; see `moving_lights.TrailRates`.
    detector : bool
        Serial trap (pocket effect, if the profile has one), bias structure, hot columns, traps, dropped rows; see
        `detector`.
    hot_columns, traps : float
        Expected number in each amplifier.
    dropped_runs_per_hour : float
        Rate of runs of rows that a CCD loses.
    atmosphere : bool
        Scintillation, image motion, changes of focus and seeing, thin cloud; see `atmosphere.Atmosphere`.
    scintillation_rms, motion_rms_arcsec, focus_rms, transparency_rms : float
        Their strengths: relative scatter of the flux of a row, of the width of the point-spread function and of the
        transparency; motion along each axis (arcsec). 0 switches one off.
    scintillation_s, motion_s, focus_s, transparency_s : float
        Their correlation times.
    seed : int
    sequence : str
        Name of the sequence, with which file names begin.
    shutter_open_utc : str
        UTC of the opening of the shutter, which is sequence row 0.
    row_rate_hz : float
    first_row : int or None
        Sequence row of the first file's first row; 0 begins with the ramp. None is steady state, without this row in
        the headers.
    shutter_close_row : int or None
        Sequence row at which the shutter closes while the clocks continue; None if it stays open.
    band : str
    zero_point_mag : float or None
        Magnitude of 1 e-/s; None for `ZERO_POINTS_MAG` of the band.
    sky_mag : float
        Sky brightness (mag/arcsec²).
    seeing_arcsec : float
        FWHM of the Gaussian point-spread function.
    n_bright_stars : float
        Expected stars brighter than magnitude 14.5 in one ZTF quadrant; other detectors scale with the area.
    star_slope : float
        Slope of log10 of the counts per magnitude.
    galactic_latitude_deg : float or None
        Galactic latitude of the field. If given, the counts of stars in r are those of `star_counts`, and
        ``n_bright_stars`` and ``star_slope`` are not used.
    bright_mag, faint_mag : float
        Range of magnitudes.
    suffix : str
        ``.fits``, ``.fits.fz`` (Rice tiles) or ``.fits.gz``.
    """

    instrument: str = "ztf"
    ccds: tuple[int, ...] = (1,)
    rows: int = 10_000
    files: int = 1
    events: int = 10
    kinds: tuple[str, ...] = DEFAULT_KINDS
    partial: float = 0.1
    longest_flare_s: float = LONGEST_FLARE_S
    rho: tuple[float, float] = (4.0, 20.0)
    artefacts: bool = True
    sky_lights: bool = False
    geosynchronous_per_hour: float = 2.0
    low_orbit_per_hour: float = 10.0
    aircraft_per_hour: float = 1.0
    meteors_per_hour: float = 100.0
    detector: bool = False
    hot_columns: float = 4.0
    traps: float = 2.0
    dropped_runs_per_hour: float = 4.0
    atmosphere: bool = False
    scintillation_rms: float = 0.011
    scintillation_s: float = 0.065
    motion_rms_arcsec: float = 0.4
    motion_s: float = 0.1
    focus_rms: float = 0.15
    focus_s: float = 1.0
    transparency_rms: float = 0.03
    transparency_s: float = 5.0
    seed: int = 1
    sequence: str = "simulated"
    shutter_open_utc: str = "2026-03-04T05:06:07.000"
    row_rate_hz: float = 300.0
    first_row: int | None = 0
    shutter_close_row: int | None = None
    band: str = "r"
    zero_point_mag: float | None = None
    sky_mag: float = 20.8
    seeing_arcsec: float = 2.0
    n_bright_stars: float = 300.0
    star_slope: float = 0.28
    galactic_latitude_deg: float | None = None
    bright_mag: float = 7.5
    faint_mag: float = 17.0
    suffix: str = ".fits.fz"

    def __post_init__(self) -> None:
        positive = {
            name: getattr(self, name) for name in ("rows", "files", "row_rate_hz", "seeing_arcsec", "star_slope")
        }
        if any(value <= 0 for value in positive.values()):
            raise SceneError(f"these settings must be positive: {positive}")
        if not self.ccds or len(set(self.ccds)) < len(self.ccds) or min(self.ccds) < 1:
            raise SceneError(f"ccds {self.ccds} must be different whole numbers from 1")
        latitude = self.galactic_latitude_deg
        if latitude is not None and not -90 <= latitude <= 90:
            raise SceneError(f"galactic_latitude_deg {latitude} must lie between -90 and 90")
        rates = {name: getattr(self, name) for name in _TRAIL_RATES}
        if min(rates.values()) < 0:
            raise SceneError(f"rates of moving lights must not be negative: {rates}")
        if min(self.hot_columns, self.traps, self.dropped_runs_per_hour) < 0:
            raise SceneError(
                f"numbers of faults must not be negative: hot_columns {self.hot_columns}, traps {self.traps}, "
                f"dropped_runs_per_hour {self.dropped_runs_per_hour}"
            )
        if self.events < 0 or self.n_bright_stars < 0 or self.seed < 0 or (self.first_row or 0) < 0:
            raise SceneError(
                f"these settings must not be negative: events {self.events}, n_bright_stars {self.n_bright_stars}, "
                f"seed {self.seed}, first_row {self.first_row}"
            )
        if self.shutter_close_row is not None and (self.first_row is None or self.shutter_close_row < 1):
            raise SceneError(
                f"shutter_close_row {self.shutter_close_row} must be a sequence row after the opening (row 0), and "
                f"needs a first_row (is {self.first_row}) to count from"
            )
        if any(getattr(self, name) < 0 for name in _STRENGTHS) or any(getattr(self, name) <= 0 for name in _TIMES):
            values = {name: getattr(self, name) for name in _STRENGTHS + _TIMES}
            raise SceneError(f"strengths of the atmosphere must not be negative, times must be positive: {values}")
        if not 0 <= self.partial <= 1 or not self.longest_flare_s > 0:
            raise SceneError(
                f"partial {self.partial} must be a share from 0 to 1, longest_flare_s {self.longest_flare_s} positive"
            )
        if not 0 < self.rho[0] <= self.rho[1]:
            raise SceneError(f"rho {self.rho} must be two positive numbers in rising order")
        if not self.bright_mag < self.faint_mag:
            raise SceneError(f"bright_mag {self.bright_mag} must be below faint_mag {self.faint_mag}")
        unknown = [kind for kind in self.kinds if kind not in EVENT_KINDS]
        if unknown or not self.kinds:
            raise SceneError(f"kinds {self.kinds} must be among {EVENT_KINDS}")
        if self.suffix not in FRAME_SUFFIXES:
            raise SceneError(f"suffix {self.suffix!r} is not one of {', '.join(FRAME_SUFFIXES)}")
        if self.zero_point_mag is None and self.band not in ZERO_POINTS_MAG:
            raise SceneError(f"band {self.band!r} has no zero point (known: {ZERO_POINTS_MAG}); give zero_point_mag")
        try:
            Time(self.shutter_open_utc, scale="utc", format="isot")
        except ValueError:
            raise SceneError(
                f"shutter_open_utc {self.shutter_open_utc!r} is not ISO 8601 (2026-03-04T05:06:07.123)"
            ) from None

    def generator(self, domain: int, *keys: int) -> np.random.Generator:
        """Return the random generator of one part of one file, the same in every process."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, domain, *keys]))

    @property
    def profile(self) -> InstrumentProfile:
        """Instrument profile."""
        return load_frame_profile(self.instrument)

    @property
    def magnitude_of_one_e_s(self) -> float:
        """Zero point: magnitude of 1 e-/s."""
        return ZERO_POINTS_MAG[self.band] if self.zero_point_mag is None else self.zero_point_mag

    def electronics(self, name: str) -> Any:
        """Value of the profile's ``[defaults]`` that the simulation needs."""
        value = self.profile.defaults.get(name)
        if value is None:
            raise SceneError(f"instrument profile {self.instrument} needs [defaults] {name} to be simulated")
        return value

    def sequence_rows(self, file_index: int) -> range:
        """Sequence row numbers of one file's rows; without ``first_row`` well beyond the ramp."""
        start = 4 * self.electronics("n_transit") if self.first_row is None else self.first_row
        start += file_index * self.rows
        return range(start, start + self.rows)


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
