from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.simulation.sky.light_echoes import LightEcho, echo_light, place_echo

ECHO = LightEcho(age_yr=300.0, distance_pc=1000.0, front_ly=400.0, thickness_ly=0.3, bright_yr=0.2)
IMAGE = {"pixel_scale_arcsec": 1.0, "psf_px": 1.2, "reference_yr": 1.0}


def test_dust_beside_the_explosion_is_lit_at_the_distance_that_light_has_gone():
    beside = replace(ECHO, front_ly=0.0)
    assert (beside.radius_ly, beside.speed_c) == (300.0, 1.0)
    assert replace(ECHO, front_ly=-150.0).radius_ly == 0  # the end of the paraboloid, behind the explosion


def test_light_takes_as_much_longer_over_the_dust_as_the_explosion_is_old():
    # path over the dust less the straight one: sqrt(ρ² + z²) + (D - z) - D = ct, for a far observer
    assert np.hypot(ECHO.radius_ly, ECHO.front_ly) - ECHO.front_ly == pytest.approx(300.0)


def test_apparent_speed_and_blur_are_the_derivatives_of_the_radius():
    later, farther = replace(ECHO, age_yr=300.01), replace(ECHO, front_ly=400.01)
    assert ECHO.speed_c == pytest.approx((later.radius_ly - ECHO.radius_ly) / 0.01, rel=1e-4)
    assert ECHO.blur_ly == pytest.approx(0.3 * (farther.radius_ly - ECHO.radius_ly) / 0.01, rel=1e-4)
    assert ECHO.speed_c > 1  # echoes in front of their explosion seem faster than light


def test_a_light_year_at_a_thousand_parsecs_is_63_arcsec():
    assert ECHO.pixels_per_ly(1.0) == pytest.approx(63.24, rel=1e-3)  # 206,265 / 3,261.6


def test_an_arc_lies_where_it_was_placed_and_grows_by_its_speed():
    arc = place_echo(ECHO, 60.0, 70.0, 0.4, 80.0, **IMAGE)
    assert np.hypot(60 - arc.x, 70 - arc.y) == pytest.approx(arc.radius_px)
    assert arc.moved_px == pytest.approx(ECHO.speed_c * 63.24, rel=1e-3)
    assert 2 * arc.half_rad * arc.radius_px == pytest.approx(80.0)


def test_light_falls_at_the_arc_now_and_inside_it_before():
    arc = replace(place_echo(ECHO, 100.0, 64.0, 0.0, 60.0, **IMAGE), moved_px=40.0, tail_px=3.0, blur_px=2.0)
    now, before = echo_light(np.random.default_rng(2), arc, 128, clumps_px=20.0, wiggle_px=0.0)
    columns = np.arange(128)
    middles = [float((light.sum(0) * columns).sum() / light.sum()) for light in (now, before)]
    assert middles[0] == pytest.approx(97.0, abs=1.0)  # the decline lies inside the edge: by its length, 3 px
    assert middles[0] - middles[1] == pytest.approx(40.0, abs=0.5)
    assert 0.9 < now.max() <= 1.01
    rows = np.flatnonzero(now.sum(1) > 0.05)
    assert rows.min() >= 64 - 31
    assert rows.max() <= 64 + 31


def test_the_profile_across_an_arc_is_an_exponential_behind_a_blurred_edge():
    arc = replace(place_echo(ECHO, 20.0, 16.0, 0.0, 400.0, **IMAGE), tail_px=50.0, blur_px=1.0)
    now, _ = echo_light(np.random.default_rng(3), replace(arc, x=arc.x + 200.0), 256, 1e5, 0.0)
    middle = now[16]
    assert middle[120] / middle[170] == pytest.approx(np.exp(-1), rel=0.05)
    assert middle[226:].max() < 1e-3 * middle.max()
