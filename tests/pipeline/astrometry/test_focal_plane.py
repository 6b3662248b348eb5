from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.astrometry.focal_plane import FocalPlane, FocalPlaneError, focal_plane
from shutterless.pipeline.reading.instruments import QuadrantLayout, load_profile


@pytest.fixture
def ztf() -> FocalPlane:
    return focal_plane(load_profile("ztf"), 3080)


def test_quadrants_run_from_the_lower_left_against_the_clock(ztf):
    centres = [ztf.frame(1, quadrant).to_focal(1535.5, 1539.5) for quadrant in (1, 2, 3, 4)]
    left, bottom = centres[0]
    assert centres == [
        (left, bottom),
        (left + 3072, bottom),
        (left + 3072, bottom + 3080),
        (left, bottom + 3080),
    ]


def test_neighbouring_quadrants_meet_at_their_far_edges(ztf):
    for one, other in ((1, 2), (4, 3)):  # the last columns to be read
        assert ztf.frame(7, one).to_focal(3071.5, 5.0) == ztf.frame(7, other).to_focal(3071.5, 5.0)
    for one, other in ((1, 4), (2, 3)):  # the last rows
        assert ztf.frame(7, one).to_focal(5.0, 3079.5) == ztf.frame(7, other).to_focal(5.0, 3079.5)


@pytest.mark.parametrize(
    ("ccd", "quadrant", "east_deg", "north_deg"),
    [
        (1, 1, 3.2082, -2.4151),
        (4, 2, -3.2348, -2.4019),
        (6, 3, 0.4842, -1.3614),
        (13, 4, 3.2173, 2.4676),
        (16, 2, -3.2274, 3.3500),
    ],
)
def test_centres_of_ztf_quadrants_are_where_the_astrometry_puts_them(ztf, ccd, quadrant, east_deg, north_deg):
    # ztf_tiling, ZTF_quadrantcenters_20180813, whose origin is 0.011 deg west and 0.027 deg south of the centre of the
    # mosaic; the plane has one gap for all CCDs, and no distortion
    x, y = ztf.frame(ccd, quadrant).to_focal(1535.5, 1539.5)
    width, height = ztf.size_px
    assert -(x - width / 2) * 1.0126 / 3600 == pytest.approx(east_deg + 0.011, abs=0.03)
    assert -(y - height / 2) * 1.0126 / 3600 == pytest.approx(north_deg - 0.027, abs=0.03)


def test_read_coordinates_come_back(ztf):
    for quadrant in (1, 2, 3, 4):
        frame = ztf.frame(11, quadrant)
        np.testing.assert_allclose(frame.to_read(*frame.to_focal(12.25, 3000.5)), (12.25, 3000.5))


def test_mirrored_amplifier_has_the_same_read_coordinates(ztf):
    assert ztf.mirrored(1, 1) == (16, 3)
    assert ztf.mirrored(6, 2) == (11, 4)
    width, height = ztf.size_px
    x, y = ztf.frame(6, 2).to_focal(100.0, 2000.0)
    assert ztf.frame(11, 4).to_focal(100.0, 2000.0) == pytest.approx((width - x, height - y))


def test_nothing_is_mirrored_where_the_mosaic_has_no_counterpart():
    single = FocalPlane(10, 20, (QuadrantLayout(1, 2),), n_ccds=1)
    assert single.mirrored(1, 1) is None


def test_amplifiers_side_by_side():
    plane = FocalPlane(10, 20, (QuadrantLayout(1, 3), QuadrantLayout(2, 4), QuadrantLayout(5, 6, True)), n_ccds=1)
    assert plane.ccd_size_px == (40.0, 20.0)
    assert [plane.frame(1, quadrant).to_focal(0.0, 0.0)[0] for quadrant in (1, 2, 3)] == [0.5, 10.5, 39.5]


def test_five_ccds_fill_two_rows_of_three():
    plane = FocalPlane(10, 20, (QuadrantLayout(1, 2),), n_ccds=5, gap_columns_px=2.0, gap_rows_px=3.0)
    assert plane.size_px == (3 * 10 + 2 * 2, 2 * 20 + 3)
    assert plane.frame(1, 1).to_focal(-0.5, -0.5) == (0.0, 23.0)
    assert plane.frame(5, 1).to_focal(-0.5, -0.5) == (12.0, 0.0)


def test_unknown_amplifiers_and_empty_planes_are_refused(ztf):
    with pytest.raises(FocalPlaneError, match=r"no CCD 17, quadrant 1 in a focal plane of 16 CCDs"):
        ztf.frame(17, 1)
    with pytest.raises(FocalPlaneError, match="quadrant 5"):
        ztf.frame(1, 5)
    with pytest.raises(FocalPlaneError, match="needs CCDs"):
        FocalPlane(10, 20, (QuadrantLayout(1, 2),), n_ccds=0)
