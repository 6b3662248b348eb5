from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shutterless.pipeline.astrometry.focal_plane import FocalPlane, focal_plane
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.simulation.sky.moving_lights import Brightness, TrailError, TrailRates, draw_trails
from shutterless.pipeline.simulation.sky.sky_examples import example_trail
from shutterless.pipeline.simulation.sky.trails import trails_in_amplifier

NONE = {"geosynchronous": 0.0, "low_orbit": 0.0, "aircraft": 0.0, "meteor": 0.0}


@pytest.fixture(scope="module")
def plane() -> FocalPlane:
    return focal_plane(load_profile("ztf"), 3080)


def draw(plane, seed=1, duration_s=3600.0, **rates):
    return draw_trails(
        np.random.default_rng(seed),
        plane,
        duration_s,
        TrailRates(**{**NONE, **rates}),
        zero_point_mag=24.49,
        pixel_scale_arcsec=1.012,
    )


def amplifier(trails, plane, ccd=6, quadrant=1):
    return trails_in_amplifier(trails, plane, ccd, quadrant, row_rate_hz=300.0, sigma_px=0.84)


def objects_on_ccd(trails, plane, ccd, duration_s):
    found = [trail for quadrant in (1, 2, 3, 4) for trail in amplifier(trails, plane, ccd, quadrant)]
    return len({trail.object_id for trail in found if trail.start_s < duration_s})


@pytest.mark.parametrize("kind", sorted(NONE))
def test_as_many_objects_cross_a_ccd_as_asked(plane, kind):
    # 100 an hour on each of 16 CCDs, which share some of theirs
    hours = 2.0
    trails = draw(plane, duration_s=3600 * hours, **{kind: 100.0})
    counts = [objects_on_ccd(trails, plane, ccd, 3600 * hours) for ccd in range(1, 17)]
    # two wing tips, and the few that are there when the shutter opens, add to the crossings
    assert np.mean(counts) / hours == pytest.approx(100, rel=0.2 if kind in ("aircraft", "geosynchronous") else 0.12)


def test_geosynchronous_satellites_stay_within_three_degrees_of_vertical(plane):
    trails = amplifier(draw(plane, geosynchronous=200.0), plane)
    angles = np.array([trail.angle_deg for trail in trails])
    assert len(angles) > 50
    assert np.all((np.abs(angles) > 2.5) & (np.abs(angles) < 2.95))
    # eastwards: to lower columns where columns are not flipped, to higher ones where they are
    assert np.all(angles < 0)
    flipped = amplifier(draw(plane, geosynchronous=200.0), plane, quadrant=2)
    assert all(trail.angle_deg > 0 for trail in flipped)


def test_low_orbits_across_the_rows_are_far_from_vertical(plane):
    trails = [trail for trail in draw(plane, low_orbit=3000.0) if abs(trail.velocity_y) < 0.02 * abs(trail.velocity_x)]
    angles = np.array([abs(trail.angle_deg) for trail in amplifier(trails, plane)])
    assert len(angles) > 5
    # atan(1000 / 300) to atan(3500 / 300), and a little more for motion along the rows
    assert 69.5 < angles.min() < angles.max() < 86.5


def test_both_wing_tips_of_an_aircraft_flash_together(plane):
    trails = draw(plane, aircraft=20.0)
    assert set(Counter(trail.object_id for trail in trails).values()) == {2}
    for left, right in zip(trails[::2], trails[1::2], strict=True):
        assert left.brightness == right.brightness
        assert (left.velocity_x, left.velocity_y) == (right.velocity_x, right.velocity_y)
        apart_arcsec = 1.012 * np.hypot(left.x - right.x, left.y - right.y)
        assert 30 / 16e3 * 206265 * 0.99 < apart_arcsec < 64 / 9e3 * 206265 * 1.01
        assert 0.6 <= left.brightness.period_s <= 1.5


def test_meteors_are_short_and_their_numbers_rise_with_magnitude(plane):
    meteors = draw(plane, meteor=300.0)
    assert all(0.1 <= trail.end_s - trail.begin_s <= 0.6 and trail.brightness.fades for trail in meteors)
    mag = 24.49 - 2.5 * np.log10([trail.brightness.flux_e_s for trail in meteors])
    counts = np.histogram(mag, bins=[7, 8, 9, 10])[0]
    np.testing.assert_allclose(counts[1:] / counts[:-1], 3.1, rtol=0.2)
    assert all(2.0 < trail.blur_px < 2.8 for trail in meteors)  # 1.22 m at 90 to 120 km


def test_the_same_generator_draws_the_same_sequence(plane):
    rates = {"geosynchronous": 5.0, "low_orbit": 5.0, "aircraft": 5.0, "meteor": 5.0}
    one, other = draw(plane, 7, **rates), draw(plane, 7, **rates)
    assert one == other
    assert draw(plane, 8, **rates) != one
    assert {trail.kind for trail in one} == {"satellite", "aircraft", "meteor"}
    numbers = [trail.object_id for trail in one if trail.kind != "aircraft"]
    assert len(set(numbers)) == len(numbers)


def test_steps_follow_flashes_and_waves():
    assert Brightness(1.0).shortest_s == np.inf
    assert Brightness(1.0, 2.0, wave=0.5).shortest_s == pytest.approx(0.05)
    assert Brightness(1.0, 2.0, flash_e_s=1.0, flash_s=0.1).shortest_s == pytest.approx(0.005)


@pytest.mark.parametrize("kind", ["geosynchronous", "low_orbit", "aircraft", "meteor"])
def test_examples_light_the_middle_of_their_picture(kind):
    picture = example_trail(kind, 256, 256)
    assert picture.shape == (256, 256)
    assert picture[118:138, 108:148].max() > 100


def test_impossible_draws_are_refused(plane):
    with pytest.raises(TrailError, match=r"\[meteor\] = -1\.0: input should be greater than or equal to 0"):
        TrailRates(**{**NONE, "meteor": -1.0})
    with pytest.raises(TrailError, match="duration -1"):
        draw(plane, duration_s=-1.0)
    with pytest.raises(TrailError, match="no example of 'comet'"):
        example_trail("comet")
