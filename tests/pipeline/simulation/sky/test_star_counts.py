from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.simulation.sky.star_counts import draw_magnitudes, star_counts

QUADRANT_DEG2 = 3072 * 3080 * (1.012 / 3600) ** 2


def test_mid_latitude_quadrant_has_about_300_stars_brighter_than_14_and_a_half():
    assert star_counts(14.5, 23.0) * QUADRANT_DEG2 == pytest.approx(300, rel=0.05)


def test_crowding_runs_from_sparse_to_dense():
    per_quadrant = [float(star_counts(15.0, b)) * QUADRANT_DEG2 for b in (5, 10, 20, 45, 90)]
    assert per_quadrant[1] > 1000
    assert per_quadrant[4] < 100
    assert np.all(np.diff(per_quadrant) < 0)


def test_galactic_pole_solved_by_hand():
    # at b = 90 deg and V = 17.5 (r = 17.3) longitude falls out: gamma = 0.14, both terms by the formula's constants
    disc = 925 * 10 ** (0.035 * 1.75) / (1 + 10 ** (-0.132 * 1.75)) ** 3
    spheroid = 1050 / 2**2.5
    assert star_counts(17.3, 90.0) == pytest.approx(disc + spheroid)
    assert star_counts(17.3, -90.0) == star_counts(17.3, 90.0)


def test_no_step_where_the_formula_ends():
    below, above = star_counts([10.0, 14.0, 17.0], 19.99), star_counts([10.0, 14.0, 17.0], 20.01)
    np.testing.assert_allclose(below, above, rtol=0.01)
    assert np.all(below > above)


@pytest.mark.parametrize(("mag", "counted_per_deg2"), [(12, 71.7), (13, 178.1), (14, 417.3), (15, 954.8), (16, 2154.9)])
def test_whole_sky_has_nearly_as_many_as_the_catalogues(mag, counted_per_deg2):
    # Tycho-2 and UCAC4, whose band is near to r
    latitude = np.arange(0.5, 90.0)
    weight = np.cos(np.radians(latitude))
    mean = np.average([float(star_counts(mag, b)) for b in latitude], weights=weight)
    assert 0.65 < mean / counted_per_deg2 < 1.05


@pytest.mark.parametrize("latitude_deg", [5.0, 60.0])
def test_drawn_magnitudes_follow_the_counts(latitude_deg):
    area = 20_000 / float(star_counts(16.0, latitude_deg))
    drawn = draw_magnitudes(np.random.default_rng(1), area, latitude_deg, 8.0, 16.0)
    assert drawn.min() >= 8.0
    assert drawn.max() <= 16.0
    for mag in (12.0, 14.0, 15.0, 16.0):
        expected = area * float(star_counts(mag, latitude_deg) - star_counts(8.0, latitude_deg))
        assert np.sum(drawn < mag) == pytest.approx(expected, abs=4 * np.sqrt(expected))


def test_an_empty_field_has_no_stars():
    assert draw_magnitudes(np.random.default_rng(1), 0.0, 30.0, 8.0, 16.0).shape == (0,)


def test_impossible_fields_are_refused():
    with pytest.raises(ValueError, match="galactic latitude 91"):
        star_counts(15.0, 91.0)
    with pytest.raises(ValueError, match="bright_mag 16 must be below faint_mag 8"):
        draw_magnitudes(np.random.default_rng(1), 1.0, 30.0, 16, 8)
