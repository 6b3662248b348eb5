"""Candidates: names, times and groups computed in the head; tables on disk with units, even if empty."""

import json
from dataclasses import replace
from importlib.metadata import version

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table
from astropy.time import Time

from shutterless.pipeline.calibration.streaks.shared_onsets import share_onsets
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.candidates import (
    CANDIDATE_DESCRIPTIONS,
    CANDIDATE_TYPES,
    CANDIDATE_UCDS,
    DetectedIn,
    build_candidates,
    empty_candidates,
    join_candidates,
    write_candidates,
)
from shutterless.pipeline.results.file_places import FilePlace

from ..conftest import streak_table

# a detector row every 1/300 s, 3,080 of them to the register
CLOCK = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, 0, "2026-03-04T05:06:07", "night", ccd=3, quadrant=2)


def detections(*rows):
    """Detections at (x, first row, last row, peak row, S/N, streak)."""
    names = ["x", "row_start", "row_stop", "row_peak", "snr", "streak_id"]
    table = pd.DataFrame(rows, columns=names).astype({"streak_id": "Int64"})
    return table.assign(amplitude_e=500.0, veto="")


def build(*rows, readout=CLOCK, streaks=None, file="frame_0001.fits.fz", **columns):
    streaks = streak_table(((12.5, 1000.0), (300.0, 400.0))) if streaks is None else streaks
    table = detections(*rows).assign(**columns)
    return build_candidates(table, streaks, readout, file=file, model="bank")


def test_candidate_in_the_head():
    """Row 3300 is read at 11 s; the star stands 300 rows from the register, so its light came at 10 s."""
    streaks = streak_table(((12.5, 1000.0),)).assign(y0=300.0)
    row = build((12.5, 3299, 3304, 3300, 7.5, 0), streaks=streaks).iloc[0]
    assert row["candidate_id"] == row["group_id"] == "frame_0001_c03_q2_x0012.50_r0003300"
    assert (row["file"], row["model"]) == ("frame_0001.fits.fz", "bank")
    assert (row["ccd"], row["quadrant"], row["streak_id"]) == (3, 2, 0)
    assert row["duration_s"] == 0.02  # six rows
    assert row["time_read_utc"] == "2026-03-04T05:06:18.000000"
    assert row["time_event_min_utc"] == row["time_event_max_utc"] == "2026-03-04T05:06:17.000000"
    assert row["star_mag"] == pytest.approx(24.49 - 2.5 * np.log10(300_000))
    assert pd.isna(row["y"])
    assert pd.isna(row["kind"])
    assert np.isnan(row["probability"])
    assert np.isnan(row["time_archive"])


def test_unknown_row_leaves_one_transit():
    """Without y0 light of row 3300 came between row 220, a transit earlier, and row 3300; before row 0 nothing came."""
    table = build((12.5, 3299, 3304, 3300, 7.5, 0), (77.0, 599, 604, 600, 8.0, None))
    assert table["time_event_min_utc"].tolist() == ["2026-03-04T05:06:07.733333", "2026-03-04T05:06:07.000000"]
    assert table["time_event_max_utc"].tolist() == table["time_read_utc"].tolist()
    assert table["time_read_utc"][1] == "2026-03-04T05:06:09.000000"
    assert table["streak_id"].isna().tolist() == [False, True]
    assert np.isnan(table["star_mag"][1])


def test_what_peaks_before_the_streak_begins_is_not_that_stars():
    """Row 675 is read at 2.25 s; the streak of a star 2,844 rows from the register begins in row 2844."""
    streaks = streak_table(((12.5, 1000.0),)).assign(y0=2844.0)
    before, after = build((12.5, 674, 677, 675, 7.5, 0), (12.5, 2843, 2847, 2844, 7.5, 0), streaks=streaks).itertuples()
    assert pd.isna(before.streak_id)
    assert np.isnan(before.star_mag)
    assert (before.time_event_min_utc, before.time_event_max_utc) == (
        "2026-03-04T05:06:07.000000", "2026-03-04T05:06:09.250000",
    )  # fmt: skip
    assert after.streak_id == 0
    assert after.time_event_min_utc == after.time_event_max_utc == "2026-03-04T05:06:07.000000"


def test_a_candidate_has_the_name_of_its_star_in_the_catalogue():
    streaks = streak_table(((12.5, 1000.0), (40.5, 1000.0))).assign(name=["KIC 1", ""])
    rows = (12.5, 100, 104, 102, 7.5, 0), (40.5, 100, 104, 102, 7.5, 1), (60.0, 100, 104, 102, 7.5, pd.NA)
    assert build(*rows, streaks=streaks)["star_name"].fillna("-").tolist() == ["KIC 1", "-", "-"]
    assert build(*rows)["star_name"].isna().all()


