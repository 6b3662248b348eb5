"""Draw satellites, aircraft and meteors in the focal plane of a whole sequence.

This module holds their rates, speeds and magnitudes; `trails` computes their light in an amplifier's rows. The Earth's
rotation carries geosynchronous satellites across columns, since ZTF's rows are read from south to north.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shutterless.pipeline.astrometry.focal_plane import FocalPlane
from shutterless.pipeline.settings import NotNegative, settings_class

APERTURE_M = 1.22  # ZTF header
SIDEREAL_ARCSEC_S = 15.041

_STEPS_PER_FLASH, _STEPS_PER_PERIOD = 20, 40
# slowest of each kind, which limits how long before the sequence an object may have entered the field
_SLOWEST_ARCSEC_S = {"geosynchronous": 0.95 * SIDEREAL_ARCSEC_S, "low_orbit": 1000.0, "aircraft": 2570.0}
# inclinations up to 15 deg (Seitzer et al. 2017, 7th Eur. Conf. on Space Debris) tilt the motion by at most as much
_DRIFT_TILT = np.radians(15.0)
# mean distance of wing tips, by which an aircraft is wider than a line, and harmonic mean of distances of 9 to 16 km
_MEAN_SPAN_M, _MEAN_AIRCRAFT_M = 47.0, 12.2e3
_METEOR_SPEED_M_S, _METEOR_DISTANCE_M, _METEOR_DURATION_S = (11e3, 72e3), (90e3, 120e3), (0.1, 0.6)
_HEAD_ON = 0.95  # cosine to the line of sight above which a meteor approaches head-on and is left out
_METEORS_PER_MAG = 3.1


class TrailError(ValueError):
    """An impossible moving light or rate."""


@settings_class(TrailError)
class TrailRates:
    """Objects of each kind that cross a CCD (3.0 deg²) of ZTF in an hour."""

    geosynchronous: NotNegative
    low_orbit: NotNegative
    aircraft: NotNegative
    meteor: NotNegative


@dataclass(frozen=True)
class Brightness:
    """Brightness of a moving light over time.

    Parameters
    ----------
    flux_e_s : float
        Electrons per second, steady or on average.
    period_s, phase : float
        Period of the wave and the flashes, and phase in periods.
    wave : float
        Amplitude of a sinusoid relative to ``flux_e_s``: a tumbling satellite.
    flash_e_s, flash_s : float
        Electrons per second added for ``flash_s`` once a period: a strobe, or a face that glints.
    fades : bool
        Rise from 0 and fall back to 0, ``6 u (1 - u)`` over the time of the light: a meteor.
    """

    flux_e_s: float
    period_s: float = 1.0
    phase: float = 0.0
    wave: float = 0.0
    flash_e_s: float = 0.0
    flash_s: float = 0.0
    fades: bool = False

    @property
    def shortest_s(self) -> float:
        """Longest time step that resolves all changes."""
        flash = self.flash_s / _STEPS_PER_FLASH if self.flash_e_s > 0 else np.inf
        return min(flash, self.period_s / _STEPS_PER_PERIOD if self.wave > 0 else np.inf)


@dataclass(frozen=True)
class SkyTrail:
    """One moving light in the focal plane of a sequence.

    Parameters
    ----------
    kind : str
        ``"satellite"``, ``"aircraft"`` or ``"meteor"``.
    object_id : int
        The two wing tips of an aircraft share it.
    x, y : float
        Place in the focal plane at ``time_s`` (pixels).
    time_s : float
        Seconds since the shutter opened.
    velocity_x, velocity_y : float
        Pixels per second.
    begin_s, end_s : float
        First and last time of its light.
    brightness : Brightness
    blur_px : float
        Diameter of the pupil's image of an object nearer than infinity: aperture over distance.
    """

    kind: str
    object_id: int
    x: float
    y: float
    time_s: float
    velocity_x: float
    velocity_y: float
    begin_s: float
    end_s: float
    brightness: Brightness
    blur_px: float = 0.0


def draw_trails(
    rng: np.random.Generator,
    plane: FocalPlane,
    duration_s: float,
    rates: TrailRates,
    *,
    zero_point_mag: float,
    pixel_scale_arcsec: float,
) -> list[SkyTrail]:
    """Draw every moving light of a sequence, whichever amplifiers it crosses.

    Parameters
    ----------
    rng : Generator
        Of the sequence, the same for all its amplifiers and files.
    plane : FocalPlane
    duration_s : float
        Seconds of the sequence, from the opening of the shutter.
    rates : TrailRates
    zero_point_mag : float
        Magnitude of 1 e-/s.
    pixel_scale_arcsec : float

    Notes
    -----
    A rate counts the objects whose path crosses a CCD. For straight paths at a uniform distance from the field's centre
    their number is proportional to the CCD's width w across the motion. For segments of length L whose middles are
    uniform over the sky it is proportional to ``A + w L``, with the CCD's area A (Santaló 1976, Integral Geometry,
    chapter 6). Satellites and aircraft that are in the field when the shutter opens are included.
    """
    if duration_s < 0 or pixel_scale_arcsec <= 0:
        raise TrailError(
            f"duration {duration_s} s must not be negative and pixel scale {pixel_scale_arcsec} arcsec must be positive"
        )
    optics = _Optics(zero_point_mag, pixel_scale_arcsec)
    trails: list[SkyTrail] = []
    drift = np.pi + _DRIFT_TILT * _EVENLY  # +X is west; relative to the stars they move east
    trails += _draw_lines(rng, plane, duration_s, rates.geosynchronous, "geosynchronous", drift, optics, 0)
    for name in ("low_orbit", "aircraft"):
        number = trails[-1].object_id + 1 if trails else 0
        trails += _draw_lines(rng, plane, duration_s, getattr(rates, name), name, np.pi * _EVENLY, optics, number)
    number = trails[-1].object_id + 1 if trails else 0
    return trails + _draw_meteors(rng, plane, duration_s, rates.meteor, optics, number)


# directions over which widths are averaged, as fractions of half the range
_EVENLY = (np.arange(360) + 0.5) / 180 - 1


@dataclass(frozen=True)
class _Optics:
    zero_point_mag: float
    pixel_scale_arcsec: float

    def electrons_s(self, mag: float) -> float:
        return float(10 ** (-0.4 * (mag - self.zero_point_mag)))

    def pixels(self, metres: float, distance_m: float) -> float:
        return float(np.degrees(metres / distance_m) * 3600 / self.pixel_scale_arcsec)


@dataclass(frozen=True)
class _Passage:
    """Place, time and direction in which an object passes the field's centre."""

    number: int
    x: float
    y: float
    time_s: float
    direction: float

    def beside(self, across_px: float) -> _Passage:
        x = self.x - across_px * np.sin(self.direction)
        y = self.y + across_px * np.cos(self.direction)
        return _Passage(self.number, x, y, self.time_s, self.direction)

    def trail(self, kind: str, speed: float, brightness: Brightness, blur: float, duration_s: float) -> SkyTrail:
        return SkyTrail(
            kind, self.number, self.x, self.y, self.time_s,
            speed * np.cos(self.direction), speed * np.sin(self.direction),
            self.time_s - duration_s / 2, self.time_s + duration_s / 2, brightness, blur,
        )  # fmt: skip


