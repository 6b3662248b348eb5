"""Causes near the border of two segments appear once in their joined tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.detection.overlaps import join_overlaps

OWNS = [(0, 1000), (1000, 2000), (2000, 3000)]


def triggers(*peaks: float, x: float = 50.0, snr: float = 8.0, half: int = 10) -> pd.DataFrame:
    """Triggers of one column at some rows, each ``half`` rows to either side of its peak."""
    peak = np.array(peaks, dtype=np.int64)
    return pd.DataFrame({"x": x, "snr": snr, "row_start": peak - half, "row_stop": peak + half, "row_peak": peak})


def peaks(tables: list[pd.DataFrame]) -> list[list[int]]:
    return [table["row_peak"].tolist() if len(table) else [] for table in tables]


def test_overlap_is_kept_by_its_owner():
    """Both segments see rows 800 to 1200, with the same peaks."""
    seen = [300, 850, 990, 1000, 1100], [850, 990, 1000, 1100, 1700]
    kept = join_overlaps([triggers(*rows) for rows in seen], OWNS[:2])
    assert peaks(kept) == [[300, 850, 990], [1000, 1100, 1700]]


def test_own_rows_are_half_open():
    kept = join_overlaps([triggers(999, 1000, half=0), triggers(999, 1000, half=0)], OWNS[:2])
    assert peaks(kept) == [[999], [1000]]


@pytest.mark.parametrize(("first", "second", "kept"), [(9.0, 8.0, [[995], []]), (8.0, 9.0, [[], [1005]])])
def test_peak_that_both_own_is_kept_by_the_stronger(first, second, kept):
    assert peaks(join_overlaps([triggers(995, snr=first), triggers(1005, snr=second)], OWNS[:2])) == kept


@pytest.mark.parametrize(("first", "second", "kept"), [(9.0, 8.0, [[1005], []]), (8.0, 9.0, [[], [995]])])
def test_peak_that_neither_owns_is_kept_by_the_stronger(first, second, kept):
    assert peaks(join_overlaps([triggers(1005, snr=first), triggers(995, snr=second)], OWNS[:2])) == kept


def test_dips_are_compared_by_their_depth():
    tables = [triggers(995, snr=-9.0), triggers(1005, snr=-8.0)]
    assert peaks(join_overlaps(tables, OWNS[:2])) == [[995], []]


def test_equally_strong_ones_are_kept_once():
    assert peaks(join_overlaps([triggers(995), triggers(1005)], OWNS[:2])) == [[995], []]
    assert peaks(join_overlaps([triggers(1005), triggers(995)], OWNS[:2])) == [[1005], []]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"snr": -9.0}, id="a dip is no brightening"),
        pytest.param({"x": 54.0}, id="four columns away"),
        pytest.param({"half": 2}, id="no common row"),
    ],
)
def test_different_causes_are_both_kept(other):
    tables = [triggers(995, half=2), triggers(1005, **{"half": 20, **other})]
    assert peaks(join_overlaps(tables, OWNS[:2])) == [[995], [1005]]


def test_three_columns_away_is_the_same_cause():
    assert peaks(join_overlaps([triggers(995, x=50.0), triggers(1005, x=53.0)], OWNS[:2])) == [[995], []]


def test_nearest_peaks_are_one_cause():
    """Two long events overlap each other; each is paired with itself, so that both stay, once."""
    tables = [triggers(980, 1002, half=30, snr=9.0), triggers(980, 998, half=30, snr=8.0)]
    assert peaks(join_overlaps(tables, OWNS[:2])) == [[980, 1002], []]


def test_nearest_peaks_are_one_cause_whatever_their_order():
    """998 and 996 are one cause, 1003 and 1004 another. Pairing 998 with 1003 would keep one of the events twice."""
    tables = [triggers(998, 1004, snr=9.0), triggers(1003, 996, snr=8.0)]
    assert peaks(join_overlaps(tables, OWNS[:2])) == [[998], [1003]]


def test_one_cause_beside_several_is_paired_once():
    """Of two triggers of the second segment the nearer has the cause of the first segment's; the other stays."""
    tables = [triggers(995, snr=9.0), triggers(1003, 1008, snr=8.0)]
    assert peaks(join_overlaps(tables, OWNS[:2])) == [[995], [1008]]


def test_three_segments_in_a_row():
    seen = [100, 998, 1100], [900, 1003, 1500, 2004], [1997, 2500]
    tables = [triggers(*rows, snr=snr) for rows, snr in zip(seen, (9.0, 8.0, 7.0), strict=True)]
    # 998 and 1003 are one cause that both own, 2004 and 1997 one that neither does; 900 and 1100 are the others'
    assert peaks(join_overlaps(tables, OWNS)) == [[100, 998], [1500, 2004], [2500]]


def test_segments_beyond_a_gap_are_left_alone():
    assert peaks(join_overlaps([triggers(10), triggers(5010)], [(0, 1000), (5000, 6000)])) == [[10], [5010]]


def test_every_cause_of_many_stays_once():
    """Peaks of the same events, found twice around the border and up to three rows apart."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        true = np.sort(rng.choice(np.arange(820, 1180, 12), 15, replace=False))
        tables = []
        for _ in range(2):
            table = triggers(*(true + rng.integers(-3, 4, true.size)), half=4)
            tables.append(table.assign(snr=rng.uniform(7, 20, true.size)))
        kept = np.sort(np.concatenate([table["row_peak"] for table in join_overlaps(tables, OWNS[:2])]))
        assert kept.size == true.size
        assert np.abs(kept - true).max() <= 3


def test_what_else_a_table_holds_is_kept_and_the_input_left_as_it_is():
    tables = [triggers(300, 995).assign(name=["a", "b"]), triggers(1005, 1500).assign(name=["c", "d"])]
    before = [table.copy() for table in tables]
    kept = join_overlaps(tables, OWNS[:2])
    assert [table["name"].tolist() for table in kept] == [["a", "b"], ["d"]]
    assert [table.index.tolist() for table in kept] == [[0, 1], [0]]
    for table, copy in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(table, copy)


@pytest.mark.parametrize("empty", [triggers(), pd.DataFrame({"run": pd.Series(dtype="int64")})])
def test_segments_without_a_trigger(empty):
    assert peaks(join_overlaps([triggers(990), empty, triggers(2500)], OWNS)) == [[990], [], [2500]]
    assert peaks(join_overlaps([empty], OWNS[:1])) == [[]]
    assert join_overlaps([], []) == []
