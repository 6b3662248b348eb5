"""Compute the number of stars of each magnitude in a field at a galactic latitude."""

from __future__ import annotations

from typing import Any

import numpy as np

# V - r = 0.41 (g - r) - 0.01 (Jester et al. 2005, AJ 130, 873) of a star with g - r = 0.5
_V_MINUS_R = 0.2
# at lower latitudes the published formula does not hold because of absorption
_FORMULA_FROM_DEG = 20.0
_LONGITUDES = np.radians(np.arange(5.0, 360.0, 10.0))
_GRID_MAG = 0.02


def star_counts(mag: Any, latitude_deg: float) -> np.ndarray:
    """Stars brighter than a magnitude per square degree, averaged over galactic longitude.

    Parameters
    ----------
    mag : array_like
        Magnitude in r.
    latitude_deg : float
        Galactic latitude, of either sign (degrees).

    Returns
    -------
    ndarray of float64
        Same shape as ``mag``.

    Notes
    -----
    Bahcall & Soneira 1980 (ApJS 44, 73), equation B1, good to 15 % for ``|b| >= 20`` deg: a disc and a spheroid. Nearer
    to the plane their formula diverges; there the logarithm of the counts continues with its slope at 20 deg. So the
    whole sky has 0.67 to 1.0 times as many stars brighter than 12 to 16 as Tycho-2 and UCAC4 count
    (hnsky.com/star_count.htm). A quadrant of ZTF has 373, 194 and 108 brighter than 14.5 at 20, 30 and 45 deg, and
    1,366 brighter than 15 at 10 deg.
    """
    if not -90 <= latitude_deg <= 90:
        raise ValueError(f"galactic latitude {latitude_deg} is not between -90 and 90 degrees")
    visual, b = np.asarray(mag, dtype=np.float64) + _V_MINUS_R, abs(latitude_deg)
    if b >= _FORMULA_FROM_DEG:
        return _bahcall_soneira(visual, b)
    edge, beyond = _bahcall_soneira(visual, _FORMULA_FROM_DEG), _bahcall_soneira(visual, _FORMULA_FROM_DEG + 0.01)
    return edge * (beyond / edge) ** ((b - _FORMULA_FROM_DEG) / 0.01)


def _bahcall_soneira(visual: np.ndarray, latitude_deg: float) -> np.ndarray:
    """Counts of `star_counts` at 20 degrees and more, with magnitudes in V."""
    m, b = visual[..., None], np.radians(latitude_deg)
    towards = np.cos(b) * np.cos(_LONGITUDES)  # cosine of the angle from the galactic centre
    mu = np.clip(0.0075 * (m - 12) + 0.03, 0.03, 0.09)
    gamma = np.clip(0.04 * (12 - m) + 0.36, 0.04, 0.36)
    disc = 925.0 * 10 ** (0.035 * (m - 15.75)) / (1 + 10 ** (-0.132 * (m - 15.75))) ** 3
    disc = disc / (np.sin(b) - mu * towards) ** (3 - 5 * gamma)
    spheroid = 1050.0 * 10 ** (0.087 * (m - 17.5)) / (1 + 10 ** (-0.18 * (m - 17.5))) ** 2.5
    spheroid = spheroid / (1 - towards) ** (1.45 - 0.2 * towards)
    return np.mean(disc + spheroid, axis=-1)


def draw_magnitudes(
    rng: np.random.Generator, area_deg2: float, latitude_deg: float, bright_mag: float, faint_mag: float
) -> np.ndarray:
    """Draw the magnitudes of the stars of a field.

    Parameters
    ----------
    area_deg2 : float
        Area of the field; the number of its stars is a Poisson variate with the mean of the counts.
    latitude_deg : float
        Galactic latitude (degrees).
    bright_mag, faint_mag : float
        Range of magnitudes in r.

    Returns
    -------
    ndarray of float64, shape (s,)
        Not sorted.
    """
    if area_deg2 < 0 or not bright_mag < faint_mag:
        raise ValueError(
            f"area {area_deg2} deg² must not be negative, bright_mag {bright_mag} must be below faint_mag {faint_mag}"
        )
    mag = np.linspace(bright_mag, faint_mag, int(np.ceil((faint_mag - bright_mag) / _GRID_MAG)) + 1)
    counts = star_counts(mag, latitude_deg)
    n_stars = rng.poisson(area_deg2 * (counts[-1] - counts[0]))
    # the counts rise nearly exponentially, so their logarithm is interpolated between the magnitudes of the grid
    return np.interp(np.log(rng.uniform(counts[0], counts[-1], n_stars)), np.log(counts), mag)
