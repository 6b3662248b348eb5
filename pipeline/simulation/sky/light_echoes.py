"""Simulate light echoes in difference images: arcs of an old explosion's light that dust scatters towards us.

Light that arrives a time t after the explosion was seen was scattered on a paraboloid with the explosion in its focus,
``ρ² = 2 z ct + (ct)²`` (Couderc 1939, Annales d'Astrophysique 2, 271; Sugerman 2003, AJ 126, 1939): ρ is the distance
from the line of sight to the explosion, z that in front of it. A sheet of dust shows an arc that moves outwards. A
difference image shows it bright where it is now, and dark where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import erfcx

LIGHT_YEARS_PER_PARSEC = 3.2615637769
_ARCSEC = np.pi / 180 / 3600


@dataclass(frozen=True)
class LightEcho:
    """An explosion, and one sheet of dust in front of it or behind it.

    Parameters
    ----------
    age_yr : float
        Since the explosion was seen.
    distance_pc : float
    front_ly : float
        Distance z of the dust in front of the explosion; negative behind it, but not beyond the paraboloid.
    thickness_ly : float
        Standard deviation of the dust along z.
    bright_yr : float
        Time constant of the exponential decline of the explosion's light.
    """

    age_yr: float
    distance_pc: float
    front_ly: float
    thickness_ly: float
    bright_yr: float

    @property
    def radius_ly(self) -> float:
        """Distance ρ from the line of sight; 0 where the paraboloid does not reach the dust."""
        return float(np.sqrt(max(2 * self.front_ly * self.age_yr + self.age_yr**2, 0.0)))

    @property
    def speed_c(self) -> float:
        """Apparent speed dρ/dt in units of that of light, ``(z + ct)/ρ``; 1 and more."""
        return (self.front_ly + self.age_yr) / self.radius_ly

    @property
    def blur_ly(self) -> float:
        """Standard deviation of ρ that the dust's thickness makes, ``dρ/dz σ_z = ct/ρ σ_z``."""
        return self.age_yr / self.radius_ly * self.thickness_ly

    def pixels_per_ly(self, pixel_scale_arcsec: float) -> float:
        """Pixels of an image that a light-year across the line of sight takes."""
        return 1 / (self.distance_pc * LIGHT_YEARS_PER_PARSEC * _ARCSEC * pixel_scale_arcsec)


@dataclass(frozen=True)
class EchoArc:
    """The part of an echo that an image shows.

    Parameters
    ----------
    x, y : float
        Place of the explosion in pixels of the image, mostly outside it.
    radius_px : float
        Of the arc in the new image.
    moved_px : float
        By how much it grew since the reference image.
    blur_px, tail_px : float
        Standard deviation of the arc's outer edge, and length of its exponential inner side.
    middle_rad, half_rad : float
        Direction of the arc's middle from the explosion, and half of its length in angle.
    """

    x: float
    y: float
    radius_px: float
    moved_px: float
    blur_px: float
    tail_px: float
    middle_rad: float
    half_rad: float


def place_echo(
    echo: LightEcho, x: float, y: float, direction_rad: float, length_px: float, *, pixel_scale_arcsec: float,
    psf_px: float, reference_yr: float,
) -> EchoArc:  # fmt: skip
    """Arc of an echo whose middle stands at a place in an image.

    Parameters
    ----------
    echo : LightEcho
    x, y : float
        Middle of the arc.
    direction_rad : float
        Of the middle as seen from the explosion.
    length_px : float
        Along the arc.
    pixel_scale_arcsec, psf_px : float
        Pixel, and standard deviation of a star's image.
    reference_yr : float
        Time between the two images.
    """
    scale = echo.pixels_per_ly(pixel_scale_arcsec)
    radius = echo.radius_ly * scale
    return EchoArc(
        x=x - radius * np.cos(direction_rad),
        y=y - radius * np.sin(direction_rad),
        radius_px=radius,
        moved_px=echo.speed_c * reference_yr * scale,
        blur_px=float(np.hypot(psf_px, echo.blur_ly * scale)),
        tail_px=echo.speed_c * echo.bright_yr * scale,
        middle_rad=direction_rad,
        half_rad=min(length_px / 2 / radius, np.pi),
    )


def echo_light(
    rng: np.random.Generator, arc: EchoArc, n_pixels: int, clumps_px: float, wiggle_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Light of an arc now and in the reference image.

    Parameters
    ----------
    rng : Generator
    arc : EchoArc
    n_pixels : int
        Side of the square image.
    clumps_px : float
        Length along the arc over which the dust is alike.
    wiggle_px : float
        Standard deviation of the radius along the arc, of dust that is no even sheet.

    Returns
    -------
    now, before : ndarray of float64, shape (y, x)
        1 in the brightest place of the arc.
    """
    y, x = np.mgrid[:n_pixels, :n_pixels]
    dx, dy = x - arc.x, y - arc.y
    turn = (np.arctan2(dy, dx) - arc.middle_rad + np.pi) % (2 * np.pi) - np.pi
    along = np.clip((turn / arc.half_rad + 1) / 2, 0, 1)
    n_steps = max(int(np.ceil(2 * arc.half_rad * arc.radius_px)), 8)
    places = np.linspace(0, 1, n_steps)
    step = clumps_px / (2 * arc.half_rad * arc.radius_px) * n_steps
    dust = np.exp(0.8 * _smooth_noise(rng, n_steps, step))
    ends = np.clip(np.minimum(places, 1 - places) * 6, 0, 1)
    radius = arc.radius_px + wiggle_px * _smooth_noise(rng, n_steps, 2 * step)
    light = np.interp(along.ravel(), places, dust * ends / (dust * ends).max()).reshape(x.shape)
    distance = np.hypot(dx, dy) - np.interp(along.ravel(), places, radius).reshape(x.shape)
    profile = _edge_profile(np.linspace(-4, 4, 257) * arc.blur_px, arc.blur_px, arc.tail_px).max()
    lit = light > 0
    now, before = np.zeros_like(light), np.zeros_like(light)
    for image, moved in ((now, 0.0), (before, arc.moved_px)):
        image[lit] = light[lit] * _edge_profile(distance[lit] + moved, arc.blur_px, arc.tail_px) / profile
    return now, before


def _edge_profile(outside_px: np.ndarray, blur_px: float, tail_px: float) -> np.ndarray:
    """Exponential decline inwards with an outer edge that a Gaussian blurs; its integral is 1.

    The explosion rose fast and declined slowly, and its earliest light is outermost.
    """
    scaled = (blur_px / tail_px + outside_px / blur_px) / np.sqrt(2)
    gauss = np.exp(-0.5 * (outside_px / blur_px) ** 2)
    # far inside, erfcx overflows where the Gaussian vanishes: there the profile is the exponential alone
    deep = scaled < -5
    smooth = gauss * erfcx(np.where(deep, 0.0, scaled)) / (2 * tail_px)
    return np.where(
        deep, np.exp(np.minimum(0.5 * (blur_px / tail_px) ** 2 + outside_px / tail_px, 0)) / tail_px, smooth
    )


def _smooth_noise(rng: np.random.Generator, n: int, scale: float) -> np.ndarray:
    noise = gaussian_filter1d(rng.normal(size=n), max(scale, 0.5), mode="reflect")
    return (noise - noise.mean()) / max(float(noise.std()), 1e-12)
