from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.simulation.scene import Scene, draw_scene
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.atmosphere import draw_atmosphere
from shutterless.pipeline.simulation.sky.ghosts import Ghost
from shutterless.pipeline.simulation.sky.moving_lights import TrailRates
from shutterless.pipeline.simulation.sky_lights import SkyLights, draw_sky_ghosts, draw_sky_trails

SETTINGS = SceneSettings(seed=3)
RATES = TrailRates(geosynchronous=50.0, low_orbit=400.0, aircraft=0.0, meteor=2000.0)


@pytest.fixture(scope="module")
def plane():
    return focal_plane(load_profile("ztf"), 3080)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(SETTINGS, 6, 1)


def trails_of(plane, scene, rows, seed=1):
    return draw_sky_trails(
        np.random.default_rng(seed),
        RATES,
        plane,
        scene,
        6,
        1,
        duration_s=40.0,
        rows=rows,
        zero_point_mag=24.49,
        pixel_scale_arcsec=1.012,
    )


def test_files_of_a_sequence_share_their_trails(plane, scene):
    one, other = trails_of(plane, scene, range(0, 6000)), trails_of(plane, scene, range(6000, 12_000))
    both = trails_of(plane, scene, range(0, 12_000))
    assert {trail.object_id for trail in one + other} == {trail.object_id for trail in both}
    assert {trail.object_id for trail in one} & {trail.object_id for trail in other}  # a slow one is in both
    assert all(trail in both for trail in one)


def test_truth_of_trails_is_what_is_added(plane, scene):
    rows = range(3000, 5000)
    lights = SkyLights(scene, trails_of(plane, scene, rows))
    mean_e = np.zeros((2000, 3072))
    lights.add(mean_e, rows.start)
    artefacts = list(lights.artefacts(rows))
    assert {artefact.kind for artefact in artefacts} == {"satellite", "meteor"}
    assert sum(artefact.light_e.sum() for artefact in artefacts) == pytest.approx(mean_e.sum(), rel=1e-3)
    brightest = max(artefacts, key=lambda artefact: artefact.light_e.max())
    row = brightest.first_row + int(np.argmax(brightest.light_e))
    column = int(np.clip(np.rint(brightest.x), 0, 3071))
    assert mean_e[row, max(column - 3, 0) : column + 4].max() > 0.01 * mean_e[row].max()
    # rho over the sky only: no higher than that of all light together
    variance = scene.sky_e_s * 3080 / 300 + 100
    assert np.sqrt(np.sum([a.rho**2 for a in artefacts])) <= np.sqrt((mean_e**2).sum() / variance) * 1.001
    assert all(artefact.rho >= 1 for artefact in artefacts)


def test_ghosts_are_of_the_stars_across_the_field(plane, scene):
    opposite = draw_scene(SETTINGS, *plane.mirrored(6, 1))
    ghosts = draw_sky_ghosts(np.random.default_rng(1), opposite, scene, range(0, 10_000))
    assert len(ghosts) == np.sum(opposite.mag < 9)
    early = draw_sky_ghosts(np.random.default_rng(1), opposite, scene, range(0, 1000))
    assert early == [ghost for ghost in ghosts if ghost.y0 - ghost.reach < 1000]
    closed = draw_sky_ghosts(
        np.random.default_rng(1), opposite, draw_scene(SceneSettings(shutter_close_row=2000), 6, 1), range(6000, 7000)
    )
    assert closed == []


def test_cloud_over_the_star_dims_its_ghost(scene):
    air = draw_atmosphere(
        np.random.default_rng(5),
        1,
        row_rate_hz=300.0,
        scintillation=(0.0, 1.0),
        motion_px=(0.0, 1.0),
        focus=(0.0, 1.0),
        transparency=(0.2, 0.5),
    )
    ghost = Ghost(500.0, 1000, 0, 3.0, 1e-3, 20.0, 1000.0)
    mean_e = np.zeros((400, 3072))
    SkyLights(scene, (), [ghost], air).add(mean_e, 4000)
    # over 40 rows of the annulus 0.5 s hardly changes: light in row k arrived y0 rows before
    seconds = (4000 - 1000 + np.arange(400)) / 300
    light = 1000 * np.exp(np.sqrt(np.log1p(0.04)) * air.transparency.value(seconds) - np.log1p(0.04) / 2)
    np.testing.assert_allclose(mean_e.sum(axis=1), light, rtol=0.02)
    artefact = next(SkyLights(scene, (), [ghost], air).artefacts(range(4000, 4400)))
    np.testing.assert_allclose(artefact.light_e, light)
    assert artefact.kind == "ghost"
    assert artefact.rho == pytest.approx(np.sqrt((mean_e**2).sum() / (scene.sky_e_s * 3080 / 300 + 100)), rel=0.02)


def test_faint_lights_are_not_true_of_a_file(scene):
    faint = Ghost(500.0, 1000, 0, 8.9, 1e-4, 20.0, 0.01)
    assert list(SkyLights(scene, (), [faint]).artefacts(range(4000, 4400))) == []