def _width_across(size_px: tuple[float, float], directions: np.ndarray) -> float:
    """Mean extent of a rectangle perpendicular to directions of motion."""
    return float(np.mean(size_px[0] * np.abs(np.sin(directions)) + size_px[1] * np.abs(np.cos(directions))))


def _draw_lines(rng, plane, duration_s, rate, name, directions, optics, number):  # type: ignore[no-untyped-def]
    """Objects of one kind that cross the whole field, at a rate per CCD-hour, numbered from ``number``."""
    radius = float(np.hypot(*plane.size_px)) / 2
    lead_s = radius * optics.pixel_scale_arcsec / _SLOWEST_ARCSEC_S[name]
    span = optics.pixels(_MEAN_SPAN_M, _MEAN_AIRCRAFT_M) if name == "aircraft" else 0.0
    width = _width_across(plane.ccd_size_px, directions) + span
    expected = rate / 3600 * (duration_s + 2 * lead_s) * 2 * radius / width
    centre = plane.size_px[0] / 2, plane.size_px[1] / 2
    trails = []
    for index in range(rng.poisson(expected)):
        direction = rng.uniform(directions[0], directions[-1])
        passage = _Passage(number + index, *centre, rng.uniform(-lead_s, duration_s + lead_s), direction)
        trails += _OBJECTS[name](rng, passage.beside(rng.uniform(-radius, radius)), optics)
    return trails


