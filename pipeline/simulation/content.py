"""Draw the content of one simulated amplifier of one file; other modules render and tabulate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.simulation.camera.artefacts import (
    DRIFT_COMMON_SHARE,
    DRIFT_E,
    CosmicRay,
    PickupBurst,
    RowWaves,
    draw_cosmic_rays,
    draw_drift,
    draw_mains,
    draw_pickup_bursts,
)
from shutterless.pipeline.simulation.camera.detector import DetectorFaults, draw_detector, draw_dropped_rows
from shutterless.pipeline.simulation.placement import PlacedEvent, place_events
from shutterless.pipeline.simulation.scene import (
    ATMOSPHERE,
    COSMIC_RAYS,
    DETECTOR,
    DRIFT,
    DROPPED_ROWS,
    EVENTS,
    GHOSTS,
    MAINS,
    PICKUP,
    TRAILS,
    Rows,
    Scene,
    draw_scene,
)
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.atmosphere import Atmosphere, draw_atmosphere
from shutterless.pipeline.simulation.sky.moving_lights import TrailRates
from shutterless.pipeline.simulation.sky_lights import SkyLights, draw_sky_ghosts, draw_sky_trails


@dataclass(frozen=True)
class AmplifierContent:
    """Content of one simulated amplifier of one file: everything that its pixels hold.

    Parameters
    ----------
    scene : Scene
    rows : sequence of int, length t
        Sequence row numbers of the file.
    events, cosmic_rays, pickup_bursts : sequence
    waves : sequence of RowWaves
        Noise that all columns of a row share.
    air : Atmosphere or None
        None for steady stars.
    detector : DetectorFaults or None
        None for no faults and no serial trap.
    sky_lights : SkyLights or None
        Moving lights and ghosts.
    """

    scene: Scene
    rows: Rows
    events: Sequence[PlacedEvent] = ()
    cosmic_rays: Sequence[CosmicRay] = ()
    pickup_bursts: Sequence[PickupBurst] = ()
    waves: Sequence[RowWaves] = ()
    air: Atmosphere | None = None
    detector: DetectorFaults | None = None
    sky_lights: SkyLights | None = None

    def row_offsets_e(self, block: slice) -> np.ndarray:
        """Electrons that interference adds to every column and the overscan in a block of file rows, shape (t,)."""
        rows = np.asarray(self.rows[block])
        offsets = np.zeros(len(rows))
        for wave in self.waves:
            offsets += wave.offsets_e(rows, self.scene.row_rate_hz)
        for burst in self.pickup_bursts:
            start = max(burst.first_row, block.start)
            stop = max(min(burst.first_row + len(burst.offsets_e), block.start + len(rows)), start)
            inside = slice(start - block.start, stop - block.start)
            offsets[inside] += burst.offsets_e[start - burst.first_row : stop - burst.first_row]
        return offsets


def draw_content(settings: SceneSettings, ccd: int, quadrant: int, file_index: int) -> AmplifierContent:
    """Draw stars, events and artefacts of one amplifier of one file."""
    scene, rows = draw_scene(settings, ccd, quadrant), settings.sequence_rows(file_index)
    keys = (ccd, quadrant, file_index)
    orphan_y0 = settings.generator(ATMOSPHERE, *keys).uniform(0, scene.n_transit, settings.events)
    events = place_events(settings, scene, settings.generator(EVENTS, *keys), rows, orphan_y0)
    air = draw_air(settings, scene, ccd, quadrant) if settings.atmosphere else None
    detector = _draw_faults(settings, ccd, quadrant, file_index) if settings.detector else None
    lights = _draw_sky_lights(settings, scene, ccd, quadrant, rows) if settings.sky_lights else None
    whole = AmplifierContent(scene, rows, events, air=air, detector=detector, sky_lights=lights)
    if not settings.artefacts:
        return whole
    rays = draw_cosmic_rays(
        settings.generator(COSMIC_RAYS, *keys), rows, scene.n_columns, scene.row_rate_hz, scene.n_transit
    )
    bursts = draw_pickup_bursts(settings.generator(PICKUP, *keys), len(rows), scene.row_rate_hz)
    waves = draw_row_waves(settings, ccd, quadrant)
    return replace(whole, cosmic_rays=rays, pickup_bursts=bursts, waves=waves)


def _draw_sky_lights(settings: SceneSettings, scene: Scene, ccd: int, quadrant: int, rows: range) -> SkyLights:
    """Draw moving lights and ghosts of one amplifier of one file; moving lights are drawn for the whole sequence."""
    plane = focal_plane(settings.profile, scene.n_transit)
    trails = draw_sky_trails(
        settings.generator(TRAILS),
        trail_rates(settings),
        plane,
        scene,
        ccd,
        quadrant,
        duration_s=settings.sequence_rows(settings.files - 1)[-1] / scene.row_rate_hz,
        rows=rows,
        zero_point_mag=settings.magnitude_of_one_e_s,
        pixel_scale_arcsec=settings.electronics("pixel_scale_arcsec"),
    )
    opposite = plane.mirrored(ccd, quadrant)
    if opposite is None:
        return SkyLights(scene, trails)
    stars = draw_scene(settings, *opposite)
    ghosts = draw_sky_ghosts(settings.generator(GHOSTS, ccd, quadrant), stars, scene, rows)
    return SkyLights(scene, trails, ghosts, draw_air(settings, stars, *opposite) if settings.atmosphere else None)


def trail_rates(settings: SceneSettings) -> TrailRates:
    """How many moving lights of each kind cross a CCD in an hour."""
    return TrailRates(
        geosynchronous=settings.geosynchronous_per_hour,
        low_orbit=settings.low_orbit_per_hour,
        aircraft=settings.aircraft_per_hour,
        meteor=settings.meteors_per_hour,
    )


def _draw_faults(settings: SceneSettings, ccd: int, quadrant: int, file_index: int) -> DetectorFaults:
    """Draw an amplifier's permanent faults, and the rows that all amplifiers of its CCD lose in one file."""
    profile = settings.profile
    lasting = draw_detector(
        settings.generator(DETECTOR, ccd, quadrant),
        profile.n_columns,
        profile.n_overscan_columns,
        hot_columns=settings.hot_columns,
        traps=settings.traps,
        row_rate_hz=settings.row_rate_hz,
    )
    rng = settings.generator(DROPPED_ROWS, ccd, file_index)
    dropped = draw_dropped_rows(rng, settings.rows, settings.row_rate_hz, settings.dropped_runs_per_hour)
    return replace(lasting, dropped_rows=dropped)


