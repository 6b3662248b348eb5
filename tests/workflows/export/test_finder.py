"""The finder page: patches, positions, and what it needs."""

from __future__ import annotations

import re

import pytest
from browser import find_overflow

from shutterless.workflows.export.errors import ExportError
from shutterless.workflows.export.finder import write_finder

from .conftest import ORPHAN, STAR, VETOED


@pytest.fixture
def page(found, candidates, tmp_path):
    assert write_finder(candidates, tmp_path / "finder.html", tmp_path / "stars.csv", top=12) == 3
    return (tmp_path / "finder.html").read_text(encoding="utf-8")


def test_every_candidate_has_its_patch_and_position_those_with_a_veto_last(page):
    assert re.findall(r"<h3>(.*?)</h3>", page) == [STAR, ORPHAN, VETOED]
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "<dd>150.000000 +30.000000 ± 0.10″</dd>" in page
    assert "<dd>10:00:00.00 +30:00:00.00</dd>" in page
    assert "<dd>150.100000 +29.800000 to 150.100000 +30.600000, 48.0′</dd>" in page
    assert "Centre 10:00:24.0 +30:12:00.0." in page  # the middle of the segment
    assert "stars of <code>stars.csv</code>" in page
    assert re.search(r'(src|href)="(?!data:|#)', page) is None  # it fetches nothing


def test_it_fits_narrow_windows(page, tmp_path):
    assert find_overflow(page, tmp_path) == []


def test_the_first_ones_are_drawn(found, candidates, tmp_path):
    assert write_finder(candidates, tmp_path / "finder.html", tmp_path / "stars.csv", top=1) == 1
    assert "1 of 3 candidates with a position" in (tmp_path / "finder.html").read_text(encoding="utf-8")


def test_without_positions_or_a_catalogue_there_is_no_page(found, candidates, tmp_path):
    nowhere = candidates.assign(ra=None, segment_ra_1=None)
    with pytest.raises(ExportError, match="no candidate has a position; search with --catalogue and stars on the sky"):
        write_finder(nowhere, tmp_path / "finder.html", tmp_path / "stars.csv", top=12)
    for gone in (None, tmp_path / "gone.csv"):
        with pytest.raises(ExportError, match=f"no catalogue {gone}; give --catalogue FILE"):
            write_finder(candidates, tmp_path / "finder.html", gone, top=12)