def _draw_satellite_light(rng: np.random.Generator, flux_e_s: float) -> Brightness:
    """Steady in half of all cases, else tumbling: a sinusoid, or one flash per turn (shares and periods: a choice)."""
    behaviour, period_s, phase = rng.random(), float(np.exp(rng.uniform(np.log(0.3), np.log(30.0)))), rng.random()
    if behaviour < 0.5:
        return Brightness(flux_e_s)
    if behaviour < 0.75:
        return Brightness(flux_e_s, period_s, phase, wave=rng.uniform(0.2, 0.9))
    flash_e_s, flash_s = flux_e_s * rng.uniform(3.0, 30.0), period_s * rng.uniform(0.02, 0.1)
    return Brightness(flux_e_s, period_s, phase, flash_e_s=flash_e_s, flash_s=flash_s)


def _geosynchronous(rng: np.random.Generator, passage: _Passage, optics: _Optics) -> list[SkyTrail]:
    """Geosynchronous: the Earth's rotation, to 5 %; magnitude 10 to 16, with payloads near 12 and debris fainter.

    Blake et al. 2020 (arXiv:2008.12799) find objects down to 21; those fainter than 16 are invisible in a row.
    """
    brightness = _draw_satellite_light(rng, optics.electrons_s(rng.uniform(10.0, 16.0)))
    speed = SIDEREAL_ARCSEC_S / optics.pixel_scale_arcsec * rng.uniform(0.95, 1.0)
    return [passage.trail("satellite", speed, brightness, optics.pixels(APERTURE_M, 36e6), np.inf)]


def _low_orbit(rng: np.random.Generator, passage: _Passage, optics: _Optics) -> list[SkyTrail]:
    """Low orbit: 1,000 to 3,500 arcsec/s (7.6 km/s across the line of sight at 450 to 1,600 km); magnitude 4.5 to 10.

    The first Starlinks had 4.5, darkened ones 6 to 7 (Tyson et al. 2020, AJ 160, 226); smaller satellites are fainter.
    """
    speed_arcsec_s = rng.uniform(1000.0, 3500.0)
    brightness = _draw_satellite_light(rng, optics.electrons_s(rng.uniform(4.5, 10.0)))
    blur = optics.pixels(APERTURE_M, 7.6e3 / np.radians(speed_arcsec_s / 3600))
    return [passage.trail("satellite", speed_arcsec_s / optics.pixel_scale_arcsec, brightness, blur, np.inf)]


def _aircraft(rng: np.random.Generator, passage: _Passage, optics: _Optics) -> list[SkyTrail]:
    """Two wing tips, 30 to 64 m apart, each with a steady light and a strobe; the strobes flash together.

    14 CFR 25.1391: position lights of 5 to 40 cd, which at 10 km are magnitude 4 to 1.8 (1 lux is -14.2); 25.1401: 40
    to 100 flashes a minute of 400 cd effective, 80 cd s each, so magnitude -1.5 for 0.1 s. That a flash lasts 0.05 to
    0.15 s is a choice.
    """
    distance_m = rng.uniform(9e3, 16e3)
    farther_mag = 5 * np.log10(distance_m / 1e4)
    flash_s = rng.uniform(0.05, 0.15)
    brightness = Brightness(
        flux_e_s=optics.electrons_s(rng.uniform(1.8, 4.0) + farther_mag),
        period_s=60 / rng.uniform(40.0, 100.0),
        phase=rng.random(),
        flash_e_s=optics.electrons_s(-1.5 + farther_mag) * 0.1 / flash_s,
        flash_s=flash_s,
    )
    speed = optics.pixels(rng.uniform(200.0, 260.0), distance_m)
    half_span = optics.pixels(rng.uniform(15.0, 32.0), distance_m)
    blur = optics.pixels(APERTURE_M, distance_m)
    return [passage.beside(side * half_span).trail("aircraft", speed, brightness, blur, np.inf) for side in (-1.0, 1.0)]


