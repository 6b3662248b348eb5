"""Groups of events and the fates of lost ones, solved in the head."""

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.groups import (
    class_accuracy,
    event_fates,
    group_differences,
    group_events,
    group_table,
    is_found,
    loss_table,
    mark_blends,
)

ENTRIES = ["a", "a", "b", "b", "c", "c"]


def events(**columns):
    """Six events on three amplifiers, 100 columns apart, at rows 100 to 109."""
    table = pd.DataFrame({"entry": ENTRIES, "x": np.arange(6) * 100.0, "row_start": 100, "row_stop": 109})
    table["kind"] = ["flare", "burst", "occultation", "flare", "burst", "burst"]
    table["rho"] = [5.0, 6.0, 6.9, 7.0, 8.0, 14.0]
    table["score"] = [-np.inf, -np.inf, 3.0, 9.0, 4.0, 9.0]
    return table.assign(**columns)


def triggers(*rows):
    """Triggers at (event they lie on, score, kind)."""
    own = events()
    found = pd.DataFrame(
        [(own["entry"][i], own["x"][i] + 1, 102, 105, 4.0, score, kind) for i, score, kind in rows],
        columns=["entry", "x", "row_start", "row_stop", "width_rows", "score", "kind"],
    )
    return found


# none on the first event, a vetoed one on the second
TRIGGERS = triggers(
    (1, -np.inf, None), (2, 3.0, "burst"), (3, 9.0, "flare"), (3, 2.0, "burst"), (4, 4.0, "flare"), (5, 9.0, "burst")
)


def test_a_blend_has_another_star_near_that_is_not_much_fainter():
    """Star 0 at x = 10 with one 5 px away and 2 mag fainter; star 2 with one 4 px away, but 2.1 mag fainter."""
    stars = pd.DataFrame(
        {"entry": "a", "star_id": [0, 1, 2, 3], "x": [10.0, 15.0, 50.0, 54.0], "mag": [12.0, 14.0, 12.0, 14.1]}
    )
    on = pd.DataFrame({"entry": ["a", "a", "a", "a", "b"], "star_id": [0, 1, 2, -1, 0]})
    on["star_mag"] = [12.0, 14.0, 12.0, np.nan, 12.0]
    assert mark_blends(on, stars).tolist() == [True, True, False, False, False]


def test_groups_in_the_head():
    own = events(
        duration_s=[0.5, 0.9, 1.0, 3.0, 0.1, 0.1], star_id=[3, -1, 4, 5, -1, 6], n_rows=1000,
        star_mag=[11.9, np.nan, 12.0, 9.0, np.nan, 15.0], blended=[True, False, False, False, False, True],
    )  # fmt: skip
    found = {name: np.flatnonzero(member).tolist() for name, member in group_events(own).items()}
    assert found == {
        "all": [0, 1, 2, 3, 4, 5],
        "shorter than 1 s": [0, 1, 4, 5],
        "1 s and longer": [2, 3],
        "on stars brighter than 12": [0, 3],
        "on blended stars": [0, 5],
        "orphans": [1, 4],
        "kind burst": [1, 4, 5],
        "kind flare": [0, 3],
        "kind occultation": [2],
        "shapes outside the bank": [2],
    }


def test_an_event_that_the_file_cuts_has_a_shape_outside_the_bank():
    """Ten rows long: it is cut if less than one row is left before the first or after the last."""
    own = events(kind="burst", row_start=[0, 1, 89, 90, 91, 40], row_stop=[9, 10, 98, 99, 99, 49], n_rows=100)
    assert group_events(own)["shapes outside the bank"].tolist() == [True, False, False, True, True, False]


def test_groups_that_a_truth_table_says_nothing_of_are_left_out():
    assert list(group_events(events())) == [
        "all", "kind burst", "kind flare", "kind occultation", "shapes outside the bank",
    ]  # fmt: skip


def test_group_table_counts_what_is_found():
    """At 4: one of two flares, two of three bursts, no occultation. Wilson: 0 of 1 is 0 to 0.793."""
    table = group_table(events(), 4.0, [np.arange(6)] * 3).set_index("group")
    assert table[["n", "found"]].loc[["all", "kind flare", "kind burst"]].to_numpy().tolist() == [
        [6, 3],
        [2, 1],
        [3, 2],
    ]
    assert table.loc["kind occultation", ["n", "completeness"]].tolist() == [1, 0.0]
    assert table.loc["kind occultation", "high"] == pytest.approx(0.793, abs=0.001)


def test_the_interval_of_a_group_is_that_of_the_amplifiers():
    """All found on one amplifier and none on the others: samples of amplifiers reach from 0 to 1."""
    own = events(kind="burst", score=[9.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    samples = [np.array([0, 1] * 3), np.array([2, 3] * 3), np.arange(6)]
    whole = group_table(own, 4.0, samples).set_index("group").loc["all"]
    assert whole["completeness"] == pytest.approx(1 / 3)
    assert whole["low"] < 0.02
    assert whole["high"] > 0.96


def test_an_event_without_a_finite_score_is_found_at_no_threshold():
    assert is_found(events(), -np.inf).tolist() == [False, False, True, True, True, True]


def test_fates_in_the_head():
    fates = event_fates(TRIGGERS, events(), 4.0).tolist()
    assert fates == ["no trigger", "gated", "below threshold", "found", "found", "found"]


def test_losses_are_split_at_a_signal_to_noise_of_seven():
    table = loss_table(TRIGGERS, events(), 4.5)
    assert table.to_numpy().tolist() == [["below 7", 3, 0, 1, 1, 1], ["7 and above", 3, 2, 0, 0, 1]]
    assert list(table.columns) == ["rho", "n", "found", "no trigger", "gated", "below threshold"]


def test_kinds_are_judged_on_found_events_between_seven_and_nine():
    """ρ 7 is a flare and said to be one by its higher trigger; ρ 8 is a burst and said to be a flare."""
    score, kind = TRIGGERS["score"].to_numpy(), TRIGGERS["kind"].to_numpy(dtype=object)
    assert class_accuracy(TRIGGERS, score, kind, events(), 4.0) == (1, 2)
    assert class_accuracy(TRIGGERS, score, kind, events(), 5.0) == (1, 1)


def test_a_detector_without_kinds_is_not_judged_by_them():
    score, kind = TRIGGERS["score"].to_numpy(), np.full(len(TRIGGERS), None)
    assert class_accuracy(TRIGGERS, score, kind, events(), 4.0) == (0, 0)


def test_differences_are_those_of_the_same_events_in_the_same_samples():
    """Two of six events more in all; in samples of the first and of the last three events, 2/3 and 0."""
    found, other = (np.array(list(bits), dtype=int).astype(bool) for bits in ("111001", "100001"))
    samples = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    table = group_differences(events(), found, other, samples).set_index("group")
    assert table.loc["all", ["n", "more", "error"]].tolist() == pytest.approx([6, 1 / 3, 1 / 3])
    assert table.loc["kind burst", ["n", "more", "error"]].tolist() == pytest.approx([3, 1 / 3, 0.5])
    assert table.loc["kind flare", ["n", "more"]].tolist() == [2, 0]
    assert np.isnan(group_differences(events(), found, other, []).loc[0, "error"])
