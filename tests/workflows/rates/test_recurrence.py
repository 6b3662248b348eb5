"""Stars with several candidates, joined over searches by name and by position."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import poisson
from typer.testing import CliRunner

from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.workflows.cli import app
from shutterless.workflows.rates.recurrence import RECURRENCE_COLUMNS, find_recurrences
from shutterless.workflows.searching.found import NoSearchError, SearchedTwiceError

ARCSEC = 1 / 3600


def write_search(folder: Path, file: str, rows: list[dict], expected: float = 10.0) -> Path:
    """A search with candidates of which each row states what matters."""
    folder.mkdir()
    names = [f"{folder.name}{k}" for k in range(len(rows))]
    table = pd.DataFrame({"candidate_id": names, "group_id": names, "dec": 20.0, "position_error": 0.1, "snr": 8.0})
    given = pd.DataFrame(rows, index=table.index)
    table = table.assign(**{name: given[name] for name in given}).reindex(columns=empty_candidates().columns)
    table["time_event_min"] = pd.to_datetime(table["time_event_min"], utc=True)
    table.astype({"star_name": "string"}).to_parquet(folder / "candidates.parquet")
    amplifiers = pd.DataFrame({"files": [file, file], "ccd": 1, "quadrant": 1, "n_streaks": [40, 50]})
    amplifiers.to_parquet(folder / "amplifiers.parquet")
    record = {"files": {file: f"/data/{file}"}, "rates": {"expected_false_alarms": expected}}
    (folder / "search.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def nights(tmp_path) -> list[Path]:
    first = [
        {"star_name": "G1", "ra": 10.0, "time_event_min": "2026-03-01T02:00:00"},
        {"star_name": "G2", "ra": 11.0, "time_event_min": "2026-03-01T03:00:00"},
        {"star_name": "", "ra": 12.0, "time_event_min": "2026-03-01T04:00:00"},
        {"star_name": "", "ra": None, "time_event_min": "2026-03-01T05:00:00"},
    ]
    second = [
        {"star_name": "G1", "ra": 10.0 + 30 * ARCSEC, "time_event_min": "2026-03-02T02:00:00"},  # far, but of one name
        {"star_name": "G3", "ra": 11.0 + 0.5 * ARCSEC, "time_event_min": "2026-03-02T03:00:00"},  # near, of another one
        {"star_name": "", "ra": 12.0 + 0.9 * ARCSEC, "time_event_min": "2026-03-02T04:00:30"},  # 0.85 arcsec away
        {"star_name": "G4", "ra": 13.0, "group_id": "one", "time_event_min": "2026-03-02T06:00:00"},
        {"star_name": "G4", "ra": 13.0, "group_id": "one", "time_event_min": "2026-03-02T06:00:00"},
    ]
    return [write_search(tmp_path / "a", "1.fits", first), write_search(tmp_path / "b", "2.fits", second)]


def test_candidates_of_one_star_are_joined_by_name_or_by_position_within_errors(nights, tmp_path):
    found = find_recurrences(nights, tmp_path / "out")
    assert list(found.events.columns) == list(RECURRENCE_COLUMNS)
    assert found.events["candidate_id"].tolist() == ["a2", "b2", "a0", "b0"]
    assert found.events["star"].tolist() == ["12.00000+20.00000"] * 2 + ["G1"] * 2
    assert found.events["n_searches"].tolist() == [2, 2, 2, 2]
    assert found.events["since_last_s"].dropna().tolist() == [86_430.0, 86_400.0]
    assert (found.n_placed, found.n_stars) == (7, 5)  # G4 has one cause, a star without position none
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "recurrences.parquet"), found.events)


def test_the_number_by_chance_is_that_of_false_alarms_on_all_streaks_alike(nights, tmp_path):
    found = find_recurrences(nights, tmp_path)
    assert found.by_chance == pytest.approx(50 * poisson.sf(1, 20 / 50))
    assert "2 stars have several, 2 of them in several searches; chance makes 3.1 such stars" in found.text()


def test_no_star_recurs_where_nothing_is_placed(nights, tmp_path):
    empty = write_search(tmp_path / "c", "3.fits", [{"star_name": "", "ra": None}])
    found = find_recurrences([empty], tmp_path)
    assert (len(found.events), found.n_placed) == (0, 0)


def test_searches_of_one_frame_are_refused(nights, tmp_path):
    with pytest.raises(SearchedTwiceError, match=r"a and \S+/a both searched /data/1.fits: name each frame once"):
        find_recurrences([nights[0], nights[0]], tmp_path)
    with pytest.raises(NoSearchError, match=r"nowhere holds no finished search"):
        find_recurrences([tmp_path / "nowhere"], tmp_path)


def test_the_command_lists_the_stars(nights, tmp_path):
    arguments = ["recurrences", *map(str, nights), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "G1: 2 events" in result.output
    assert (tmp_path / "out" / "recurrences.parquet").is_file()
