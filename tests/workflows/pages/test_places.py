"""Words and commands that say where a candidate is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest
from regions import RectanglePixelRegion, Regions

from shutterless.workflows.pages.places import describe_elsewhere, describe_mjd, describe_position, describe_region

CANDIDATE = {
    "candidate_id": "a_c01_q1_x0100.00_r0000500", "file": "a.fits", "path": "/my night/a.fits", "quadrant": 1, "hdu": 1,
    "fits_x": 101.0, "fits_y": 501, "row_start": 490, "row_stop": 520, "row_peak": 500, "snr": -9.04,
    "time_read": pd.Timestamp("2026-03-04T06:00:00", tz="UTC"), "ra": 150.0, "dec": -0.5, "position_error": 0.123,
    "segment_ra_1": None, "segment_dec_1": None, "segment_ra_2": None, "segment_dec_2": None,
    "point_ra": None, "point_dec": None, "point_error": None,
}  # fmt: skip


@pytest.fixture
def candidate() -> pd.Series:
    return pd.Series(CANDIDATE)


def test_a_position_is_said_in_degrees_and_sexagesimal(candidate):
    """150 degrees are 10 hours; half a degree are 30 arcmin."""
    assert describe_position(candidate) == [
        ("RA, Dec (ICRS)", "150.000000 −0.500000 ± 0.12″"),
        ("Sexagesimal", "10:00:00.00 -00:30:00.00"),
    ]


def test_a_segment_is_said_by_its_ends_and_length(candidate):
    ends = {"ra": None, "segment_ra_1": 10.0, "segment_dec_1": 0.0, "segment_ra_2": 10.0, "segment_dec_2": 0.5}
    (pair,) = describe_position(pd.Series({**CANDIDATE, **ends}))
    assert pair == ("Segment (ICRS)", "10.000000 +0.000000 to 10.000000 +0.500000, 30.0′")


def test_a_place_that_two_readouts_saw_is_said_with_its_own_error(candidate):
    seen_twice = {**CANDIDATE, "ra": None, "dec": None, "point_ra": 10.0, "point_dec": 0.25, "point_error": 0.5}
    first, _ = describe_position(pd.Series(seen_twice))
    assert first == ("RA, Dec (ICRS)", "10.000000 +0.250000 ± 0.50″")


def test_the_date_is_a_modified_julian_one(candidate):
    """MJD 61103 began on 2026-03-04; six hours are a quarter of a day."""
    assert describe_mjd(candidate) == "61103.2500000000"
    assert describe_mjd(candidate.drop("time_read")) == describe_mjd(pd.Series({"time_read": pd.NaT})) == "–"


def test_the_region_is_the_box_that_holds_the_event(candidate):
    (box,) = Regions.parse(describe_region(candidate), format="ds9")
    assert isinstance(box, RectanglePixelRegion)
    assert (box.center.x, box.center.y, box.width, box.height) == (100.0, 500.0, 16.0, 41.0)
    assert box.meta["text"] == "-9.0 sigma"


def test_commands_are_quoted_for_a_shell(candidate):
    file, report, region, ds9 = describe_elsewhere(candidate, Path("runs/found")).splitlines()
    assert file == "/my night/a.fits, rows 490–520, counted from 0 in read order"
    assert report == "shutterless report runs/found --candidate a_c01_q1_x0100.00_r0000500"
    assert shlex.split(ds9) == [
        "ds9", "/my night/a.fits[1]", "-pan", "to", "101", "501", "image", "-regions", "command", region,
    ]  # fmt: skip


def test_tables_of_an_older_version_have_no_place_in_the_file():
    old = pd.Series({name: CANDIDATE[name] for name in ("candidate_id", "file", "row_start", "row_stop")})
    assert describe_elsewhere(old, Path("found")).splitlines()[0].startswith("a.fits, rows 490–520")
    assert len(describe_elsewhere(old, Path("found")).splitlines()) == 2
