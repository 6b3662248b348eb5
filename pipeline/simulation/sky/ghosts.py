"""Simulate ghosts of bright stars: images of the pupil out of focus, on the opposite side of the field's centre.

Light that is reflected by a detector goes back through a Schmidt telescope, is reflected at its corrector, and arrives
out of focus at the mirror image of the star's place (Yang, Zhu & Song 2002, Chinese J. Astron. Astrophys. 2, 474). Read
row by row it is a wide faint streak with the column marginal of an annulus. It follows the star's variation in the
ghost's own star time, ``row - y0`` of the ghost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np

from shutterless.pipeline.astrometry.focal_plane import CENTRAL_OBSTRUCTION

FAINTEST_MAG = 9.0
# share of the star's light, log-uniform (two reflections of a few per cent each), and radius in pixels; both a choice
LIGHT_RANGE = (1e-4, 1e-3)
RADIUS_RANGE_PX = (15.0, 30.0)
# offset of the optical axis from the mosaic's centre along each axis (a choice)
DECENTRE_PX = 30.0
_SUBPIXELS = 8


class GhostError(ValueError):
    """Light of ghosts that does not cover the required rows."""


@dataclass(frozen=True)
class Ghost:
    """Ghost of one star on one amplifier.

    Parameters
    ----------
    x : float
        Column of its centre.
    y0 : int
        Detector row of its centre.
    star_id : int
        Index of the star in the arrays of its own amplifier.
    star_mag : float
    share : float
        Light of the ghost over that of the star.
    radius_px : float
        Radius of the pupil's image.
    flux_e_row : float
        Electrons per row of the whole ghost, summed over columns, in steady air.
    """

    x: float
    y0: int
    star_id: int
    star_mag: float
    share: float
    radius_px: float
    flux_e_row: float

    kind = "ghost"

    @property
    def reach(self) -> int:
        """Largest distance from the centre, in rows and columns, that it can light."""
        return int(np.ceil(self.radius_px + 1))


def draw_ghosts(
    rng: np.random.Generator, x: np.ndarray, y0: np.ndarray, mag: np.ndarray, flux_e_row: np.ndarray
) -> list[Ghost]:
    """Draw the ghosts on one amplifier of the stars of the amplifier on the opposite side of the field's centre.

    Parameters
    ----------
    rng : Generator
    x, y0 : ndarray of float64, shape (s,)
        Read coordinates of the stars of `FocalPlane.mirrored`, equal to those of their ghosts here.
    mag, flux_e_row : ndarray of float64, shape (s,)
        Magnitude, and electrons per row.

    Returns
    -------
    list of Ghost
        One for each star brighter than `FAINTEST_MAG`. Share, radius and decentring belong to the camera, so they are
        nearly the same for all ghosts of one draw.
    """
    share = np.exp(rng.uniform(*np.log(LIGHT_RANGE)))
    radius = rng.uniform(*RADIUS_RANGE_PX)
    shift_x, shift_y = rng.uniform(-DECENTRE_PX, DECENTRE_PX, 2)
    ghosts = []
    for star in np.flatnonzero(np.asarray(mag) < FAINTEST_MAG):
        of_star = share * rng.uniform(0.8, 1.25)  # vignetting and the angle of incidence differ over the field
        ghosts.append(
            Ghost(
                x=float(x[star] + shift_x),
                y0=int(np.rint(y0[star] + shift_y)),
                star_id=int(star),
                star_mag=float(mag[star]),
                share=float(of_star),
                radius_px=float(radius * rng.uniform(0.95, 1.05)),
                flux_e_row=float(of_star * flux_e_row[star]),
            )
        )
    return ghosts


@lru_cache(maxsize=256)  # computing it for every block would take longer than adding its light
def annulus_image(radius_px: float, x_offset: float) -> np.ndarray:
    """Evenly lit annulus, integrated over pixels by 8 points along each axis.

    Parameters
    ----------
    radius_px : float
        Outer radius; `CENTRAL_OBSTRUCTION` gives the inner one.
    x_offset : float
        Centre less the middle column, -0.5 to 0.5.

    Returns
    -------
    ndarray of float64, shape (2 r + 1, 2 r + 1)
        Rows and columns about the middle; sum 1. It is cached and must not be written to.
    """
    reach = int(np.ceil(radius_px + 1))
    fine = (np.arange((2 * reach + 1) * _SUBPIXELS) + 0.5) / _SUBPIXELS - reach - 0.5
    distance = np.hypot(fine[:, None], fine - x_offset)
    lit = (distance <= radius_px) & (distance >= CENTRAL_OBSTRUCTION * radius_px)
    image = lit.reshape(2 * reach + 1, _SUBPIXELS, 2 * reach + 1, _SUBPIXELS).mean(axis=(1, 3))
    image /= image.sum()
    image.flags.writeable = False
    return image


def own_time_rows(ghosts: Sequence[Ghost], first_row: int, n_rows: int) -> tuple[int, int]:
    """First row and number of rows of star time in which a block of rows needs the light of ghosts."""
    if not ghosts:
        return first_row, n_rows
    first = first_row - max(ghost.y0 + ghost.reach for ghost in ghosts)
    last = first_row + n_rows - 1 - min(ghost.y0 - ghost.reach for ghost in ghosts)
    return first, last - first + 1


def steady_light(
    ghosts: Sequence[Ghost], first_star_row: int, n_star_rows: int, close_row: float = np.inf
) -> np.ndarray:
    """Light of ghosts in steady air, from the opening of the shutter to its closing.

    Parameters
    ----------
    ghosts : sequence of Ghost
    first_star_row, n_star_rows : int
        Rows of star time from `own_time_rows`; row τ extends from τ - 1/2 to τ + 1/2.
    close_row : float
        Row of star time at which the shutter closes.

    Returns
    -------
    ndarray of float64, shape (τ, g)
        Electrons per row.
    """
    row = first_star_row + np.arange(n_star_rows)
    opened = np.clip(row + 0.5, 0.0, 1.0) - np.clip(row + 0.5 - close_row, 0.0, 1.0)
    return opened[:, None] * np.array([ghost.flux_e_row for ghost in ghosts])


def add_ghosts(
    mean_e: np.ndarray,
    first_row: int,
    ghosts: Sequence[Ghost],
    light_e: np.ndarray,
    first_star_row: int,
    n_transit: int,
) -> None:
    """Add ghosts to a block of rows, in place.

    Parameters
    ----------
    mean_e : ndarray of float64, shape (t, x)
        Mean electrons of consecutive sequence rows, all columns of the amplifier.
    first_row : int
        Sequence row of the first.
    ghosts : sequence of Ghost
    light_e : ndarray of float64, shape (τ, g)
        Electrons per row of each whole ghost in consecutive rows of star time, ``row - y``: `steady_light`, or that
        times the factor of the air on the star.
    first_star_row : int
        Row of star time of the first.
    n_transit : int
        Rows of the detector; there is no light outside.

    Raises
    ------
    GhostError
        If the light does not cover the rows.

    Notes
    -----
    Row k collects, for every detector row y of the ghost, the light that fell there at star time ``k - y``. It is the
    sum, over the rows of the annulus, of the columns of that row times the light ``k - y`` rows after the shutter
    opened.
    """
    first, n_needed = own_time_rows(ghosts, first_row, len(mean_e))
    if first < first_star_row or first + n_needed > first_star_row + len(light_e) or light_e.shape[1] != len(ghosts):
        raise GhostError(
            f"rows {first_row} to {first_row + len(mean_e) - 1} need the light of {len(ghosts)} ghosts from star-time "
            f"row {first} to {first + n_needed - 1}; given are {light_e.shape[1]} from {first_star_row} to "
            f"{first_star_row + len(light_e) - 1}: see own_time_rows"
        )
    for index, ghost in enumerate(ghosts):
        middle = int(np.rint(ghost.x))
        row = ghost.y0 + np.arange(-ghost.reach, ghost.reach + 1)
        on_detector = (row >= 0) & (row < n_transit)
        image = annulus_image(ghost.radius_px, ghost.x - middle) * on_detector[:, None]
        _add_ghost(
            mean_e, first_row, middle - ghost.reach, ghost.y0 - ghost.reach, image,
            np.ascontiguousarray(light_e[:, index]), first_star_row,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _add_ghost(mean, first_row, left, low, image, light, first_star_row):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Compiled loop of `add_ghosts` for a ghost whose image begins at column ``left`` and detector row ``low``."""
    for t in range(mean.shape[0]):
        for y in range(image.shape[0]):
            electrons = light[first_row + t - low - y - first_star_row]
            if electrons != 0:
                for x in range(max(-left, 0), min(image.shape[1], mean.shape[1] - left)):
                    mean[t, left + x] += electrons * image[y, x]
