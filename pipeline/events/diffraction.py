"""Compute Fresnel diffraction by a disc or a straight edge, over a band of wavelengths, for a star with a disc."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import fresnel, j0

# patterns are averaged over an r-like band of ±13 % (five wavelengths) and end at 8 Fresnel scales, where the average
# has damped the fringes below 1 %
BAND = np.linspace(0.87, 1.13, 5)
REACH = 8.0
_STEP = 0.02
_LARGEST_STAR = 1.0
_DISC_RINGS, _DISC_ANGLES, _DISC_CHORDS = 12, 24, 24


def fresnel_pattern(distance: Any, radius: float) -> np.ndarray:
    """Brightness behind an opaque disc lit by a point source of one wavelength; 1 far away.

    Parameters
    ----------
    distance : array_like
        Distance from the shadow's centre in Fresnel scales √(λD/2).
    radius : float
        Radius of the disc in Fresnel scales.

    Notes
    -----
    Roques, Moncuquet & Sicardy 1987 (AJ 93, 1549) in the form
    ``I(ρ) = |1 + iπ exp(iπρ²/2) ∫₀ʳ exp(iπR²/2) J₀(πρR) R dR|²``; Gauss-Legendre with 64 nodes, enough for πρr < 50.
    """
    rho = np.asarray(distance, dtype=np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    r = radius * (nodes + 1) / 2
    integrand = np.exp(0.5j * np.pi * r**2) * r * weights * radius / 2
    integral = j0(np.pi * rho[..., None] * r) @ integrand
    return np.abs(1 + 1j * np.pi * np.exp(0.5j * np.pi * rho**2) * integral) ** 2


def edge_pattern(distance: Any) -> np.ndarray:
    """Brightness beside a straight edge lit by a point source of one wavelength: 0 deep in the shadow, 1 far from it.

    Parameters
    ----------
    distance : array_like
        Distance from the geometric shadow's border in Fresnel scales √(λD/2), positive where there is light.

    Notes
    -----
    ``I(w) = ½ [(½ + C(w))² + (½ + S(w))²]`` with the Fresnel integrals C and S (Born & Wolf, Principles of Optics,
    §8.7.3): 1/4 on the border, 1.37 in the first fringe. The Moon's limb is such an edge: occultations by it are fitted
    with this curve (Nather & Evans 1970, AJ 75, 575).
    """
    sine, cosine = fresnel(np.asarray(distance, dtype=np.float64))
    return 0.5 * ((0.5 + cosine) ** 2 + (0.5 + sine) ** 2)


def occultation_depth(radius: float, impact: float, star_radius: float = 0.0) -> float:
    """Largest fraction of a star's light that is lost in an occultation, before smearing.

    Parameters
    ----------
    radius, impact, star_radius : float
        Radius of the occulter, closest distance of its shadow's centre and radius of the star's disc, in Fresnel
        scales.
    """
    along = np.arange(0.0, REACH, _STEP)
    return float(_radial_dip(radius, star_radius)(np.hypot(along, impact)).max())


def occultation_dip(radius: float, impact: float, star_radius: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """Light lost along the chord, as a function of Fresnel scales from mid-event: peak 1, 0 beyond `REACH`.

    Parameters are those of `occultation_depth`.
    """
    radial, depth = _radial_dip(radius, star_radius), occultation_depth(radius, impact, star_radius)

    def dip(along: np.ndarray) -> np.ndarray:
        rho = np.hypot(along, impact)
        return np.where(rho < REACH, radial(np.minimum(rho, REACH)), 0.0) / depth

    return dip


def edge_rise(star_radius: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """Light of a star that comes out from behind a straight edge, as a function of Fresnel scales past the border.

    Parameters
    ----------
    star_radius : float
        Radius of the star's disc in Fresnel scales.

    Returns
    -------
    function
        0 before -`REACH`, 1 after `REACH`, with the fringes in between. Mirrored in time it is a disappearance.
    """
    rise = _edge_spline(star_radius)
    return lambda w: np.where(np.abs(w) < REACH, rise(np.clip(w, -REACH, REACH)), w > 0)


def _taper(distance: np.ndarray) -> np.ndarray:
    """Factor that lets the fringes fall to 0 over the last Fresnel scale."""
    return np.sin(np.pi / 2 * np.clip(REACH - distance, 0.0, 1.0)) ** 2


@lru_cache(maxsize=512)
def _point_dip(radius: float) -> CubicSpline:
    """Light lost (1 - I) against distance from the shadow's centre for a point star: mean over the band."""
    rho = np.arange(0.0, REACH + _LARGEST_STAR + _STEP, _STEP)
    return CubicSpline(rho, 1 - np.mean([fresnel_pattern(rho / np.sqrt(w), radius / np.sqrt(w)) for w in BAND], axis=0))


@lru_cache(maxsize=512)
def _radial_dip(radius: float, star_radius: float) -> CubicSpline:
    """`_point_dip` averaged over a uniform stellar disc, tapered to 0 at the reach.

    Rings of equal area by Gauss-Legendre in the squared radius, even angles.
    """
    if not 0 <= star_radius <= _LARGEST_STAR:
        raise ValueError(f"star_radius {star_radius} must be 0 to {_LARGEST_STAR} Fresnel scales")
    rho = np.arange(0.0, REACH + _STEP, _STEP)
    lost = _point_dip(radius)
    if star_radius == 0:
        return CubicSpline(rho, lost(rho) * _taper(rho))
    nodes, weights = np.polynomial.legendre.leggauss(_DISC_RINGS)
    ring = star_radius * np.sqrt((nodes + 1) / 2)[:, None]
    angle = np.pi * (np.arange(_DISC_ANGLES) + 0.5) / _DISC_ANGLES
    distance = np.hypot(rho[:, None, None] + ring * np.cos(angle), ring * np.sin(angle))
    return CubicSpline(rho, lost(distance).mean(axis=2) @ (weights / 2) * _taper(rho))


@lru_cache(maxsize=64)
def _edge_spline(star_radius: float) -> CubicSpline:
    """`edge_pattern` averaged over the band and over the chords of a uniform stellar disc, tapered."""
    angle = np.pi * np.arange(1, _DISC_CHORDS + 1) / (_DISC_CHORDS + 1)  # Gauss-Chebyshev of the second kind
    weights = 2 * np.sin(angle) ** 2 / (_DISC_CHORDS + 1)
    w = np.arange(-REACH, REACH + _STEP / 2, _STEP)
    chords = (w[:, None] + star_radius * np.cos(angle))[..., None] / np.sqrt(BAND)
    light = edge_pattern(chords).mean(axis=2) @ weights
    far = (w > 0).astype(np.float64)
    return CubicSpline(w, far + (light - far) * _taper(np.abs(w)))