_OBJECTS = {"geosynchronous": _geosynchronous, "low_orbit": _low_orbit, "aircraft": _aircraft}


def _draw_meteors(rng, plane, duration_s, rate, optics, number):  # type: ignore[no-untyped-def]
    """Meteors with uniform middles, drawn in the area from which the longest could reach the field."""
    fastest = optics.pixels(_METEOR_SPEED_M_S[1], _METEOR_DISTANCE_M[0])
    radius, longest = float(np.hypot(*plane.size_px)) / 2, fastest * _METEOR_DURATION_S[1]
    width, height = plane.ccd_size_px
    mean_px = optics.pixels(_mean_meteor_m(), 1.0)
    density = rate / 3600 / (width * height + _width_across(plane.ccd_size_px, np.pi * _EVENLY) * mean_px)
    expected = density * 2 * radius * (2 * radius + longest) * (duration_s + _METEOR_DURATION_S[1])
    centre, half_s = (plane.size_px[0] / 2, plane.size_px[1] / 2), _METEOR_DURATION_S[1] / 2
    trails = []
    for index in range(rng.poisson(expected)):
        passage = _Passage(
            number + index, *centre, rng.uniform(-half_s, duration_s + half_s), rng.uniform(-np.pi, np.pi)
        ).beside(rng.uniform(-radius, radius))
        trails.append(_meteor(rng, passage, optics, rng.uniform(-0.5, 0.5) * (2 * radius + longest)))
    return trails


def _mean_meteor_m() -> float:
    """Mean length of a meteor's path in radians; speed, duration, distance and aspect are independent."""
    (near, far), (short, long) = _METEOR_DISTANCE_M, _METEOR_DURATION_S
    across = (np.sqrt(1 - _HEAD_ON**2) + np.arcsin(_HEAD_ON) / _HEAD_ON) / 2
    return float(
        np.mean(_METEOR_SPEED_M_S) * across * np.log(far / near) / (far - near) * (long - short) / np.log(long / short)
    )


def _meteor(rng: np.random.Generator, passage: _Passage, optics: _Optics, along_px: float) -> SkyTrail:
    """Meteor: 11 to 72 km/s at 90 to 120 km, from any direction, visible for 0.1 to 0.6 s; magnitude 3 to 10.

    Each magnitude has 3.1 times as many as the brighter one (Ohsawa et al. 2019).
    """
    distance_m = rng.uniform(*_METEOR_DISTANCE_M)
    across = np.sqrt(1 - rng.uniform(0.0, _HEAD_ON) ** 2)
    speed = optics.pixels(rng.uniform(*_METEOR_SPEED_M_S) * across, distance_m)
    mag = np.log(rng.uniform(_METEORS_PER_MAG**3, _METEORS_PER_MAG**10)) / np.log(_METEORS_PER_MAG)
    duration_s = float(np.exp(rng.uniform(*np.log(_METEOR_DURATION_S))))
    x = passage.x + along_px * np.cos(passage.direction)
    y = passage.y + along_px * np.sin(passage.direction)
    middle = _Passage(passage.number, x, y, passage.time_s, passage.direction)
    light = Brightness(optics.electrons_s(mag), fades=True)
    return middle.trail("meteor", speed, light, optics.pixels(APERTURE_M, distance_m), duration_s)
