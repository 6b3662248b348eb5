"""Regions as the package regions reads them back."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
from regions import LineSkyRegion, PointSkyRegion, RectanglePixelRegion, Regions

from shutterless.workflows.export.errors import ExportError
from shutterless.workflows.export.region_files import write_region_files

from .conftest import ORPHAN, STAR, VETOED


@pytest.fixture
def files(candidates, tmp_path):
    return {
        path.name: Regions.read(path, format="ds9") for path in write_region_files(candidates, tmp_path / "regions")
    }


def test_each_hdu_has_a_file_with_a_box_on_the_pixel_of_every_candidate(files):
    assert list(files) == ["a.fits.fz_hdu1.reg", "a.fits.fz_hdu2.reg", "sky.reg"]
    box, other = files["a.fits.fz_hdu1.reg"]
    assert isinstance(box, RectanglePixelRegion)
    # the package counts from 0, FITS from 1; 20 rows on either side hold the event
    assert (box.center.x, box.center.y, box.width, box.height) == (100.0, 500.0, 16.0, 41.0)
    assert [region.meta["tag"] for region in (box, other)] == [[STAR], [VETOED]]
    assert [region.visual["edgecolor"] for region in (box, other)] == ["cyan", "red"]
    assert box.meta["text"] == "9.0 sigma"


def test_the_sky_has_points_for_stars_and_lines_for_segments(files):
    star, line, again = files["sky.reg"]
    assert isinstance(star, PointSkyRegion)
    assert isinstance(line, LineSkyRegion)
    assert (star.center.ra.deg, star.center.dec.deg) == (150.0, 30.0)
    assert [(end.ra.deg, end.dec.deg) for end in (line.start, line.end)] == [(150.1, 29.8), (150.1, 30.6)]
    assert [region.meta["tag"][0] for region in (star, line, again)] == [STAR, ORPHAN, VETOED]


def test_an_orphan_that_two_readouts_saw_has_a_point_and_its_segment(candidates, tmp_path):
    seen_twice = candidates.iloc[[1]].assign(point_ra=150.1, point_dec=30.3, point_error=0.5)
    point, line = Regions.read(write_region_files(seen_twice, tmp_path)[-1], format="ds9")
    assert (point.center.ra.deg, point.center.dec.deg) == (150.1, 30.3)
    assert isinstance(line, LineSkyRegion)


def test_a_candidate_of_a_cube_is_a_box_of_three_pixels(candidates, tmp_path):
    cube = candidates.head(1).assign(quadrant=pd.NA, fits_y=12, fits_z=501, ra=None)
    (path,) = write_region_files(cube, tmp_path)
    (box,) = Regions.read(path, format="ds9")
    assert (box.center.x, box.center.y, box.width, box.height) == (100.0, 11.0, 3.0, 3.0)


def test_files_of_one_name_in_two_folders_stay_apart(candidates, tmp_path):
    names = [path.name for path in write_region_files(candidates.head(1).assign(file="dome/a.fits"), tmp_path)]
    assert names == ["dome%2Fa.fits_hdu1.reg", "sky.reg"]


def test_without_positions_or_candidates_there_is_no_file_of_the_sky(candidates, tmp_path):
    assert write_region_files(candidates.iloc[:0], tmp_path) == []
    nowhere = candidates.assign(ra=None, segment_ra_1=None)
    assert [path.name for path in write_region_files(nowhere, tmp_path)] == ["a.fits.fz_hdu1.reg", "a.fits.fz_hdu2.reg"]


def test_a_table_without_hdus_is_refused(candidates, tmp_path):
    with pytest.raises(ExportError, match="does not say in which HDUs the candidates are; search again"):
        write_region_files(candidates.assign(hdu=pd.array([pd.NA] * 3, dtype="Int64")), tmp_path)


def test_a_missing_package_is_named_with_its_extra(candidates, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "regions", None)
    with pytest.raises(
        ExportError, match=r"regions of DS9 need regions; install it with: pip install 'shutterless\[export\]'"
    ):
        write_region_files(candidates, tmp_path)