def test_what_the_model_says_is_kept():
    table = build((12.5, 1, 2, 1, 7.5, 0), probability=0.75, kind="flare", kind_probability=0.5)
    assert table[["probability", "kind", "kind_probability"]].iloc[0].tolist() == [0.75, "flare", 0.5]


def test_a_trail_is_named_by_file_and_amplifier_and_missing_without_one():
    rows = [(12.5, 1, 2, 1, 7.5, 0), (30.0, 1, 2, 1, 7.5, None)]
    table = build(*rows, trail_id=pd.array([4, None], dtype="Int64"))
    assert table["trail_id"][0] == "frame_0001_c03_q2_t0004"
    assert table["trail_id"].isna().tolist() == [False, True]
    assert build(*rows)["trail_id"].isna().all()


def test_without_a_clock_there_is_no_utc():
    readout = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)
    row = build((12.5, 1, 2, 1, 7.5, 0), readout=readout).iloc[0]
    assert (row["time_read_utc"], row["time_event_min_utc"], row["time_event_max_utc"]) == ("", "", "")
    assert pd.isna(row["ccd"])
    assert row["candidate_id"] == "frame_0001_c00_q0_x0012.50_r0000001"


def test_candidates_of_several_amplifiers_at_once_are_those_of_each():
    """Two frames with streaks of their own, one of them with trails, and a cube, whose candidates have a row."""
    streaks = streak_table(((12.5, 1000.0), (300.0, 400.0))).assign(y0=300.0)
    named = streaks.assign(name=["a", ""], star_flag=["", "blended"], ra=1.0)
    cube = replace(CLOCK, n_transit=0, ccd=None, quadrant=None)
    places = [
        DetectedIn(streaks, CLOCK, "a.fits", place=FilePlace("/night/a.fits", 1, 9000, 3072)),
        DetectedIn(named, replace(CLOCK, quadrant=3), "b.fits"),
        DetectedIn(streaks.iloc[:0], cube, "cube.fits", n_y=5),
    ]
    found = detections(
        (12.5, 3299, 3304, 3300, 7.5, 0), (40.0, 10, 20, 15, 6.0, None),
        (300.0, 3299, 3304, 3301, 7.0, 1), (12.5, 3299, 3304, 3301, 7.0, 0), (3.0, 7, 8, 7, -9.0, None),
    ).assign(trail_id=pd.array([None, None, 2, None, None], dtype="Int64"), y=2.2, probability=0.5)  # fmt: skip
    alone = [
        build_candidates(part, one.streaks, one.readout, file=one.file, model="bank", n_y=one.n_y, place=one.place)
        for part, one in zip((found[:2], found[2:4], found[4:]), places, strict=True)
    ]
    joined = join_candidates(found, list(zip((2, 2, 1), places, strict=True)), model="bank")
    pd.testing.assert_frame_equal(joined, pd.concat(alone, ignore_index=True), check_exact=True)
    assert joined["trail_id"].tolist() == [pd.NA, pd.NA, "b_c03_q3_t0002", pd.NA, pd.NA]
    assert joined["star_name"].tolist() == [pd.NA, pd.NA, pd.NA, "a", pd.NA]
    assert joined["y"].tolist() == [pd.NA, pd.NA, pd.NA, pd.NA, 2]


def test_no_detections_give_an_empty_table_with_all_columns():
    assert list(build().columns) == list(CANDIDATE_TYPES)
    assert build().dtypes.astype(str).to_dict() == empty_candidates().dtypes.astype(str).to_dict() == CANDIDATE_TYPES


