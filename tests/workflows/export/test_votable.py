"""A VOTable of candidates as other programs read it."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import parse, validate
from astropy.table import Table
from astropy.time import Time

from shutterless.pipeline.results.candidates import (
    CANDIDATE_DESCRIPTIONS,
    CANDIDATE_TYPES,
    CANDIDATE_UCDS,
    empty_candidates,
)
from shutterless.workflows.export.votable import write_votable


@pytest.fixture
def path(candidates, tmp_path):
    write_votable(candidates, tmp_path / "candidates.vot")
    return tmp_path / "candidates.vot"


def test_it_validates_with_units_ucds_descriptions_and_systems(path):
    report = io.StringIO()
    assert validate(str(path), output=report), report.getvalue()
    document = parse(str(path), verify="exception")
    fields = {field.name: field for field in document.get_first_table().fields}
    assert list(fields) == list(CANDIDATE_TYPES)
    assert {name: field.ucd for name, field in fields.items()} == CANDIDATE_UCDS
    assert {name: " ".join(field.description.split()) for name, field in fields.items()} == CANDIDATE_DESCRIPTIONS
    units = {
        name: str(fields[name].unit) for name in ("ra", "duration_s", "position_error", "amplitude_e", "time_read")
    }
    assert units == {"ra": "deg", "duration_s": "s", "position_error": "arcsec", "amplitude_e": "ct", "time_read": "d"}
    assert [(system.ID, system.system) for system in document.resources[0].coordinate_systems] == [("icrs", "ICRS")]
    assert (fields["dec"].ref, fields["time_read"].ref, fields["time_read_utc"].xtype) == (
        "icrs",
        "utc_mjd",
        "timestamp",
    )


def test_table_read_gives_the_same_values_and_what_is_missing_is_masked(path, candidates):
    back = Table.read(path)
    for name in ("candidate_id", "x", "row_peak", "snr", "hdu"):
        np.testing.assert_array_equal(np.asarray(back[name]), candidates[name].to_numpy())
    assert back["streak_id"].mask.tolist() == [False, True, False]
    assert np.ma.filled(back["ra"], np.nan).tolist() == pytest.approx([150.0, np.nan, 150.0], nan_ok=True)
    expected = Time("2026-03-04T05:06:07", scale="utc").mjd + 500 / 300 / 86400
    assert back["time_read"][0] == pytest.approx(expected, abs=2e-11)  # 2 microseconds


@pytest.mark.parametrize("without", ["rows", "times"])
def test_without_rows_or_times_it_is_still_valid(candidates, tmp_path, without):
    moments = {name: pd.Series([None] * 3, dtype=candidates[name].dtype) for name in ("time_read", "time_event_min")}
    table = empty_candidates() if without == "rows" else candidates.assign(**moments)
    write_votable(table, tmp_path / "odd.vot")
    assert validate(str(tmp_path / "odd.vot"), output=io.StringIO())
    assert len(Table.read(tmp_path / "odd.vot")) == len(table)
