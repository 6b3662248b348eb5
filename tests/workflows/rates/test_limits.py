"""Rates and limits of searches made by hand, whose numbers are solved in the head, and of a simulated night."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from shutterless.models.evaluation.rate_limits import completeness_error, feldman_cousins
from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.workflows.cli import app
from shutterless.workflows.comparison.counted_events import ALARM_COLUMNS, EVENT_COLUMNS
from shutterless.workflows.rates.limits import (
    FELDMAN_COUSINS,
    NO_EVENT,
    POISSON,
    LimitsError,
    measure_limits,
    write_limits,
)
from shutterless.workflows.searching.found import NoSearchError, SearchedTwiceError
from shutterless.workflows.settings.settings import LimitsSettings, SettingsError

SETTINGS = LimitsSettings(durations_s=(0.03, 0.1, 0.3), magnitudes=(10.0, 12.0, 14.0))
ZERO_POINT, RATE_HZ, THRESHOLD = 25.0, 300.0, 7.0
BRIGHT, FAINT = 10 ** (0.4 * (ZERO_POINT - 11)), 10 ** (0.4 * (ZERO_POINT - 13))  # e/s at magnitude 11 and 13


def write_search(folder: Path, durations=(), file="a.fits", model="template-bank", **amplifier) -> Path:
    """A search of two quadrants that saw 1 deg² day, with candidates of magnitude 11."""
    folder.mkdir()
    columns = {
        "files": file, "quadrant": [1, 2], "ccd": 1, "segment": ["s1", "s2"], "deg2_hours": 12.0, "live_hours": 0.5,
        "pixel_rows_per_hour": 1e6, "zero_point_mag": ZERO_POINT, "row_rate_hz": RATE_HZ, "threshold": THRESHOLD,
    }  # fmt: skip
    pd.DataFrame({**columns, **amplifier}).astype({"quadrant": "Int64"}).to_parquet(folder / "amplifiers.parquet")
    names = [f"c{k}" for k in range(len(durations))]
    rows = pd.DataFrame(
        {"candidate_id": names, "group_id": names, "file": file, "quadrant": 1, "duration_s": durations, "snr": 9.0}
    )
    candidates = rows.assign(amplitude_e=BRIGHT / RATE_HZ).reindex(columns=empty_candidates().columns)
    candidates.astype({"quadrant": "Int64"}).to_parquet(folder / "candidates.parquet")
    record = {"model": model, "files": {file: f"/data/{file}"}, "rates": {"expected_false_alarms": 3.0}}
    (folder / "search.json").write_text(json.dumps(record))
    return folder


def light(scores, duration, flux, **values) -> pd.DataFrame:
    rows = pd.DataFrame({"score": np.asarray(scores, dtype=float), "duration_s": duration, "flux_e_s": flux})
    return rows.assign(detector="template-bank", sign=1.0, entry="e", **values)


@pytest.fixture
def judged(tmp_path) -> Path:
    """40 bright events of 0.05 s, 30 of them above the threshold; 12 faint ones, none; 5 long ones; 20 false alarms."""
    folder = tmp_path / "judged"
    folder.mkdir()
    events = [
        light([8.0] * 30 + [6.0] * 10, 0.05, BRIGHT, kind="burst"),
        light([6.0] * 12, 0.05, FAINT, kind="burst"),
        light([9.0] * 5, 0.2, BRIGHT, kind="flare"),
    ]
    pd.concat(events).reindex(columns=list(EVENT_COLUMNS)).to_parquet(folder / "events.parquet")
    alarms = light([8.0] * 20 + [6.0] * 5, 0.05, BRIGHT)
    alarms.reindex(columns=list(ALARM_COLUMNS)).to_parquet(folder / "alarms.parquet")
    pd.DataFrame({"detector": ["template-bank"], "live_hours": [4.0]}).to_parquet(folder / "summary.parquet")
    (folder / "eta.json").write_text(json.dumps({"pixel_rows_per_hour": 1e6}))
    return folder


def test_an_empty_search_has_the_limit_that_is_solved_by_hand(tmp_path, judged):
    found = measure_limits([write_search(tmp_path / "s")], judged, SETTINGS)
    cell = found.table.iloc[0]
    assert found.exposure_deg2_day == 1.0
    assert (cell["n_injected"], cell["n_recovered"], cell["completeness"]) == pytest.approx((40, 30, 0.75))
    # Beta(30.5, 10.5): the completeness is known to 8.98 %, v = 0.008064; P(0 | s) = (1 + v s) ** (-1/v) = 0.05 has
    # s = (20 ** v - 1) / v = 3.0322 events, seen in 1 deg² day x 0.75
    assert cell["rate_high"] == pytest.approx(3.0322 / 0.75, abs=2e-4)
    assert (cell["rate"], cell["rate_low"], cell["method"]) == (0, 0, POISSON)


def test_false_alarms_and_completeness_count_at_the_threshold_of_the_search(tmp_path, judged):
    found = measure_limits([write_search(tmp_path / "s", durations=[0.05] * 12)], judged, SETTINGS)
    cell = found.table.iloc[0]
    # 20 alarms above the threshold in 4 hours, and 1 hour was searched
    assert (cell["n_found"], cell["background"]) == pytest.approx((12, 5.0))
    assert cell["background_error"] == pytest.approx(np.sqrt(20) / 4)
    assert cell["rate"] == pytest.approx((12 - 5) / 0.75)
    ends = feldman_cousins(12, 5.0, background_error=np.sqrt(20) / 4, efficiency_error=completeness_error(30, 40))
    assert (cell["rate_low"], cell["rate_high"]) == pytest.approx(np.array(ends) / 0.75)
    assert cell["method"] == FELDMAN_COUSINS
    lower = measure_limits([write_search(tmp_path / "low", threshold=5.0)], judged, SETTINGS).table.iloc[0]
    assert (lower["completeness"], lower["background"]) == pytest.approx((1.0, 25 / 4))


def test_a_cell_says_why_it_has_no_rate(tmp_path, judged):
    table = measure_limits([write_search(tmp_path / "s")], judged, SETTINGS).table
    assert table["note"].tolist() == [
        "",
        "none of 12 events of the evaluation found",
        "5 events of the evaluation, 10 needed",
        NO_EVENT,
    ]
    assert table.loc[1:, "rate_high"].isna().all()


def test_searches_add_their_sky_and_amplifiers_their_own_zero_point(tmp_path, judged):
    first, second = write_search(tmp_path / "1"), write_search(tmp_path / "2", file="b.fits")
    one, two = (measure_limits(folders, judged, SETTINGS) for folders in ([first], [first, second]))
    assert two.exposure_deg2_day == 2.0
    assert two.table["rate_high"][0] == pytest.approx(one.table["rate_high"][0] / 2)
    assert two.expected_false_alarms == 6.0
    # with 2 mag less light per electron on one of two amplifiers, its events are faint ones for the other
    mixed = measure_limits([write_search(tmp_path / "3", zero_point_mag=[25.0, 23.0])], judged, SETTINGS).table
    assert mixed["n_injected"].tolist() == pytest.approx([20 + 6, 6, 2.5, 0])
    partly = measure_limits([write_search(tmp_path / "4", zero_point_mag=[25.0, np.nan])], judged, SETTINGS)
    assert partly.exposure_deg2_day == 0.5
    assert partly.notes == (f"{tmp_path / '4'}: 1 amplifiers without a zero point are left out",)


def test_a_kind_has_a_completeness_of_its_own(tmp_path, judged):
    search = write_search(tmp_path / "s")
    settings = LimitsSettings(durations_s=(0.03, 0.3), magnitudes=(10.0, 12.0), least_events=5)
    assert measure_limits([search], judged, settings).table["completeness"][0] == pytest.approx(35 / 45)
    assert measure_limits([search], judged, settings, kinds=["flare"]).table["completeness"][0] == 1.0
    with pytest.raises(LimitsError, match=r"has no brightening of kind 'eclipse'; it has burst, flare"):
        measure_limits([search], judged, settings, kinds=["eclipse"])


def test_dips_and_further_candidates_of_a_group_are_no_found_events(tmp_path, judged):
    search = write_search(tmp_path / "s", durations=[0.05] * 4)
    candidates = pd.read_parquet(search / "candidates.parquet")
    candidates.assign(snr=[9.0, -9.0, 9.0, 8.0], group_id=["c0", "c1", "c2", "c2"]).to_parquet(
        search / "candidates.parquet"
    )
    assert measure_limits([search], judged, SETTINGS).table["n_found"][0] == 2


def test_what_has_no_rate_is_refused_with_the_reason(tmp_path, judged):
    search = write_search(tmp_path / "s")
    with pytest.raises(NoSearchError, match=r"judged holds no finished search"):
        measure_limits([judged], judged, SETTINGS)
    with pytest.raises(SearchedTwiceError, match=r"s and \S+/s both searched /data/a.fits: name each frame once"):
        measure_limits([search, search], judged, SETTINGS)
    with pytest.raises(
        LimitsError, match=r"has no events.parquet: name a folder that this version of `evaluate` wrote"
    ):
        measure_limits([search], search, SETTINGS)
    other = write_search(tmp_path / "other", model="runs/mine")
    with pytest.raises(LimitsError, match=r"judged template-bank, not runs/mine, with which \S+/other was searched"):
        measure_limits([other], judged, SETTINGS)
    assert len(measure_limits([other], judged, SETTINGS, detector="template-bank").known) == 1
    dark = write_search(tmp_path / "dark", zero_point_mag=np.nan)
    with pytest.raises(
        LimitsError, match=r"dark has no amplifier with a zero point and live time: .* --set MAGZP1S=25"
    ):
        measure_limits([dark], judged, SETTINGS)
    cube = write_search(tmp_path / "cube", quadrant=None)
    with pytest.raises(LimitsError, match=r"cube holds image cubes; rates are known for continuous readout alone"):
        measure_limits([cube], judged, SETTINGS)
    pd.read_parquet(cube / "amplifiers.parquet").drop(columns="deg2_hours").to_parquet(cube / "amplifiers.parquet")
    with pytest.raises(LimitsError, match=r"does not say how much sky it saw: .* search again with --resume"):
        measure_limits([cube], judged, SETTINGS)
    events = pd.read_parquet(judged / "events.parquet")
    events.assign(flux_e_s=np.nan).to_parquet(judged / "events.parquet")
    with pytest.raises(LimitsError, match=r"judged has no brightening with a duration and an amplitude"):
        measure_limits([search], judged, SETTINGS)
    events.drop(columns="flux_e_s").to_parquet(judged / "events.parquet")
    with pytest.raises(LimitsError, match=r"has no flux_e_s: an older version wrote it; evaluate again"):
        measure_limits([search], judged, SETTINGS)


@pytest.mark.parametrize("borders", [(1.0,), (1.0, 1.0), (2.0, 1.0)])
def test_borders_of_cells_rise(borders):
    with pytest.raises(SettingsError, match=r"are not two or more numbers, each above the one before it"):
        LimitsSettings(durations_s=borders)


def test_tables_have_units_and_read_back(tmp_path, judged):
    limits = measure_limits([write_search(tmp_path / "s")], judged, SETTINGS)
    write_limits(limits, tmp_path)
    table = Table.read(tmp_path / "limits.ecsv")
    assert str(table["rate_high"].unit) == "1 / (d deg2)"
    assert table.meta["kinds"] == ["burst", "flare"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "limits.parquet"), limits.table, check_dtype=False)
    assert pd.read_csv(tmp_path / "limits.csv")["rate_high"][0] == pytest.approx(limits.table["rate_high"][0])


def test_the_command_writes_tables_figure_and_page(tmp_path, judged):
    search = write_search(tmp_path / "s", durations=[0.05])
    out = tmp_path / "rates"
    arguments = ["limits", str(search), "--evaluation", str(judged), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--set", "limits.magnitudes=[10, 12]"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 deg² day searched" in result.output
    assert "lowest limit: " in result.output
    assert {path.name for path in out.iterdir()} == {
        *("limits.parquet", "limits.csv", "limits.ecsv", "limits.png", "limits.svg", "limits.html")
    }
    page = (out / "limits.html").read_text()
    for text in (
        "Tomo-e Gozen",
        "W-FAST",
        "arxiv.org/abs/2011.03497",
        "Cells without a rate",
        "no event of the evaluation",
    ):
        assert text in page


def test_a_search_says_how_much_sky_it_saw(tiny_camera, busy_frames, tmp_path):
    arguments = ["search", *map(str, busy_frames), "--model", "template-bank", "--instrument", tiny_camera]
    result = CliRunner().invoke(app, [*arguments, "--no-dask", "-q", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_parquet(tmp_path / "amplifiers.parquet")
    # 64 columns times 50 rows of a transit, for the live time; of the 6,000 rows the first 50 see half of it
    area = 64 * 50 * (table["pixel_scale_arcsec"] / 3600) ** 2
    steady = table["first_row"] > 50
    assert table.loc[steady, "deg2_hours"].to_list() == pytest.approx((area * table["live_hours"])[steady].to_list())
    share = 1 - 0.51 * 50 / table["n_rows"]
    assert table.loc[~steady, "deg2_hours"].to_list() == pytest.approx(
        (area * share * table["live_hours"])[~steady].to_list(), rel=1e-3
    )
    assert table["zero_point_mag"].notna().all()
