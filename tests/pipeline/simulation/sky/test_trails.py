from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.astrometry.focal_plane import FocalPlane
from shutterless.pipeline.events.events import smeared_step
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import to_read_order
from shutterless.pipeline.reading.instruments import QuadrantLayout
from shutterless.pipeline.simulation.sky.moving_lights import Brightness, SkyTrail, TrailError
from shutterless.pipeline.simulation.sky.trails import (
    AmplifierTrail,
    add_trails,
    pupil_points,
    trail_light,
    trail_rho,
    trails_in_amplifier,
)

ROW_RATE_HZ, SIGMA_PX = 300.0, 0.84
# as ZTF's: 1 lower left, 2 lower right, 3 upper right, 4 upper left
LAYOUTS = (
    QuadrantLayout(1, 5),
    QuadrantLayout(2, 6, flip_columns=True),
    QuadrantLayout(3, 7, flip_columns=True, flip_rows=True),
    QuadrantLayout(4, 8, flip_rows=True),
)
QUADRANTS = FocalPlane(60, 80, LAYOUTS, n_ccds=1)
ONE = FocalPlane(60, 80, (QuadrantLayout(1, 2),), n_ccds=1)


def sky_trail(x, y, velocity_x, velocity_y, time_s=1.0, brightness=None, **changes) -> SkyTrail:
    brightness = brightness or Brightness(1e5)
    trail = SkyTrail("satellite", 0, x, y, time_s, velocity_x, velocity_y, -np.inf, np.inf, brightness)
    return replace(trail, **changes)


def on_amplifier(trail: SkyTrail, plane=ONE, quadrant=1, row_rate_hz=ROW_RATE_HZ, **close) -> list[AmplifierTrail]:
    return trails_in_amplifier([trail], plane, 1, quadrant, row_rate_hz=row_rate_hz, sigma_px=SIGMA_PX, **close)


def render(trails: list[AmplifierTrail], first_row: int, n_rows: int) -> np.ndarray:
    mean_e = np.zeros((n_rows, 60))
    add_trails(mean_e, first_row, trails)
    return mean_e


def test_a_trail_over_four_quadrants_is_one_straight_line_in_a_snapshot():
    # nearly static rows: sequence row = detector row, so the raw frames together are the sky
    trail = sky_trail(52.0, 81.0, 500.0, 700.0)
    ccd = np.zeros((160, 120))
    for quadrant, layout in enumerate(LAYOUTS, start=1):
        mean_e = render(on_amplifier(trail, QUADRANTS, quadrant, row_rate_hz=1e-9), 0, 80)
        rows = slice(80, 160) if layout.flip_rows else slice(0, 80)
        columns = slice(60, 120) if layout.flip_columns else slice(0, 60)
        ccd[rows, columns] = to_read_order(mean_e, layout)
    assert {quadrant for quadrant in (1, 3, 4) if on_amplifier(trail, QUADRANTS, quadrant)} == {1, 3, 4}
    row = np.arange(14, 146)  # away from the edges, where the trail ends
    centroid = ccd[row] @ (np.arange(120) + 0.5) / ccd[row].sum(axis=1)
    np.testing.assert_allclose(centroid, 52.0 + (row + 0.5 - 81.0) * 5 / 7, atol=1e-3)
    # every row collects the same light, over the borders as elsewhere
    np.testing.assert_allclose(ccd[row].sum(axis=1), 1e5 / 700.0, rtol=1e-4)


def test_one_instant_of_the_sky_is_read_in_different_rows():
    # in the middle of the CCD, where the upper and the lower half end: as far from either register
    lower, upper = (on_amplifier(sky_trail(30.0, 80.0, 0.0, 400.0), QUADRANTS, quadrant)[0] for quadrant in (1, 4))
    assert (upper.x, upper.velocity_y) == (lower.x, -lower.velocity_y)
    overlap_px = lower.reach_px + upper.reach_px
    assert lower.stop_s - upper.start_s == pytest.approx(overlap_px / 400.0)
    at_the_overlap = [
        ROW_RATE_HZ * 1.0 + trail.y + trail.velocity_y * (1.0 - trail.start_s) for trail in (lower, upper)
    ]
    np.testing.assert_allclose(at_the_overlap, 300.0 + 79.5)
    # 0.1 s earlier it stands 40 rows lower: nearer to one register, and 0.1 s later nearer to the other
    assert ROW_RATE_HZ * 0.9 + lower.y + 400 * (0.9 - lower.start_s) == pytest.approx(270 + 39.5)
    assert ROW_RATE_HZ * 1.1 + upper.y - 400 * (1.1 - upper.start_s) == pytest.approx(330 + 39.5)


