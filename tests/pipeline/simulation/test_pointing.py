"""The simulated camera's pointing: headers as wrong as asked, truth and catalogue at the true place."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from shutterless.pipeline.astrometry.pointing import read_sky
from shutterless.pipeline.astrometry.sky_catalogue import read_sky_catalogue
from shutterless.pipeline.simulation.pointing import position_angle_deg, stated_direction, true_sky
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.simulation.truth import write_catalogue

SETTINGS = SceneSettings(
    rows=128, events=2, artefacts=True, suffix=".fits", first_row=None, n_bright_stars=20,
    kinds=("burst",), pointing_error_arcsec=90.0, rotation_error_deg=0.2, right_ascension_deg=200.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulate_file(SETTINGS, 2, 0, tmp_path_factory.mktemp("pointing"))


def test_headers_are_off_by_the_error_and_truth_is_not(simulated):
    path, truth, stars = simulated
    for quadrant in (1, 2, 3, 4):
        own, sky = stars[stars["quadrant"] == quadrant], true_sky(SETTINGS, 2, quadrant)
        x, y0 = sky.to_pixel(SkyCoord(own["ra"].to_numpy() * u.deg, own["dec"].to_numpy() * u.deg))
        assert np.allclose(x, own["x"], atol=1e-5)
        assert np.allclose(y0, own["y0"], atol=1e-5)
    stated = stated_direction(SETTINGS)
    centre = SkyCoord(200.0 * u.deg, 30.0 * u.deg)
    assert centre.separation(SkyCoord(stated.ra_deg * u.deg, stated.dec_deg * u.deg)).arcsec == pytest.approx(90.0)
    header = fits.getheader(path, 0)
    assert (header["RA"], header["DEC"]) == (stated.ra_deg, stated.dec_deg)
    assert header["POSANG"] == pytest.approx(180.2)
    events = truth[truth["is_event"]]
    on_stars = events[events["star_id"] >= 0].merge(stars, on=["quadrant", "star_id"], suffixes=("", "_star"))
    assert (on_stars["ra"] == on_stars["ra_star"]).all()
    assert events["ra"].notna().all()
    assert truth.loc[~truth["is_event"], "ra"].isna().all()


def test_the_wcs_and_the_position_in_the_primary_header_say_the_same(simulated, tmp_path):
    path = simulated[0]
    with fits.open(path) as hdus:
        for hdu in hdus[1:]:
            for key in ("CTYPE", "CRVAL", "CRPIX", "CUNIT"):
                hdu.header.remove(f"{key}1", ignore_missing=True)
                hdu.header.remove(f"{key}2", ignore_missing=True)
        hdus.writeto(tmp_path / "bare.fits")
    assert "CTYPE1" not in fits.getheader(path, 5)  # overscan shows no sky
    for quadrant in (1, 4):
        corners = [0, 3071], [0, 3079]
        places = read_sky(path, quadrant).to_sky(*corners), read_sky(tmp_path / "bare.fits", quadrant).to_sky(*corners)
        assert places[0].separation(places[1]).arcsec.max() < 1e-5


def test_the_catalogue_has_every_star_once(simulated, tmp_path):
    stars = simulated[2]
    catalogue = read_sky_catalogue(write_catalogue(tmp_path, [stars, stars.assign(file="b.fits")]))
    assert len(catalogue) == len(stars)
    assert catalogue["name"].is_unique
    assert catalogue["name"].str.startswith("S02").all()
    assert np.allclose(catalogue["ra"], stars["ra"])


def test_a_position_angle_replaces_the_profiles():
    assert position_angle_deg(SETTINGS) == 180.0
    turned = SceneSettings(position_angle_deg=10.0)
    assert position_angle_deg(turned) == 10.0
    assert not np.allclose(true_sky(turned, 1, 1).wcs.wcs.cd, true_sky(SceneSettings(), 1, 1).wcs.wcs.cd)