def test_onsets_reach_the_later_files_of_a_sequence():
    """Within 0.7 px and a factor 1.4 in flux, in the same sequence and quadrant."""
    ramp = streak_table(((10.0, 1000.0), (10.5, 100.0), (50.0, 400.0))).assign(y0=[111.0, 222.0, np.nan])
    later = streak_table(((10.3, 900.0), (10.4, 130.0), (50.0, 400.0), (11.3, 1000.0), (9.8, 2000.0)))
    elsewhere = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, 9000, None, "other", ccd=3, quadrant=2)
    beside = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, 9000, None, "night", ccd=3, quadrant=1)
    unclocked = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, None, None, "night", ccd=3, quadrant=2)
    readouts = {"a": CLOCK, "b": CLOCK, "c": elsewhere, "d": beside, "e": unclocked}
    shared = share_onsets({"a": ramp, "b": later, "c": later, "d": later, "e": later}, readouts)
    np.testing.assert_array_equal(shared["b"]["y0"], [111, 222, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(shared["a"]["y0"], ramp["y0"])
    for entry in "cde":
        assert shared[entry]["y0"].isna().all()
    assert later["y0"].isna().all()


def test_known_onsets_are_kept():
    ramp = streak_table(((10.0, 1000.0),)).assign(y0=111.0)
    own = streak_table(((10.0, 1000.0), (10.1, 1000.0))).assign(y0=[7.0, np.nan])
    shared = share_onsets({"a": ramp, "b": own}, {"a": CLOCK, "b": CLOCK})
    assert shared["b"]["y0"].iloc[0] == 7
    assert shared["b"]["y0"].notna().all()


def test_tables_come_back(tmp_path):
    table = build((12.5, 3299, 3304, 3300, 7.5, 0), (77.0, 599, 604, 600, -8.0, None), probability=[0.9, 0.6])
    parquet, ecsv = write_candidates(table, tmp_path / "new" / "folder", {"threshold": 0.5, "out": tmp_path})
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), table)
    assert sorted(path.name for path in parquet.parent.iterdir()) == ["candidates.ecsv", "candidates.parquet"]
    back = Table.read(ecsv, format="ascii.ecsv")
    assert back.colnames == list(CANDIDATE_TYPES)
    assert (back["duration_s"].unit, back["amplitude_e"].unit, back["x"].unit) == (u.s, u.electron, u.pix)
    assert back["star_mag"].unit == u.mag
    assert back["streak_id"].mask.tolist() == [False, True]
    assert back["y"].mask.all()
    assert back["row_peak"].tolist() == [3300, 600]
    assert back["candidate_id"].tolist() == table["candidate_id"].tolist()
    np.testing.assert_array_equal(back["snr"], [7.5, -8.0])
    assert json.loads(back.meta["settings"]) == {"threshold": 0.5, "out": str(tmp_path)}


def test_empty_tables_have_all_columns_and_units(tmp_path):
    parquet, ecsv = write_candidates(empty_candidates(), tmp_path, {})
    assert pd.read_parquet(parquet).dtypes.astype(str).to_dict() == CANDIDATE_TYPES
    back = Table.read(ecsv, format="ascii.ecsv")
    assert len(back) == 0
    assert back.colnames == list(CANDIDATE_TYPES)
    assert back["duration_s"].unit == u.s
    assert back["candidate_id"].dtype.kind == "U"
    assert back["streak_id"].dtype.kind == "i"


def test_both_files_say_what_their_columns_are_and_what_made_them(tmp_path):
    """Units and descriptions, times as times, missing ones masked; in Parquet all of it in the metadata."""
    timed = build((12.5, 3299, 3304, 3300, 7.5, 0))
    untimed = build((12.5, 1, 2, 1, 7.5, None), readout=Readout(300.0, 6.2, 10.0, 48_000.0, 3080))
    parquet, ecsv = write_candidates(pd.concat([timed, untimed], ignore_index=True), tmp_path, {"threshold": 0.5})
    back = Table.read(ecsv)
    assert isinstance(back["time_read"], Time)
    assert back["time_read"].mask.tolist() == [False, True]
    assert back["time_read"][0].isot == back["time_read_utc"][0] == "2026-03-04T05:06:18.000000"
    assert [back[name].info.description for name in back.colnames] == list(CANDIDATE_DESCRIPTIONS.values())
    assert back["kind"].mask.all()
    schema = pq.read_schema(parquet)
    assert schema.field("time_event_min").type == pa.timestamp("us", tz="UTC")
    assert schema.field("time_read_utc").type in (pa.string(), pa.large_string())
    assert schema.field("duration_s").metadata[b"unit"] == b"s"
    assert schema.field("false_alarm_rate").metadata[b"unit"] == b"1 / h"
    assert back["ra"].info.meta["ucd"] == "pos.eq.ra;meta.main"
    assert all(schema.field(name).metadata[b"description"] for name in CANDIDATE_TYPES)
    assert json.loads(schema.metadata[b"settings"]) == {"threshold": 0.5}
    assert schema.metadata[b"shutterless"].decode() == version("shutterless")
    again = Table.read(parquet)
    assert again.colnames == list(CANDIDATE_TYPES)
    assert (again["duration_s"].unit, again["fits_x"].unit) == (u.s, u.pix)
    assert again["x"].description == CANDIDATE_DESCRIPTIONS["x"]
    assert again["candidate_id"].tolist() == back["candidate_id"].tolist()


def test_every_column_has_a_description_and_a_ucd_in_its_order():
    assert list(CANDIDATE_DESCRIPTIONS) == list(CANDIDATE_UCDS) == list(CANDIDATE_TYPES)
    odd = {name: ucd for name, ucd in CANDIDATE_UCDS.items() if not check_ucd(ucd, check_controlled_vocabulary=True)}
    assert odd == {}


def test_writing_twice_replaces_the_tables(tmp_path):
    write_candidates(build((12.5, 3299, 3304, 3300, 7.5, 0)), tmp_path, {})
    parquet, ecsv = write_candidates(empty_candidates(), tmp_path, {})
    assert pd.read_parquet(parquet).empty
    assert len(Table.read(ecsv, format="ascii.ecsv")) == 0