@pytest.mark.parametrize(
    ("velocity_x", "velocity_y", "angle_deg"),
    [
        (14.8, 0.0, 2.824),  # geosynchronous: 15 arcsec/s
        (1000.0, 0.0, 73.30),  # low orbits
        (-3500.0, 0.0, -85.10),
        (300.0, 0.0, 45.0),
        (300.0, 300.0, np.degrees(np.arctan(0.5))),  # along with the rows
        (300.0, -300.0, 90.0),  # it keeps its row
        (300.0, -600.0, -45.0),
    ],
)
def test_angles_from_vertical(velocity_x, velocity_y, angle_deg):
    trail = on_amplifier(sky_trail(30.0, 40.0, velocity_x, velocity_y))[0]
    assert trail.angle_deg == pytest.approx(angle_deg, abs=0.01)


def test_slope_and_electrons_per_row_of_rendered_pixels():
    # 100 px/s across, 100 px/s up: a column in four rows; a row sees the source for 1/400 s
    trail = on_amplifier(sky_trail(30.5, 40.5, 100.0, 100.0))[0]
    mean_e = render([trail], 300, 80)
    row = np.arange(40 - 30, 40 + 30)
    centroid = mean_e[row] @ np.arange(60) / mean_e[row].sum(axis=1)
    np.testing.assert_allclose(centroid, 30 + (row - 40) / 4, atol=1e-3)
    np.testing.assert_allclose(mean_e[row].sum(axis=1), 1e5 / 400, rtol=1e-4)


@pytest.mark.parametrize(("velocity_x", "velocity_y"), [(2000.0, 0.0), (20.0, 3.0), (-900.0, -300.0), (500.0, -700.0)])
def test_charge_is_flux_times_time_inside(velocity_x, velocity_y):
    trail = on_amplifier(sky_trail(30.0, 40.0, velocity_x, velocity_y))[0]
    inside_s = min(60 / abs(velocity_x), 80 / abs(velocity_y) if velocity_y else np.inf, 1 + 30 / abs(velocity_x))
    first, light = trail_light(trail)
    assert light.sum() == pytest.approx(1e5 * inside_s, rel=2e-3)
    assert render([trail], first, len(light)).sum() == pytest.approx(light.sum(), rel=1e-6)


def test_charge_over_all_quadrants_is_flux_times_time_on_the_ccd():
    # from the left edge to the right one, along the border: each quadrant has a part of the light
    trail = sky_trail(60.0, 80.3, 1000.0, 0.0)
    parts = [trail_light(on_amplifier(trail, QUADRANTS, quadrant)[0])[1].sum() for quadrant in (1, 2, 3, 4)]
    assert sum(parts) == pytest.approx(1e5 * 0.12, rel=1e-5)
    # 0.3 px above the border
    assert (parts[2] + parts[3]) / sum(parts) == pytest.approx(pixel_profile(1e3 + 0.3 - 0.5, 0.84) + 0.6395, abs=1e-3)


def test_a_source_that_stands_still_is_a_star():
    trail = on_amplifier(sky_trail(30.75, 40.5, 0.0, 0.0), close_s=1.0)[0]
    mean_e = render([trail], 0, 400)
    on = smeared_step(np.arange(400) - 40.0, SIGMA_PX) - smeared_step(np.arange(400) - 340.0, SIGMA_PX)
    star = 1e5 / 300 * np.outer(on, pixel_profile(np.arange(60) - 30.25, SIGMA_PX))
    np.testing.assert_allclose(mean_e, star, atol=0.5)  # of 156 in the brightest pixel; where it begins and ends


def test_light_outside_the_open_shutter_does_not_arrive():
    trail = sky_trail(30.0, 40.0, 100.0, 0.0, time_s=0.1)
    before = on_amplifier(trail)[0]
    assert before.start_s == 0.0
    assert trail_light(before)[1].sum() == pytest.approx(1e5 * 0.4, rel=1e-3)  # 40 of 60 columns
    assert trail_light(on_amplifier(trail, close_s=0.2)[0])[1].sum() == pytest.approx(1e5 * 0.2, rel=1e-6)
    assert on_amplifier(replace(trail, time_s=-1.0)) == []


@pytest.mark.parametrize("blur", [0.0, 12.0])
def test_rows_cut_into_blocks_are_the_same_to_the_bit(blur):
    trails = [
        on_amplifier(sky_trail(30.0, 40.0, velocity_x, velocity_y, blur_px=blur, brightness=light))[0]
        for velocity_x, velocity_y, light in (
            (20.0, 1.0, Brightness(1e5, 0.3, 0.1, wave=0.5)),
            (2000.0, 300.0, Brightness(1e6)),
            (300.0, -700.0, Brightness(1e6, 0.02, flash_e_s=1e7, flash_s=0.002)),
            (300.0, -300.0, Brightness(1e6)),
        )
    ]
    whole = render(trails, 250, 300)
    blocks = [render(trails, first, rows) for first, rows in ((250, 1), (251, 80), (331, 7), (338, 212))]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert whole.sum() > 0


