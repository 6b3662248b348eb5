"""Pointing: read order against raw orientation, the mosaic around one position, and headers that cannot be used."""

from __future__ import annotations

from importlib import resources

import astropy.units as u
import numpy as np
import pytest
from another_program import N_COLUMNS, N_TRANSIT, write_frame
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.astrometry.pointing import AmplifierSky, PointingError, field_wcs, parse_wcs, read_sky
from shutterless.pipeline.reading.instruments import load_frame_profile
from shutterless.pipeline.results.barycentric import Direction

CENTRE = Direction(150.0, 20.0)


def simple_wcs() -> WCS:
    """One arcsec per pixel, north up, east left; raw pixel (1, 1) is at the equator and 0 h."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [1, 1], [-1 / 3600, 1 / 3600]
    wcs.wcs.set()
    return wcs


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_frame(tmp_path_factory.mktemp("pointing") / "a.fits", first_row=0, n_rows=2, stars=[], pulses=[])


def with_cards(frame, tmp_path, hdu=0, **cards):
    """Copy of a frame with other cards."""
    path = tmp_path / "changed.fits"
    with fits.open(frame) as hdus:
        hdus[hdu].header.update(cards)
        hdus.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize(
    ("flips", "raw"), [((False, False), (10, 20)), ((True, False), (89, 20)), ((False, True), (10, 179))]
)
def test_a_star_is_where_its_raw_pixel_is(flips, raw):
    sky = AmplifierSky(simple_wcs(), 100, 200, *flips)
    place = sky.to_sky(10, 20)
    assert place.ra.wrap_at(180 * u.deg).arcsec == pytest.approx(-raw[0], abs=1e-3)  # gnomonic
    assert place.dec.arcsec == pytest.approx(raw[1], abs=1e-3)
    assert np.allclose(sky.to_pixel(place), (10, 20))
    assert sky.scale_arcsec == pytest.approx(1.0)


def test_stars_near_an_amplifier_are_those_in_the_circle_around_it_and_a_margin():
    sky = AmplifierSky(simple_wcs(), 101, 101)
    north = SkyCoord([-50, -50, -50] * u.arcsec, [50, 50 + 70.0, 50 + 80.0] * u.arcsec)
    assert sky.near(north, margin_deg=0.0).tolist() == [True, True, False]
    assert sky.near(north, margin_deg=10 / 3600).all()


def test_plain_values_give_the_same_positions():
    sky = AmplifierSky(simple_wcs(), 100, 200, flip_columns=True)
    again = AmplifierSky.from_dict(sky.to_dict())
    assert sky.to_sky(3.25, 4.5).separation(again.to_sky(3.25, 4.5)).arcsec < 1e-9


def test_quadrants_of_ztf_meet_in_the_middle_of_their_ccd_and_lie_as_published():
    profile = load_frame_profile("ztf")
    plane = focal_plane(profile, N_TRANSIT)
    skies = {
        (ccd, quadrant): AmplifierSky(
            field_wcs(CENTRE, 1.0, 180.0, True, plane, ccd, quadrant), N_COLUMNS, N_TRANSIT, *flips
        )
        for ccd in (1, 16)
        for quadrant, flips in enumerate(((False, False), (True, False), (True, True), (False, True)), start=1)
    }
    middle = [skies[1, quadrant].to_sky(N_COLUMNS - 0.5, N_TRANSIT - 0.5) for quadrant in (1, 2, 3, 4)]
    assert max(one.separation(middle[0]).arcsec for one in middle) < 1e-6
    # CCD 1 is in the south, CCD 16 opposite; quadrant 1 is in the north-east of its CCD
    south, north = middle[0], skies[16, 1].to_sky(N_COLUMNS - 0.5, N_TRANSIT - 0.5)
    assert south.dec.deg < CENTRE.dec_deg < north.dec.deg
    first = skies[1, 1].to_sky(0, 0)
    assert first.dec.deg > south.dec.deg
    assert first.ra.deg > south.ra.deg
    centre = SkyCoord(CENTRE.ra_deg * u.deg, CENTRE.dec_deg * u.deg)
    assert south.separation(centre).deg == pytest.approx(north.separation(centre).deg, abs=1e-6)


def test_position_and_angle_in_the_primary_header_say_the_same_as_a_wcs(frame, tmp_path):
    path = with_cards(frame, tmp_path, RA="10:00:00", DEC=20.0, POSANG=180.2)
    loose = read_sky(path, 3)
    wcs = field_wcs(CENTRE, 1.012, 180.2, True, focal_plane(load_frame_profile("ztf"), N_TRANSIT), 7, 3)
    own = with_cards(frame, tmp_path, hdu=3, **wcs.to_header())
    assert loose.to_sky(5, 6).separation(read_sky(own, 3).to_sky(5, 6)).arcsec < 1e-6
    assert (loose.flip_columns, loose.flip_rows, loose.n_columns) == (True, True, N_COLUMNS)
    given = read_sky(frame, 3, supplied={"RA": "150", "DEC": "20", "POSANG": "180.2"})
    assert loose.to_sky(5, 6).separation(given.to_sky(5, 6)).arcsec < 1e-6


def test_a_camera_of_one_ccd_points_with_its_middle():
    plane = focal_plane(load_frame_profile("ztf"), 100, n_ccds=1)
    wcs = field_wcs(CENTRE, 1.0, 0.0, False, plane, 1, 1)
    sky = AmplifierSky(wcs, N_COLUMNS, 100)
    middle = sky.to_sky(N_COLUMNS - 0.5, 99.5)
    assert (middle.ra.deg, middle.dec.deg) == pytest.approx((150.0, 20.0), abs=1e-9)
    assert sky.to_sky(N_COLUMNS - 0.5, 199.5).dec.deg > 20.02  # rows rise to the north
    assert sky.to_sky(N_COLUMNS + 99.5, 99.5).ra.deg < 149.98  # columns to the west


def test_pointings_that_cannot_be_used_are_refused_with_the_way_out(frame, tmp_path):
    with pytest.raises(PointingError, match=r"no WCS in the header of quadrant 2, and no RA and no DEC .* --set RA="):
        read_sky(frame, 2)
    with pytest.raises(PointingError, match=r"RA 'somewhere' and DEC 20.* are not a position"):
        read_sky(with_cards(frame, tmp_path, RA="somewhere", DEC=20.0), 1)
    with pytest.raises(PointingError, match=r"no CCD 99, quadrant 1"):
        read_sky(with_cards(frame, tmp_path, RA=1.0, DEC=2.0, CCD_ID=99), 1)
    bare = {"name": "x", "RA": 1.0, "DEC": 2.0}
    assert parse_wcs(bare, "here") is None
    linear = {"CTYPE1": "X", "CTYPE2": "Y", "CRVAL1": 1.0, "CRVAL2": 2.0}
    with pytest.raises(PointingError, match=r"here: its WCS is not one of the sky \(CTYPE1 = 'X', CTYPE2 = 'Y'"):
        parse_wcs(linear, "here")
    cards = dict(simple_wcs().to_header())
    with pytest.raises(PointingError, match=r"here: its WCS cannot be read: "):
        parse_wcs({**cards, "CTYPE2": "DEC--AIT"}, "here")
    flat = {key: value for key, value in cards.items() if not key.startswith("CDELT")}
    with pytest.raises(PointingError, match=r"here: its WCS is not one of the sky"):
        parse_wcs({**flat, "CD1_1": 1.0, "CD1_2": 1.0, "CD2_1": 1.0, "CD2_2": 1.0}, "here")


def test_a_profile_without_a_pixel_scale_needs_one(frame, tmp_path):
    ztf = resources.files("shutterless.pipeline.reading.profiles").joinpath("ztf.toml").read_text()
    profile = tmp_path / "mine.toml"
    profile.write_text(ztf.replace("pixel_scale_arcsec = 1.012\n", "").replace('"PIXSCALE"', '"MYSCALE"'))
    with pytest.raises(PointingError, match=r"no MYSCALE in the primary header; give --set MYSCALE=ARCSEC"):
        read_sky(with_cards(frame, tmp_path, RA=1.0, DEC=2.0), 1, instrument=str(profile))
