"""Moving lights, ghosts and crowding by galactic latitude in whole simulated scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.reading.frames import read_amplifier
from shutterless.pipeline.simulation.content import draw_content
from shutterless.pipeline.simulation.rendering import mean_electrons
from shutterless.pipeline.simulation.scene import draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.simulation.sky.star_counts import star_counts
from shutterless.pipeline.simulation.truth import truth_rows

MANY = {"geosynchronous_per_hour": 4e3, "low_orbit_per_hour": 4e3, "aircraft_per_hour": 0.0, "meteors_per_hour": 1e4}
SKY_KINDS = {"satellite", "aircraft", "meteor", "ghost"}


@pytest.fixture
def busy(tiny_profile) -> SceneSettings:
    """64 columns and 50 rows of transit, with so many moving lights that some cross them."""
    return SceneSettings(
        instrument=tiny_profile,
        rows=600,
        events=0,
        artefacts=False,
        n_bright_stars=0,
        sky_mag=18.0,
        sky_lights=True,
        suffix=".fits",
        **MANY,
    )


def test_light_that_moves_is_in_the_pixels_and_in_the_truth(busy):
    content = draw_content(busy, 1, 1, 0)
    truth = truth_rows(content, "f.fits", 1, 1)
    assert set(truth.kind) <= SKY_KINDS
    assert {"satellite", "meteor"} <= set(truth.kind)
    assert not truth.is_event.any()
    dark = replace(content, sky_lights=None)
    excess = (mean_electrons(content, slice(0, 600)) - mean_electrons(dark, slice(0, 600))).sum(axis=1)
    tabulated = np.zeros(600)
    for light in content.sky_lights.artefacts(range(600)):
        tabulated[light.first_row : light.first_row + len(light.light_e)] += light.light_e
    # lights with an S/N below 1 are in the pixels, but not in the truth
    assert np.all(excess >= tabulated - 1e-6)
    assert excess.sum() == pytest.approx(tabulated.sum(), rel=0.02)
    for row in truth.itertuples():
        assert excess[row.row_peak] >= row.amplitude_e * (1 - 1e-9)


def test_blocks_and_files_of_a_sequence_join(busy):
    whole = mean_electrons(draw_content(busy, 1, 2, 0), slice(0, 600))
    content = draw_content(busy, 1, 2, 0)
    blocks = [mean_electrons(content, slice(start, start + 100)) for start in range(0, 600, 100)]
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=1e-10)
    parts = replace(busy, rows=200, files=3)
    files = [mean_electrons(draw_content(parts, 1, 2, index), slice(0, 200)) for index in range(3)]
    np.testing.assert_allclose(np.concatenate(files), whole, rtol=1e-10)


def test_bright_stars_have_ghosts_across_the_field(busy):
    settings = replace(busy, **dict.fromkeys(MANY, 0.0), n_bright_stars=2_000_000, bright_mag=2.0, faint_mag=7.0)
    ghosts = [truth_rows(draw_content(settings, ccd, 1, 0), "f.fits", ccd, 1) for ccd in (1, 16)]
    assert any((truth.kind == "ghost").any() for truth in ghosts)


def test_no_light_moves_after_the_shutter_closed(busy):
    content = draw_content(replace(busy, shutter_close_row=300), 1, 1, 0)
    light = mean_electrons(content, slice(0, 600)).sum(axis=1)
    assert light[:300].min(initial=np.inf) >= 0
    np.testing.assert_allclose(light[300 + 50 + 40 :], 0, atol=1e-6)


def test_files_are_read_back(busy, tmp_path):
    path, truth, _ = simulate_file(busy, 1, 0, tmp_path)
    frame = read_amplifier(path, 1, instrument=busy.instrument)
    brightest = truth[truth.quadrant == 1].sort_values("amplitude_e").iloc[-1]
    rows = (frame.pixels_adu.astype(float) - 100).sum(axis=1) * 2
    assert rows[brightest.row_peak] - np.median(rows) > 0.3 * brightest.amplitude_e


def test_crowding_goes_with_galactic_latitude():
    # from the published counts; the plane is crowded, the pole is not
    found = {}
    for latitude in (10.0, 30.0, 90.0):
        scene = draw_scene(SceneSettings(galactic_latitude_deg=latitude), 1, 1)
        area = 3080 * 3072 * (1.012 / 3600) ** 2
        found[latitude] = np.count_nonzero(scene.mag < 15)
        expected = area * float(star_counts(15.0, latitude) - star_counts(7.5, latitude))
        assert found[latitude] == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert found[10.0] > 1000 > 300 > found[30.0] > found[90.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"galactic_latitude_deg": 91.0}, r"\[galactic_latitude_deg\] = 91\.0: .* less than or equal to 90"),
        ({"meteors_per_hour": -1.0}, r"\[meteors_per_hour\] = -1\.0: input should be greater than or equal to 0"),
    ],
)
def test_impossible_skies_are_refused(changes, message):
    with pytest.raises(SceneError, match=message):
        SceneSettings(**changes)