def test_flashes_keep_their_charge_and_their_period():
    light = Brightness(0.0, period_s=0.2, phase=0.5, flash_e_s=1e6, flash_s=0.01)
    trail = on_amplifier(sky_trail(30.0, 40.0, 20.0, 0.0, brightness=light), close_s=1.0)[0]
    first, curve = trail_light(trail)
    assert curve.sum() == pytest.approx(5 * 1e6 * 0.01, rel=0.01)
    peaks = first + np.flatnonzero(
        (curve > 0.5 * curve.max()) & (curve >= np.roll(curve, 1)) & (curve > np.roll(curve, -1))
    )
    assert len(peaks) == 5
    np.testing.assert_allclose(np.diff(peaks), 60, atol=1)  # 0.2 s


def test_a_meteor_fades_in_and_out():
    light = Brightness(1e6, fades=True)
    meteor = sky_trail(30.0, 40.0, 1000.0, 0.0, brightness=light, begin_s=0.98, end_s=1.02)
    mean_e = render(on_amplifier(meteor), 300, 80)
    assert mean_e.sum() == pytest.approx(1e6 * 0.04, rel=1e-3)
    columns = mean_e.sum(axis=0)
    # 40 px long, 1.5 times its mean in the middle, (1 - 0.5²) of that half way to an end
    assert columns[29] + columns[30] == pytest.approx(2 * 1.5 * 1e6 / 1000, rel=0.01)
    assert columns[39] + columns[40] == pytest.approx(2 * 1.125 * 1e6 / 1000, rel=0.02)


def test_light_and_rho_of_a_trail_are_those_of_its_pixels():
    for velocity_x, velocity_y in ((20.0, 3.0), (2000.0, -200.0), (300.0, -300.0), (-30.0, -600.0)):
        trail = on_amplifier(sky_trail(30.0, 40.0, velocity_x, velocity_y, blur_px=8.0))[0]
        first, light = trail_light(trail)
        mean_e = render([trail], first, len(light))
        np.testing.assert_allclose(light, mean_e.sum(axis=1), rtol=1e-4, atol=1e-3)
        rho = trail_rho(trail, first, len(light), 400.0)
        assert rho == pytest.approx(np.sqrt((mean_e**2).sum()) / 20, rel=1e-6)
        assert trail.amplitude_e == light.max()
        half = trail_light(trail, first + 10, 20)
        np.testing.assert_allclose(half[1], light[10:30], rtol=1e-9, atol=1e-9)


def test_where_a_trail_enters_and_leaves():
    trail = on_amplifier(sky_trail(30.5, 40.5, 1000.0, 0.0))[0]
    margin = trail.reach_px
    assert trail.x_enter == pytest.approx(-0.5 - margin)
    assert trail.x_leave == pytest.approx(59.5 + margin)
    # it takes 0.03 s from the edge to the middle, where it is at 1 s and row 340
    assert trail.row_enter == pytest.approx(340 - 0.3 * (30.5 + margin))
    assert trail.row_leave == pytest.approx(340 + 0.3 * (29.5 + margin))


def test_image_of_the_pupil_keeps_the_variance_of_an_annulus():
    # R² (1 + ε²) / 4 along each axis
    points, sigma = pupil_points(24.0, SIGMA_PX)
    assert sigma == SIGMA_PX
    np.testing.assert_allclose(points.var(axis=0), 144 * (1 + 0.45**2) / 4, rtol=0.03)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.5)
    near, widened = pupil_points(2.4, SIGMA_PX)
    assert near.shape == (1, 2)
    assert widened**2 - SIGMA_PX**2 == pytest.approx(1.44 * (1 + 0.45**2) / 4)


def test_impossible_trails_are_refused():
    trail = on_amplifier(sky_trail(30.0, 40.0, 100.0, 0.0))
    with pytest.raises(TrailError, match="rows of 50 columns cannot take a trail on an amplifier of 60"):
        add_trails(np.zeros((10, 50)), 300, trail)
    with pytest.raises(TrailError, match="satellite that stands still shines without end"):
        on_amplifier(sky_trail(30.0, 40.0, 0.0, 0.0))
    with pytest.raises(TrailError, match="row_rate_hz 0"):
        on_amplifier(sky_trail(30.0, 40.0, 100.0, 0.0), row_rate_hz=0.0)
