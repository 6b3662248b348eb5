"""Fresnel diffraction of discs, edges and resolved stars agrees with textbooks."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.events.diffraction import (
    REACH,
    edge_pattern,
    edge_rise,
    fresnel_pattern,
    occultation_depth,
    occultation_dip,
)


def test_fresnel_pattern_of_a_disc():
    # Poisson's spot: the centre of the shadow of a disc is as bright as no disc
    assert fresnel_pattern(0.0, 1.3) == pytest.approx(1.0, abs=1e-12)
    assert fresnel_pattern(np.array([60.0]), 0.5)[0] == pytest.approx(1.0, abs=0.02)
    # a disc of many Fresnel scales casts a shadow, and its edge passes a quarter of the light like a straight edge
    assert fresnel_pattern(3.0, 5.0) < 0.05
    assert fresnel_pattern(5.0, 5.0) == pytest.approx(0.25, abs=0.08)


def test_small_discs_dim_little_and_large_ones_all():
    assert occultation_depth(0.1, 0.0) < 0.05
    assert 0.8 < occultation_depth(1.0, 0.0) < 1.0
    assert occultation_depth(0.5, 0.0) > occultation_depth(0.5, 1.2)


def test_edge_pattern_of_the_textbook():
    """Born & Wolf §8.7.3: a quarter on the border, 1.370 in the first fringe at w = 1.22, 1/(2π²w²) in the shadow."""
    assert edge_pattern(0.0) == pytest.approx(0.25)
    w = np.linspace(0, 3, 3001)
    light = edge_pattern(w)
    assert light.max() == pytest.approx(1.370, abs=1e-3)
    assert w[light.argmax()] == pytest.approx(1.217, abs=2e-3)
    assert edge_pattern(-6.0) == pytest.approx(1 / (2 * np.pi**2 * 36), rel=0.01)


@pytest.mark.parametrize("star_radius", [0.0, 0.3, 1.0])
def test_stars_come_out_from_0_to_1(star_radius):
    rise = edge_rise(star_radius)
    np.testing.assert_array_equal(rise(np.array([-50.0, -REACH, REACH, 50.0])), [0, 0, 1, 1])
    assert rise(np.linspace(-9, 9, 500)).min() > -1e-3
    # half of the star's disc is lit when its middle is on the border; diffraction changes that a little
    assert 0.2 < rise(np.zeros(1))[0] < 0.5


def test_a_stellar_disc_washes_the_fringes_out():
    w = np.linspace(0, 4, 400)
    assert edge_rise(0.0)(w).max() > edge_rise(0.3)(w).max() > edge_rise(1.0)(w).max()
    assert edge_rise(1.0)(w).max() < 1.15
    depths = [occultation_depth(0.5, 0.0, star_radius) for star_radius in (0.0, 0.5, 1.0)]
    assert depths == sorted(depths, reverse=True)


def test_a_disc_averages_the_pattern_of_points():
    """Brute force: 20,000 points of a uniform disc of 0.7 Fresnel scales behind an occulter of 0.8."""
    rng = np.random.default_rng(3)
    r, angle = 0.7 * np.sqrt(rng.random(20_000)), rng.uniform(0, 2 * np.pi, 20_000)
    point, disc = (occultation_dip(0.8, 0.0, star_radius) for star_radius in (0.0, 0.7))
    scale = occultation_depth(0.8, 0.0) / occultation_depth(0.8, 0.0, 0.7)
    for rho in (0.0, 1.0, 2.5):
        distance = np.hypot(rho + r * np.cos(angle), r * np.sin(angle))
        assert disc(np.array([rho]))[0] == pytest.approx(scale * point(distance).mean(), abs=0.01)


def test_a_star_too_large_is_refused():
    with pytest.raises(ValueError, match=r"star_radius 1.5 must be 0 to 1.0 Fresnel scales"):
        occultation_depth(1.0, 0.0, 1.5)
