"""A finished search with a candidate on a star, an orphan and a vetoed one, without any frame."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.results.candidates import empty_candidates, write_candidates

STAR, ORPHAN, VETOED = "a_c01_q1_x0100.00_r0000500", "a_c01_q2_x0200.00_r0000600", "a_c01_q1_x0300.00_r0000700"
ON_STAR = {"star_name": "Gaia 7", "ra": 150.0, "dec": 30.0, "position_error": 0.1, "star_mag": 14.0, "streak_id": 3}
ON_NONE = {"segment_ra_1": 150.1, "segment_dec_1": 29.8, "segment_ra_2": 150.1, "segment_dec_2": 30.6}


def _row(name: str, x: float, row: int, hdu: int, **values) -> dict:
    read = pd.Timestamp("2026-03-04T05:06:07", tz="UTC") + pd.Timedelta(seconds=row / 300)
    return {
        **dict.fromkeys(empty_candidates()), "candidate_id": name, "group_id": name, "file": "a.fits.fz", "ccd": 1,
        "quadrant": hdu, "x": x, "row_start": row - 10, "row_stop": row + 20, "row_peak": row, "duration_s": 31 / 300,
        "snr": 9.0, "amplitude_e": 400.0, "veto": "", "model": "template-bank", "path": "/night/a.fits.fz", "hdu": hdu,
        "fits_x": x + 1, "fits_y": row + 1, "time_read": read, "time_event_min": read, "time_event_max": read,
        "time_read_utc": read.strftime("%Y-%m-%dT%H:%M:%S.%f"), **values,
    }  # fmt: skip


@pytest.fixture(scope="session")
def candidates() -> pd.DataFrame:
    """One on a star, one on a segment of 48 arcmin, and one on the same star with a veto."""
    rows = [
        _row(STAR, 100.0, 500, 1, **ON_STAR),
        _row(ORPHAN, 200.0, 600, 2, **ON_NONE),
        _row(VETOED, 300.0, 700, 1, **ON_STAR, veto="sharp"),
    ]
    return pd.DataFrame(rows).astype(empty_candidates().dtypes.to_dict())


@pytest.fixture
def found(candidates, tmp_path) -> Path:
    """Folder of the search, its catalogue beside it."""
    catalogue = tmp_path / "stars.csv"
    stars = pd.DataFrame({"ra": [150.0, 150.02, 150.09], "dec": [30.0, 30.01, 30.2], "mag": [14.0, 12.0, 16.0]})
    stars.to_csv(catalogue, index=False)
    record = {"catalogue": str(catalogue), "instrument": None, "supplied": {}, "files": {}}
    write_candidates(candidates, tmp_path / "found", record)
    write_parquet(pd.DataFrame({"files": ["a.fits.fz"]}), tmp_path / "found" / "amplifiers.parquet")
    (tmp_path / "found" / "search.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "found"
