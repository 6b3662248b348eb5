"""Detectors at the same counted rate, with fields as groups: solved in the head."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from shutterless.models.evaluation.matched_rates import (
    Draws,
    Fields,
    count_detector,
    draw_samples,
    interval,
    judge_at_rate,
    optimum_completeness,
)
from shutterless.models.evaluation.metrics import optimum_threshold

ALARM_SCORES = list(range(20, 0, -1))


def three_amplifiers():
    """One event-free amplifier of an hour with alarms of scores 1 to 20, and two fields with three events each."""
    rows = [("free", 10.0, 100 * i, float(i)) for i in ALARM_SCORES]
    rows += [("one", 100.0 * i, 50, score) for i, score in enumerate((30.0, 12.0, 11.0))]
    rows += [("two", 100.0 * i, 50, score) for i, score in enumerate((30.0, 5.0, 4.0))]
    detections = pd.DataFrame(rows, columns=["entry", "x", "row_start", "d/score"])
    detections = detections.assign(row_stop=detections["row_start"] + 3, width_rows=4.0)
    truth = detections[detections["entry"] != "free"].drop(columns="d/score")
    truth = truth.assign(kind="burst", is_event=True, rho=[9.0, 8.0, 4.9] * 2).reset_index(drop=True)
    entries = pd.DataFrame(
        {"entry": ["free", "one", "two"], "field": ["f0", "f1", "f2"], "live_hours": [1.0, 1.0, 1.0]}
    )
    return Fields(detections, truth, entries)


def halves():
    fields = three_amplifiers()
    return fields.event_free(), fields.with_events()


def test_event_free_fields_are_those_without_an_event_on_any_amplifier():
    fields = three_amplifiers()
    same_field = Fields(fields.detections, fields.truth, fields.entries.assign(field=["f1", "f1", "f2"]))
    assert fields.event_free().entries["entry"].tolist() == ["free"]
    assert fields.with_events().entries["entry"].tolist() == ["one", "two"]
    assert same_field.event_free().entries.empty


def test_entries_left_out_take_their_time_triggers_and_truth_along():
    rest = three_amplifiers().without(pd.Series(["free", "one"]))
    assert (rest.live_hours, len(rest.detections), len(rest.truth)) == (1.0, 3, 3)


def test_threshold_and_completeness_at_a_rate_in_the_head():
    """Ten of twenty alarms in an hour: the threshold is 11; of the four events above ρ = 5 it keeps 30, 12 and 30."""
    free, busy = halves()
    counts = count_detector(free, busy, "d", (5.0, 15.0))
    result = judge_at_rate(counts, free, busy, 10.0, draw_samples(free, busy, 20, 1))
    assert (result.threshold, result.false_alarms, result.extrapolated) == (11.0, 10, False)
    assert result.completeness == 0.75


def test_fewer_than_ten_alarms_are_marked():
    free, busy = halves()
    counts = count_detector(free, busy, "d", (5.0, 15.0))
    assert judge_at_rate(counts, free, busy, 2.0, draw_samples(free, busy, 20, 1)).extrapolated


def test_samples_are_of_whole_fields_in_the_head():
    """Field f1 twice finds both of its events above ρ = 5 (30 and 12), f2 twice one of two."""
    free, busy = halves()
    counts = count_detector(free, busy, "d", (5.0, 15.0))
    once = np.array([[1], [1], [1]])
    draws = Draws(np.array(["f0"]), once, np.array(["f1", "f2"]), np.array([[2, 0], [0, 2], [1, 1]]))
    assert judge_at_rate(counts, free, busy, 10.0, draws).samples.tolist() == [1.0, 0.5, 0.75]


def test_samples_hold_the_error_of_the_threshold():
    """Two event-free fields with alarms 20 to 11 and 10 to 1: whichever is drawn twice sets the threshold."""
    fields = three_amplifiers()
    detections = fields.detections.copy()
    detections.loc[detections["d/score"] < 11, "entry"] = detections["entry"].replace("free", "free2")
    entries = pd.concat([fields.entries, pd.DataFrame({"entry": ["free2"], "field": ["f3"], "live_hours": [1.0]})])
    fields = Fields(detections, fields.truth, entries.reset_index(drop=True))
    free, busy = fields.event_free(), fields.with_events()
    counts = count_detector(free, busy, "d", (5.0, 15.0))
    free_draws, busy_draws = np.array([[2, 0], [0, 2], [1, 1]]), np.ones((3, 2), dtype=int)
    draws = Draws(np.array(["f0", "f3"]), free_draws, np.array(["f1", "f2"]), busy_draws)
    # ten alarms in two hours: each of the five highest counted twice, so 16, 6, and once each 11
    assert judge_at_rate(counts, free, busy, 5.0, draws).samples.tolist() == [0.5, 0.75, 0.75]


def test_no_alarm_at_all_keeps_every_event():
    free, busy = halves()
    quiet = Fields(free.detections[:0], free.truth, free.entries)
    counts = count_detector(quiet, busy, "d", (5.0, 15.0))
    result = judge_at_rate(counts, quiet, busy, 50.0, draw_samples(quiet, busy, 5, 1))
    assert (result.threshold, result.false_alarms, result.completeness) == (-np.inf, 0, 1.0)
    assert result.samples.tolist() == [1.0] * 5


def test_drawn_fields_are_as_many_as_there_are_and_the_same_again():
    free, busy = halves()
    draws = draw_samples(free, busy, 50, 7)
    assert (draws.busy.sum(axis=1) == 2).all()
    np.testing.assert_array_equal(draws.busy, draw_samples(free, busy, 50, 7).busy)


def test_interval_leaves_out_samples_without_an_event():
    assert interval(np.array([np.nan, 0.5, 0.5])) == (0.5, 0.5)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_optimum_finds_half_of_the_events_at_its_threshold():
    eta = optimum_threshold(50.0)
    assert optimum_completeness(np.array([eta]), 50.0) == pytest.approx(0.5)
    assert optimum_completeness(np.array([eta - 1, eta + 1]), 50.0) == pytest.approx((ndtr(-1) + ndtr(1)) / 2)
    assert np.isnan(optimum_completeness(np.array([]), 50.0))
