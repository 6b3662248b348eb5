"""Draw moving lights and ghosts of one amplifier of one file, add them to its rows, and sum them for the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shutterless.pipeline.astrometry.focal_plane import FocalPlane
from shutterless.pipeline.simulation.scene import Scene
from shutterless.pipeline.simulation.sky.atmosphere import Atmosphere, log_normal
from shutterless.pipeline.simulation.sky.ghosts import (
    Ghost,
    add_ghosts,
    annulus_image,
    draw_ghosts,
    own_time_rows,
    steady_light,
)
from shutterless.pipeline.simulation.sky.moving_lights import TrailRates, draw_trails
from shutterless.pipeline.simulation.sky.trails import (
    AmplifierTrail,
    add_trails,
    trail_light,
    trail_rho,
    trails_in_amplifier,
)

# fainter lights cannot be distinguished from noise and are left out of the truth
_LEAST_RHO = 1.0


@dataclass(frozen=True)
class SkyArtefact:
    """One moving light or ghost with the numbers for the truth table.

    Parameters
    ----------
    kind : str
        ``"satellite"``, ``"aircraft"``, ``"meteor"`` or ``"ghost"``.
    x : float
        Column in the brightest row.
    first_row : int
        File row of the first entry of ``light_e``.
    light_e : ndarray of float64, shape (t,)
        Electrons in each row, summed over columns.
    rho : float
        Optimal S/N over steady sky without stars.
    """

    kind: str
    x: float
    first_row: int
    light_e: np.ndarray
    rho: float


@dataclass(frozen=True)
class SkyLights:
    """Moving lights and ghosts that fall on one amplifier.

    Parameters
    ----------
    scene : Scene
        Of this amplifier.
    trails : sequence of AmplifierTrail
    ghosts : sequence of Ghost
    ghost_air : Atmosphere or None
        Air over the stars of the ghosts, whose clouds dim the ghosts too.
    """

    scene: Scene
    trails: Sequence[AmplifierTrail] = ()
    ghosts: Sequence[Ghost] = ()
    ghost_air: Atmosphere | None = None

    def add(self, mean_e: np.ndarray, first_row: int) -> None:
        """Add all light to a block of rows, (t, x), in place; ``first_row`` is the sequence row of its first."""
        add_trails(mean_e, first_row, self.trails)
        for ghost in self.ghosts:  # one by one, since their star times (row - y0) together span the detector
            first, n_star_rows = own_time_rows([ghost], first_row, len(mean_e))
            light = self._ghost_light(ghost, first, n_star_rows)
            add_ghosts(mean_e, first_row, [ghost], light[:, None], first, self.scene.n_transit)

    def artefacts(self, rows: range) -> Iterator[SkyArtefact]:
        """Sum up the light in a file's rows (sequence rows), without lights that are too faint to be found."""
        variance = self.scene.sky_e_s * self.scene.n_transit / self.scene.row_rate_hz + self.scene.read_noise_e**2
        for trail in self.trails:
            first, last = max(trail.rows[0], rows.start), min(trail.rows[1], rows.stop - 1)
            rho = trail_rho(trail, first, last - first + 1, variance)
            if rho >= _LEAST_RHO:
                _, light = trail_light(trail, first, last - first + 1)
                x = _column_at(trail, first + int(np.argmax(light)))
                yield SkyArtefact(trail.kind, x, first - rows.start, light, rho)
        for ghost in self.ghosts:
            light = self._ghost_light(ghost, rows.start - ghost.y0, len(rows))
            marginal = annulus_image(ghost.radius_px, 0.0).sum(axis=0)
            rho = float(np.sqrt(np.sum(light**2) * np.sum(marginal**2) / variance))
            if rho >= _LEAST_RHO:
                yield SkyArtefact(ghost.kind, ghost.x, 0, light, rho)

    def _ghost_light(self, ghost: Ghost, first_star_row: int, n_star_rows: int) -> np.ndarray:
        close_row = np.inf if self.scene.close_row is None else self.scene.close_row
        light = steady_light([ghost], first_star_row, n_star_rows, close_row)[:, 0]
        if self.ghost_air is not None:
            seconds = (first_star_row + np.arange(n_star_rows)) / self.scene.row_rate_hz
            air = self.ghost_air
            light *= log_normal(air.transparency.value(seconds), air.transparency_rms)
        return light


def _column_at(trail: AmplifierTrail, row: int) -> float:
    """Column of a trail in one row; its middle if all light is in one row."""
    if not np.isfinite(trail.slope):
        x = (trail.x_enter + trail.x_leave) / 2
    else:
        x = trail.x_enter + trail.slope * (row - trail.row_enter)
    return float(np.clip(x, -0.5, trail.n_columns - 0.5))


def draw_sky_trails(
    rng: np.random.Generator,
    rates: TrailRates,
    plane: FocalPlane,
    scene: Scene,
    ccd: int,
    quadrant: int,
    *,
    duration_s: float,
    rows: range,
    zero_point_mag: float,
    pixel_scale_arcsec: float,
) -> list[AmplifierTrail]:
    """Draw a sequence's moving lights and keep those that fall on one amplifier in one file.

    Parameters
    ----------
    rng : Generator
        Of the sequence, the same for all its amplifiers and files.
    rates : TrailRates
    plane : FocalPlane
    scene : Scene
        Of this amplifier.
    ccd, quadrant : int
    duration_s : float
        Duration of the sequence from the opening of the shutter.
    rows : range
        Sequence rows of the file.
    zero_point_mag, pixel_scale_arcsec : float
    """
    trails = draw_trails(
        rng, plane, duration_s, rates, zero_point_mag=zero_point_mag, pixel_scale_arcsec=pixel_scale_arcsec
    )
    close_s = np.inf if scene.close_row is None else scene.close_row / scene.row_rate_hz
    found = trails_in_amplifier(
        trails, plane, ccd, quadrant, row_rate_hz=scene.row_rate_hz, sigma_px=scene.psf_sigma_px, close_s=close_s
    )
    return [trail for trail in found if trail.rows[0] < rows.stop and trail.rows[1] >= rows.start]


def draw_sky_ghosts(rng: np.random.Generator, opposite: Scene, scene: Scene, rows: range) -> list[Ghost]:
    """Draw the ghosts on one amplifier of the stars of the opposite one, and keep those in a file's rows.

    Parameters
    ----------
    rng : Generator
        Of the amplifier, the same for all files.
    opposite, scene : Scene
        Of the amplifier that `FocalPlane.mirrored` names, and of this one.
    rows : range
        Sequence rows of the file.
    """
    ghosts = draw_ghosts(rng, opposite.x, opposite.y0, opposite.mag, opposite.flux_e_row)
    close_row = np.inf if scene.close_row is None else scene.close_row
    return [
        ghost
        for ghost in ghosts
        if ghost.y0 - ghost.reach < rows.stop and ghost.y0 + ghost.reach + close_row >= rows.start
    ]
