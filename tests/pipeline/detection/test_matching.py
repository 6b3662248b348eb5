"""Detections are matched with truth rows; every result can be found in the head."""

import pandas as pd
import pytest

from shutterless.pipeline.detection.matching import match_truth, number_groups


def detections(*rows):
    return pd.DataFrame(rows, columns=["x", "row_start", "row_stop", "width_rows"])


def truth(*rows):
    return pd.DataFrame(rows, columns=["x", "row_start", "row_stop", "rho"])


EVENT = truth((100.0, 200, 209, 10.0))


@pytest.mark.parametrize(
    ("detection", "matched"),
    [
        ((100.0, 200, 209, 10.0), 0),
        ((103.0, 205, 205, 1.0), 0),
        ((103.01, 205, 205, 1.0), -1),
        ((96.99, 205, 205, 1.0), -1),
        ((100.0, 211, 212, 2.0), 0),
        ((100.0, 212, 213, 2.0), -1),
        ((100.0, 197, 198, 2.0), 0),
        ((100.0, 196, 197, 2.0), -1),
        ((100.0, 0, 4000, 4001.0), 0),
    ],
)
def test_borders_of_a_match(detection, matched):
    """Within 3 px, and within one width of the template before row 200 and after row 209."""
    assert match_truth(detections(detection), EVENT).tolist() == [matched]


def test_four_rows_of_truth():
    """Two events in one place: the detection matches the stronger. One is elsewhere, one in other rows."""
    table = truth((50, 100, 110, 8.0), (51, 105, 115, 9.0), (300, 100, 110, 99.0), (50, 3000, 3001, 5.0))
    found = detections(
        (50.5, 107, 108, 2.0), (49, 100, 101, 2.0), (300, 104, 104, 1.0), (51, 3001, 3003, 3.0), (8, 1, 1, 1.0)
    )
    # the second detection ends in row 101, two rows before the stronger event's reach of rows 103 to 117
    assert match_truth(found, table).tolist() == [1, 0, 2, 3, -1]
    assert match_truth(found, table.iloc[::-1]).tolist() == [2, 3, 1, 0, -1]


def test_index_of_the_tables_does_not_matter():
    found = detections((100.0, 205, 205, 1.0), (5.0, 205, 205, 1.0)).set_index(pd.Index([7, 3]))
    assert match_truth(found, EVENT.set_index(pd.Index([42]))).tolist() == [0, -1]


def test_empty_tables():
    assert match_truth(detections(), EVENT).tolist() == []
    assert match_truth(detections((100.0, 205, 205, 1.0)), truth()).tolist() == [-1]


def test_pairs_join_groups_through_others():
    """0 is joined to 3 through 5; 1 and 2 are isolated, 4 is paired with itself."""
    assert number_groups([(5, 3), (0, 5), (4, 4)], 6).tolist() == [0, 1, 2, 0, 3, 0]
    assert number_groups([], 2).tolist() == [0, 1]
    assert number_groups([], 0).tolist() == []
