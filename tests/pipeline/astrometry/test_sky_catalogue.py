"""Catalogues of stars on the sky: names of columns of the surveys, units, proper motion, and bad rows."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from astropy.time import Time

from shutterless.pipeline.astrometry.sky_catalogue import (
    is_sky_catalogue,
    magnitudes,
    positions_at,
    read_sky_catalogue,
)
from shutterless.pipeline.results.catalogue import CatalogueError

STARS = pd.DataFrame({"name": ["A", "B"], "ra": [10.5, 359.25], "dec": [-5.0, 89.0], "mag": [11.0, 12.5]})


def write(table, path):
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        Table.from_pandas(table).write(path, format="votable" if path.suffix in (".vot", ".xml") else None)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".fits", ".vot", ".xml", ".parquet"])
def test_every_format_says_the_same(tmp_path, suffix):
    read = read_sky_catalogue(write(STARS, tmp_path / f"stars{suffix}"))
    assert read[list(STARS)].to_dict("list") == STARS.to_dict("list")


@pytest.mark.parametrize(
    "survey",
    [
        {"source_id": [4, 5], "ra": [1.0, 2.0], "dec": [3.0, 4.0], "phot_g_mean_mag": [9.0, 8.0]},
        {"SOURCE_ID": [4, 5], "RA_ICRS": [1.0, 2.0], "DE_ICRS": [3.0, 4.0], "Gmag": [9.0, 8.0]},
        {"objID": [4, 5], "raMean": [1.0, 2.0], "decMean": [3.0, 4.0], "rMeanPSFMag": [9.0, 8.0]},
        {"objID": [4, 5], "RAJ2000": [1.0, 2.0], "DEJ2000": [3.0, 4.0], "rmag": [9.0, 8.0], "gmag": [0.0, 0.0]},
        {"objid": [4, 5], "RA": [1.0, 2.0], "Dec": [3.0, 4.0], "g": [0.0, 0.0], "r": [9.0, 8.0], "i": [0.0, 0.0]},
    ],
    ids=["Gaia", "Gaia on VizieR", "PS1", "PS1 on VizieR", "REFCAT2"],
)
def test_columns_of_the_surveys_are_recognised(tmp_path, survey):
    read = read_sky_catalogue(write(pd.DataFrame(survey), tmp_path / "stars.csv"))
    assert read["name"].tolist() == ["4", "5"]
    assert read["ra"].tolist() == [1.0, 2.0]
    assert read["dec"].tolist() == [3.0, 4.0]
    assert magnitudes(read, "ZTF_r").tolist() == [9.0, 8.0]


def test_a_band_that_the_catalogue_lacks_is_replaced_by_one_that_it_has(tmp_path):
    stars = STARS.drop(columns="mag").assign(mag_g=[1.0, 2.0], mag_i=[3.0, 4.0])
    read = read_sky_catalogue(write(stars, tmp_path / "stars.csv"))
    assert magnitudes(read, "i").tolist() == [3.0, 4.0]
    assert magnitudes(read, "ZTF_r").tolist() == [1.0, 2.0]
    assert magnitudes(read, "").tolist() == [1.0, 2.0]


def test_units_of_the_file_are_converted(tmp_path):
    table = QTable({"ra": [1.0] * u.hourangle, "dec": [0.1] * u.rad, "mag": [9.0], "ra_error": [0.2] * u.arcsec})
    table.write(tmp_path / "stars.ecsv")
    read = read_sky_catalogue(tmp_path / "stars.ecsv")
    assert read["ra"][0] == pytest.approx(15.0)
    assert read["dec"][0] == pytest.approx(np.degrees(0.1))
    assert read["error"][0] == pytest.approx(0.2)  # arcsec
    table = QTable({"ra": [1.0] * u.m, "dec": [0.1] * u.rad, "mag": [9.0]})
    table.write(tmp_path / "metres.ecsv")
    with pytest.raises(CatalogueError, match=r"unit of ra: 'm' \(length\) and 'deg' \(angle\) are not convertible"):
        read_sky_catalogue(tmp_path / "metres.ecsv")


def test_barnards_star_moves_103_arcsec_north_in_ten_years(tmp_path):
    star = {"ra": [269.44850], "dec": [4.73942], "phot_g_mean_mag": [8.19], "pmra": [-801.55], "pmdec": [10362.39]}
    read = read_sky_catalogue(write(pd.DataFrame(star | {"ref_epoch": [2016.0]}), tmp_path / "gaia.csv"))
    then = SkyCoord(269.44850 * u.deg, 4.73942 * u.deg)
    now = positions_at(read, Time(2026.0, format="jyear"))
    east, north = then.spherical_offsets_to(now)
    assert north.to_value(u.arcsec)[0] == pytest.approx(103.6239, abs=0.02)
    assert east.to_value(u.arcsec)[0] == pytest.approx(-8.0155, abs=0.02)
    assert positions_at(read, None).separation(then)[0].arcsec == 0.0
    # REFCAT2 has Gaia's motions and no column of the epoch: 2015.5
    without = positions_at(read.drop(columns="epoch"), Time(2026.0, format="jyear"))
    assert without.separation(now)[0].arcsec == pytest.approx(0.5 * 10.39, abs=0.01)


def test_a_star_without_motion_or_name_stays_and_is_named_by_its_place(tmp_path):
    star = {"ra": [83.6331, 10.0], "dec": [22.0145, -0.5], "mag": [9.0, 9.0], "pmra": [np.nan, 0.0]}
    read = read_sky_catalogue(write(pd.DataFrame(star | {"pmdec": [np.nan, 0.0]}), tmp_path / "stars.csv"))
    assert read["name"].tolist() == ["J053431.94+220052.2", "J004000.00-003000.0"]
    moved = positions_at(read, Time(2030.0, format="jyear"))
    assert moved.ra.deg == pytest.approx(star["ra"], abs=1e-9)


def test_stars_without_a_magnitude_are_left_out(tmp_path):
    stars = pd.DataFrame({"ra": [1.0, 2.0, 3.0], "dec": 0.0, "mag": [10.0, -999.0, np.nan]})
    assert read_sky_catalogue(write(stars, tmp_path / "stars.csv"))["ra"].tolist() == [1.0]
    with pytest.raises(CatalogueError, match=r"stars\.csv: none of its 2 stars has a magnitude"):
        read_sky_catalogue(write(stars.iloc[1:], tmp_path / "stars.csv"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ra": [1.0, 400.0]},
            r"ra 400 and dec 89 of row 2 are not within 0 to 360 and -90 to 90 degrees \(1 rows of 2",
        ),
        ({"dec": [np.nan, 1.0]}, r"dec nan of row 1"),
        ({"ra": ["05:34:31", "1.0"]}, r"ra of row 1 is '05:34:31', which is no number; positions are in degrees"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    with pytest.raises(CatalogueError, match=message):
        read_sky_catalogue(write(STARS.assign(**change), tmp_path / "stars.csv"))


def test_files_that_are_no_catalogue_are_refused(tmp_path):
    with pytest.raises(
        CatalogueError, match=r"lacks dec, mag: it needs ra, dec \(degrees\) and mag, and has name, ra;"
    ):
        read_sky_catalogue(write(STARS[["name", "ra"]], tmp_path / "stars.csv"))
    with pytest.raises(CatalogueError, match=r"stars\.txt: \.txt is not one of \.csv, \.ecsv, \.fits"):
        read_sky_catalogue(tmp_path / "stars.txt")
    (tmp_path / "noise.fits").write_bytes(b"noise")
    with pytest.raises(CatalogueError, match=r"noise\.fits cannot be read: "):
        read_sky_catalogue(tmp_path / "noise.fits")


def test_stars_in_pixels_are_told_from_stars_on_the_sky(tmp_path):
    assert is_sky_catalogue(write(STARS, tmp_path / "sky.csv"))
    assert not is_sky_catalogue(write(STARS.assign(x=1.0, y=2.0), tmp_path / "pixels.csv"))