def draw_row_waves(settings: SceneSettings, ccd: int, quadrant: int) -> list[RowWaves]:
    """Draw the row noise of one amplifier: mains are in phase over the amplifiers of a CCD, drift is partly common."""
    common, own = DRIFT_E * np.sqrt([DRIFT_COMMON_SHARE, 1 - DRIFT_COMMON_SHARE])
    return [
        draw_mains(settings.generator(MAINS, ccd)),
        draw_drift(settings.generator(DRIFT, ccd), common),
        draw_drift(settings.generator(DRIFT, ccd, quadrant), own),
    ]


def draw_air(settings: SceneSettings, scene: Scene, ccd: int, quadrant: int) -> Atmosphere:
    """Draw the atmosphere of one amplifier, the same for every file of the sequence."""
    motion_px = settings.motion_rms_arcsec / settings.electronics("pixel_scale_arcsec")
    return draw_atmosphere(
        settings.generator(ATMOSPHERE, ccd, quadrant),
        len(scene.x),
        row_rate_hz=scene.row_rate_hz,
        scintillation=(settings.scintillation_rms, settings.scintillation_s),
        motion_px=(motion_px, settings.motion_s),
        focus=(settings.focus_rms, settings.focus_s),
        transparency=(settings.transparency_rms, settings.transparency_s),
    )
