"""Barycentric times: computed by hand, compared with astropy row by row, and refused without data."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time, TimeDelta

from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.barycentric import BarycentreError, Direction, bjd_tdb, parse_direction, read_pointing

SITE = load_profile("ztf").site


def readout(opened="2026-03-04T05:06:07.000", **values):
    return Readout(300.0, 6.2, 10.0, 48_000.0, 3080, **{"first_row": 0, "shutter_open_utc": opened, **values})


def roemer_s(month, direction):
    """Barycentric delay without the difference of TDB and UTC: 37 leap seconds and 32.184 s of TT."""
    opened = f"2026-{month:02d}-01T00:00:00"
    time = bjd_tdb(readout(opened), np.array([0.0]), direction, SITE)
    return (time - Time(opened, scale="utc").tdb).to_value("s")[0]


def test_amplitude_over_the_year_is_that_of_the_earths_orbit():
    # light crosses 1 au in 499.005 s; the Sun's motion of 0.005 au and the eccentricity of 1.7 % change that by 2 %. A
    # star on the ecliptic (right ascension 0, declination 0) has all of it, at latitude 60 degrees half, at 90 none
    along = [roemer_s(month, Direction(0.0, 0.0)) for month in range(1, 13)]
    assert (max(along) - min(along)) / 2 == pytest.approx(499.0, rel=0.03)
    high = SkyCoord(0 * u.deg, 60 * u.deg, frame="barycentrictrueecliptic").icrs
    at_sixty = [roemer_s(month, Direction(high.ra.deg, high.dec.deg)) for month in range(1, 13)]
    assert (max(at_sixty) - min(at_sixty)) / 2 == pytest.approx(499.0 * np.cos(np.deg2rad(60)), rel=0.03)
    pole = SkyCoord(0 * u.deg, 90 * u.deg, frame="barycentrictrueecliptic").icrs
    assert max(abs(roemer_s(month, Direction(pole.ra.deg, pole.dec.deg))) for month in range(1, 13)) < 4


@pytest.mark.parametrize("opened", ["2026-03-04T05:06:07.000", "2016-12-31T23:59:30.000"])
def test_every_row_agrees_with_astropy_also_across_a_leap_second(opened):
    rows = np.linspace(0, 30_000, 7)
    ours = bjd_tdb(readout(opened), rows, Direction(187.7, 12.4), SITE)
    place = EarthLocation.from_geodetic(SITE.longitude_deg * u.deg, SITE.latitude_deg * u.deg, SITE.height_m * u.m)
    times = (Time(opened, scale="utc").tai + TimeDelta(rows / 300, format="sec")).utc
    times.delta_ut1_utc = 0.0
    theirs = times.tdb + times.light_travel_time(SkyCoord(187.7 * u.deg, 12.4 * u.deg), location=place)
    assert np.abs((ours - theirs).to_value("s")).max() < 1e-6


def test_a_rate_of_rows_is_drawn_out_by_the_earths_motion_alone():
    # towards the star the Earth moves at 30 km/s at most, 1e-4 of the speed of light
    times = bjd_tdb(readout(), np.array([0.0, 300.0, 600.0]), Direction(10.0, 20.0), SITE)
    steps = np.diff((times - times[0]).to_value("s"))
    assert steps == pytest.approx([1.0, 1.0], abs=1.1e-4)
    assert len(bjd_tdb(readout(), np.empty(0), Direction(10.0, 20.0), SITE)) == 0


def test_years_for_which_no_table_exists_are_no_error():
    assert bjd_tdb(readout("2028-12-01T00:00:00"), np.array([0.0]), Direction(10.0, 20.0), SITE).scale == "tdb"


@pytest.mark.parametrize("missing", [{"first_row": None}, {"shutter_open_utc": None}])
def test_without_clock_there_is_no_barycentric_time(missing):
    with pytest.raises(BarycentreError, match=r"need the UTC of the rows.*SHUTOPEN and SEQROW0.*--set"):
        bjd_tdb(readout(**missing), np.arange(3.0), Direction(10.0, 20.0), SITE)


@pytest.mark.parametrize(("ra", "dec"), [(187.5, -12.25), ("187.5", "-12.25"), ("12:30:00", "-12:15:00")])
def test_degrees_and_sexagesimal_positions_are_the_same(ra, dec):
    direction = parse_direction(ra, dec, "here")
    assert (direction.ra_deg, direction.dec_deg) == pytest.approx((187.5, -12.25))


@pytest.mark.parametrize(
    ("ra", "dec", "message"),
    [
        ("north", 3, r"a\.fits: RA 'north' and DEC 3 are not a position; give degrees or HH:MM:SS"),
        (400, 3, r"a\.fits: RA 400 and DEC 3 are not within 0 to 360"),
        (3, 91, r"a\.fits: RA 3 and DEC 91 are not within"),
    ],
)
def test_what_is_no_position_is_refused(ra, dec, message):
    with pytest.raises(BarycentreError, match=message):
        parse_direction(ra, dec, "a.fits")


def test_the_pointing_is_read_from_the_primary_header(tmp_path):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(header=fits.Header({"RA": "12:30:00", "DEC": "+04:30:00"})).writeto(path)
    assert read_pointing(path) == Direction(pytest.approx(187.5), pytest.approx(4.5))
    fits.PrimaryHDU(header=fits.Header({"RA": 3.0})).writeto(path, overwrite=True)
    with pytest.raises(BarycentreError, match=r"a\.fits: no DEC in the primary header.*--ra and --dec.*catalogue"):
        read_pointing(path)
