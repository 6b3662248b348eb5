"""Settings of a simulated sequence. What is slow to import is imported where a value needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from shutterless.pipeline.events.kinds import DEFAULT_KINDS, EVENT_KINDS, LONGEST_FLARE_S, PARTIAL_SHARE
from shutterless.pipeline.settings import Count, CountFrom0, NotNegative, Positive, Share, settings_class

if TYPE_CHECKING:
    from shutterless.pipeline.reading.instruments import InstrumentProfile

# magnitude of 1 e-/s: ZTF headers' MAGZP at a gain of 5.8 e-/ADU
ZERO_POINTS_MAG = {"g": 24.54, "r": 24.49, "i": 23.88}


class SceneError(ValueError):
    """Settings of a simulation that contradict each other or cannot be fulfilled."""


def check_event_kind(kind: str) -> str:
    """Return the name of a kind of event, or refuse it."""
    if kind not in EVENT_KINDS:
        raise ValueError(f"no kind of event; known are {', '.join(EVENT_KINDS)}")
    return kind


def check_rising(pair: tuple[float, float]) -> tuple[float, float]:
    """Return two numbers, or refuse them where the second is smaller."""
    if pair[0] > pair[1]:
        raise ValueError("the smallest comes first")
    return pair


EventName = Annotated[str, AfterValidator(check_event_kind)]
RhoRange = Annotated[tuple[Positive, Positive], AfterValidator(check_rising)]


@settings_class(SceneError)
class SceneSettings:
    """All settings of a simulated sequence; the same settings give the same files to the bit.

    Parameters
    ----------
    sequence : str
        Name of the sequence, with which file names begin.
    seed : int
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
    geosynchronous_per_hour : float
        Satellites that cross a CCD (3.0 deg²) in an hour. Gehrels & Vilas 1986 (Icarus 68, 412) found 7 geostationary
        ones brighter than V = 13.1 in 8.8 deg² of the belt: at 15 deg/h about 20 an hour pass a CCD there. The default
        is for fields within 15 deg of the equator (a choice).
    low_orbit_per_hour : float
        Mróz et al. 2022 (ApJL 924, L30): with 10,000 Starlinks about one trail in every 30 s exposure of the mosaic in
        twilight, which is 28 an hour and CCD. The default is the mean of a night (a choice).
    aircraft_per_hour : float
        A choice.
    meteors_per_hour : float
        Ohsawa et al. 2019 (Planet. Space Sci. 165, 281): 1514 in one night, to absolute magnitude 10, on 2.0 deg²
        behind a 1.05 m Schmidt; the default is of that order.
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
    right_ascension_deg, declination_deg : float
        Where the middle of the mosaic points. The stars do not depend on it.
    position_angle_deg : float or None
        Of raw rows upwards, from north through east; None for that of the profile.
    pointing_error_arcsec, rotation_error_deg : float
        By how much the pointing in the headers is wrong, in a direction that the seed gives, and its position angle.
    suffix : str
        ``.fits``, ``.fits.fz`` (Rice tiles) or ``.fits.gz``.
    """

    sequence: Annotated[str, Field(min_length=1)] = "simulated"
    seed: CountFrom0 = 1
    instrument: str = "ztf"
    ccds: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    rows: Count = 10_000
    files: Count = 1
    events: CountFrom0 = 10
    kinds: Annotated[tuple[EventName, ...], Field(min_length=1)] = DEFAULT_KINDS
    partial: Share = PARTIAL_SHARE
    longest_flare_s: Positive = LONGEST_FLARE_S
    rho: RhoRange = (4.0, 20.0)
    artefacts: bool = True
    sky_lights: bool = False
    geosynchronous_per_hour: NotNegative = 2.0
    low_orbit_per_hour: NotNegative = 10.0
    aircraft_per_hour: NotNegative = 1.0
    meteors_per_hour: NotNegative = 100.0
    detector: bool = False
    hot_columns: NotNegative = 4.0
    traps: NotNegative = 2.0
    dropped_runs_per_hour: NotNegative = 4.0
    atmosphere: bool = False
    scintillation_rms: NotNegative = 0.011
    scintillation_s: Positive = 0.065
    motion_rms_arcsec: NotNegative = 0.4
    motion_s: Positive = 0.1
    focus_rms: NotNegative = 0.15
    focus_s: Positive = 1.0
    transparency_rms: NotNegative = 0.03
    transparency_s: Positive = 5.0
    shutter_open_utc: str = "2026-03-04T05:06:07.000"
    row_rate_hz: Positive = 300.0
    first_row: CountFrom0 | None = 0
    shutter_close_row: Count | None = None
    band: str = "r"
    zero_point_mag: float | None = None
    sky_mag: float = 20.8
    seeing_arcsec: Positive = 2.0
    n_bright_stars: NotNegative = 300.0
    star_slope: Positive = 0.28
    galactic_latitude_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    bright_mag: float = 7.5
    faint_mag: float = 17.0
    right_ascension_deg: Annotated[float, Field(ge=0, lt=360)] = 150.0
    declination_deg: Annotated[float, Field(ge=-90, le=90)] = 30.0
    position_angle_deg: float | None = None
    pointing_error_arcsec: NotNegative = 0.0
    rotation_error_deg: float = 0.0
    suffix: str = ".fits.fz"

    @field_validator("ccds")
    @classmethod
    def _check_ccds(cls, ccds: tuple[int, ...]) -> tuple[int, ...]:
        from shutterless.pipeline.astrometry.focal_plane import ZTF_CCDS

        if len(set(ccds)) < len(ccds):
            raise ValueError("a CCD is named twice")
        if max(ccds) > ZTF_CCDS:
            raise ValueError(f"the mosaic has CCDs 1 to {ZTF_CCDS}")
        return ccds

    @field_validator("suffix")
    @classmethod
    def _check_suffix(cls, suffix: str) -> str:
        from shutterless.pipeline.reading.fits_files import FRAME_SUFFIXES

        if suffix not in FRAME_SUFFIXES:
            raise ValueError(f"no suffix of frames; known are {', '.join(FRAME_SUFFIXES)}")
        return suffix

    @field_validator("shutter_open_utc")
    @classmethod
    def _check_time(cls, shutter_open_utc: str) -> str:
        from astropy.time import Time

        try:
            Time(shutter_open_utc, scale="utc", format="isot")
        except ValueError:
            raise ValueError("not ISO 8601, such as 2026-03-04T05:06:07.123") from None
        return shutter_open_utc

    @model_validator(mode="after")
    def _check_together(self) -> SceneSettings:
        if self.shutter_close_row is not None and self.first_row is None:
            raise ValueError(f"shutter_close_row {self.shutter_close_row} needs a first_row (is None) to count from")
        if not self.bright_mag < self.faint_mag:
            raise ValueError(f"bright_mag {self.bright_mag} must be below faint_mag {self.faint_mag}")
        if self.zero_point_mag is None and self.band not in ZERO_POINTS_MAG:
            raise ValueError(f"band {self.band!r} has no zero point (known: {ZERO_POINTS_MAG}); give zero_point_mag")
        return self

    def generator(self, domain: int, *keys: int) -> np.random.Generator:
        """Return the random generator of one part of one file, the same in every process."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, domain, *keys]))

    @property
    def profile(self) -> InstrumentProfile:
        """Instrument profile."""
        from shutterless.pipeline.reading.instruments import load_frame_profile

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
