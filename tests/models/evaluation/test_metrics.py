"""False alarms, thresholds, completeness and loss: by hand, from textbooks, and against a simulated truth."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from shutterless.models.evaluation.metrics import (
    OPTIMUM_THRESHOLDS,
    OperatingPoint,
    RateCurve,
    apart_table,
    bootstrap_events,
    cluster_detections,
    completeness_table,
    event_scores,
    false_alarm_curve,
    fit_rho50,
    match_entries,
    operating_point,
    optimum_threshold,
    poisson_interval,
    summarise,
    wilson_interval,
)
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR, Readout


def detections(*rows):
    return pd.DataFrame(rows, columns=["entry", "x", "row_start", "row_stop", "width_rows"])


def truth(*rows):
    names = ["entry", "kind", "is_event", "x", "row_start", "row_stop", "rho"]
    return pd.DataFrame(rows, columns=names)


FOUND = detections(
    ("a", 10.0, 100, 103, 4.0),
    ("a", 13.0, 106, 107, 2.0),  # 3 px and three rows from the first, whose width is 4
    ("a", 16.0, 106, 107, 2.0),  # 6 px from the first, 3 px from the second
    ("a", 10.0, 108, 109, 1.0),  # five rows after the first, one after the second
    ("a", 40.0, 100, 103, 4.0),
    ("b", 10.0, 100, 103, 4.0),
)
EVENTS = truth(
    ("a", "burst", True, 40.0, 100, 102, 9.0),
    ("b", "cosmic_ray", False, 10.0, 101, 101, 50.0),
    ("b", "flare", True, 500.0, 200, 300, 12.0),
    ("a", "glint", True, 900.0, 5, 9, 30.0),
)


def test_clusters_by_hand():
    assert cluster_detections(FOUND.iloc[[0, 4, 5]]).tolist() == [0, 1, 2]
    assert cluster_detections(FOUND.iloc[[0, 1]]).tolist() == [0, 0]
    assert cluster_detections(FOUND.iloc[[0, 2]]).tolist() == [0, 1]
    assert cluster_detections(FOUND.iloc[[0, 3]]).tolist() == [0, 1]
    assert cluster_detections(FOUND).tolist() == [0, 0, 0, 0, 1, 2]  # a chain is one cluster
    assert cluster_detections(FOUND.iloc[:0]).tolist() == []


def test_clusters_do_not_depend_on_the_order():
    label = cluster_detections(FOUND.iloc[[5, 2, 4, 0, 3, 1]])
    assert len(set(label)) == 3
    assert label[[1, 3, 4, 5]].tolist() == [label[1]] * 4


def test_entries_are_matched_apart():
    assert match_entries(FOUND, EVENTS).tolist() == [-1, -1, -1, -1, 0, 1]
    assert match_entries(FOUND, EVENTS.iloc[:0]).tolist() == [-1] * 6


def test_false_alarms_by_hand():
    """Two clusters match no event: four detections with a best score of 7, and the cosmic ray's."""
    score = np.array([5.0, 7.0, 6.0, 5.5, 20.0, 9.0])
    curve = false_alarm_curve(FOUND, score, EVENTS, live_hours=2.0)
    assert curve.scores.tolist() == [9, 7]
    assert curve.live_hours == 2
    vetoed = false_alarm_curve(FOUND, np.array([5.0, -np.inf, 6.0, 5.5, 20.0, -np.inf]), EVENTS, 2.0)
    assert vetoed.scores.tolist() == [6, 5.5, 5]  # without the one between them, three are clusters of their own
    assert false_alarm_curve(FOUND.iloc[:0], np.empty(0), EVENTS, 2.0).scores.size == 0


def test_operating_point_of_five_alarms():
    """The fifth highest of eight scores; 5 in two hours with the Poisson interval of 5, 1.62 to 11.67."""
    curve = RateCurve(np.array([9.0, 8.5, 8, 7, 6.5, 6, 5.5, 5]), live_hours=2.0)
    point = operating_point(curve, 5)
    assert (point.threshold, point.false_alarms, point.rate_per_hour) == (6.5, 5, 2.5)
    assert (point.rate_low, point.rate_high) == pytest.approx((0.81, 5.83), abs=0.005)
    assert point.extrapolated
    assert np.sum(curve.scores >= point.threshold) == 5


def test_operating_point_of_a_quiet_detector():
    few = operating_point(RateCurve(np.array([9.0, 8.0]), 2.0), 10)
    assert (few.threshold, few.false_alarms, few.extrapolated) == (8, 2, True)
    silent = operating_point(RateCurve(np.empty(0), 2.0), 10)
    assert (silent.threshold, silent.false_alarms, silent.rate_low) == (-np.inf, 0, 0)
    assert silent.rate_high == pytest.approx(3.689 / 2, abs=1e-3)
    assert not operating_point(RateCurve(np.arange(20.0, 0, -1), 2.0), 10).extrapolated


def test_threshold_at_a_rate():
    """100 scores 100, 99, … 1 in two hours: 10 an hour are 20 alarms, and the twentieth is 81."""
    curve = RateCurve(np.arange(100.0, 0, -1), live_hours=2.0)
    assert curve.threshold(10) == (81, False)
    assert curve.threshold(5) == (91, False)
    assert curve.threshold(1000) == (1, False)
    assert curve.threshold(4.9) == (91, False)  # 9.8 alarms are ten
    assert curve.threshold(4.7)[1]
    assert RateCurve(np.array([9.0, 8, 7]), 1.0).threshold(2) == (8, True)  # too few to fit a tail to
    assert RateCurve(np.array([9.0, 8, 7]), 1.0).threshold(0.1) == (9, True)
    assert RateCurve(np.empty(0), 1.0).threshold(3) == (-np.inf, True)


def test_rate_of_another_camera_is_converted_by_its_pixel_rows():
    """A tenth of the pixel-rows an hour: an alarm an hour there is ten an hour here, and has their threshold."""
    curve = RateCurve(np.arange(100.0, 0, -1), live_hours=2.0, pixel_rows_per_hour=1e9)
    assert curve.hours_of(1e8) == 20
    assert curve.threshold(1, 1e8) == curve.threshold(10) == curve.threshold(10, 1e9) == (81, False)
    assert curve.threshold(0.1, 1e8)[1]
    assert optimum_threshold(5.0, PIXEL_ROWS_PER_HOUR / 10) == pytest.approx(optimum_threshold(50.0))


def test_fifty_an_hour_of_1024_columns_at_20_rows_a_second_are_2250_of_ztf():
    slow = Readout(20.0, 6.2, 10.0, 48_000.0, 1024).pixel_rows_per_hour(1024)
    curve = RateCurve(np.arange(3000.0, 0, -1), live_hours=1.0)
    assert curve.threshold(50.0, slow) == curve.threshold(2250.0) == (751, False)
    assert Readout(300.0, 6.2, 10.0, 48_000.0, 3080).pixel_rows_per_hour(3072) == PIXEL_ROWS_PER_HOUR


def test_tail_of_exponential_scores():
    """1,000 per hour above 5, an e-fold every 0.2: one per hour is at 5 + 0.2 ln 1000 = 6.38."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        curve = RateCurve(np.sort(5 + rng.exponential(0.2, 2000))[::-1], live_hours=2.0)
        threshold, extrapolated = curve.threshold(1.0)
        assert extrapolated
        found.append(threshold)
    expected = 5 + 0.2 * np.log(1000)
    assert np.mean(found) == pytest.approx(expected, abs=0.03)
    # the mean excess of 30 scores is known to 1/√30 and extrapolated over ln(30 / 2) e-folds; likewise the lowest
    assert np.std(found) == pytest.approx(0.2 * np.sqrt((np.log(15) ** 2 + 1) / 30), rel=0.3)


def test_rarer_alarms_need_higher_thresholds():
    curve = RateCurve(np.sort(np.random.default_rng(1).exponential(1.0, 300))[::-1], 1.0)
    thresholds = [curve.threshold(rate)[0] for rate in (0.01, 0.1, 1, 5, 9, 20, 100, 300)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_rate_curve_survives_json():
    curve = RateCurve(np.arange(1000.0, 0, -1), live_hours=1.5)
    back = RateCurve.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert back.live_hours == 1.5
    np.testing.assert_array_equal(back.scores, curve.scores[:500])
    assert back.threshold(100) == curve.threshold(100)
    assert RateCurve.from_dict(curve.to_dict(3)).scores.tolist() == [1000, 999, 998]
    narrow = RateCurve(curve.scores, 1.5, pixel_rows_per_hour=1e8)
    assert RateCurve.from_dict(narrow.to_dict()).pixel_rows_per_hour == 1e8
    events = RateCurve(curve.scores, 1.5, event_scores=np.array([9.0, 2.0]))
    assert RateCurve.from_dict(events.to_dict()).event_scores.tolist() == [9, 2]
    assert RateCurve.from_dict({"scores": [], "live_hours": 1.0}).pixel_rows_per_hour == PIXEL_ROWS_PER_HOUR


def test_optimum_at_the_points_of_its_table():
    for rate, threshold in OPTIMUM_THRESHOLDS:
        assert optimum_threshold(rate) == pytest.approx(threshold, abs=1e-9)


def test_optimum_between_and_beyond():
    """The threshold falls with the rate everywhere, and linearly with its logarithm between points."""
    rates = np.geomspace(1e-3, 1e5, 200)
    thresholds = np.array([optimum_threshold(rate) for rate in rates])
    assert np.all(np.diff(thresholds) < 0)
    (rate_a, a), (rate_b, b) = OPTIMUM_THRESHOLDS[:2]
    assert optimum_threshold(np.sqrt(rate_a * rate_b)) == pytest.approx((a + b) / 2)
    step = a - b  # beyond the table, as steep as at its end
    assert optimum_threshold(rate_a**2 / rate_b) == pytest.approx(a + step)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 3.69), (1, 0.025, 5.57), (10, 4.80, 18.39)])
def test_poisson_intervals(count, low, high):
    """Garwood 1936; the upper limit for no count is -ln 0.025."""
    assert poisson_interval(count) == pytest.approx((low, high), abs=0.005)


def test_wilson_intervals():
    """Wilson 1927: 5 of 10; none of 10 reaches z² / (n + z²)."""
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-4)
    low, high = wilson_interval(np.array([0.0, 5.0]), np.array([10.0, 10.0]))
    np.testing.assert_allclose(low, [0, 0.2366], atol=5e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634], atol=5e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 1.96**2 / (10 + 1.96**2)))
    assert wilson_interval(10, 10) == pytest.approx((1 - 1.96**2 / (10 + 1.96**2), 1))


def test_wilson_intervals_of_means_over_seeds_lie_between_those_of_counts():
    low, high = wilson_interval(np.array([7, 7.5, 8]), 20)
    assert low[0] < low[1] < low[2]
    assert high[0] < high[1] < high[2]


def test_event_scores_by_hand():
    """Artefacts and glints are not counted; an event has the best of its detections, or none."""
    found = pd.concat([FOUND, detections(("a", 41.0, 101, 101, 1.0), ("a", 900.0, 5, 9, 4.0))], ignore_index=True)
    scored = event_scores(found, np.array([1.0, 1, 1, 1, 6, 9, 8, 7]), EVENTS)
    assert scored["kind"].tolist() == ["burst", "flare"]
    assert scored["score"].tolist() == [8, -np.inf]


def test_endless_kinds_count_for_no_completeness_and_are_reported_separately():
    """An eclipse, one of two flickering stars, and the burst on a star are found; the orphan burst is not."""
    table = truth(
        ("a", "eclipse", True, 40.0, 100, 102, 900.0),
        ("a", "flickering", True, 10.0, 0, 9000, 50.0),
        ("b", "flickering", True, 500.0, 0, 9000, 50.0),
        ("b", "burst", True, 10.0, 101, 101, 9.0),
        ("b", "burst", True, 800.0, 101, 101, 9.0),
        ("b", "glint", True, 700.0, 101, 101, 9.0),
    ).assign(star_id=[4, 7, 8, 3, -1, -1])
    score = np.full(len(FOUND), 6.0)
    assert event_scores(FOUND, score, table)["kind"].tolist() == ["burst", "burst"]
    apart = apart_table(FOUND, score, table, 5.0)
    assert apart[["kind", "n", "found", "fraction"]].to_numpy().tolist() == [
        ["eclipse", 1, 1, 1.0],
        ["flickering", 2, 1, 0.5],
        ["burst on a star", 1, 1, 1.0],
        ["orphan burst", 1, 0, 0.0],
    ]
    assert apart[["low", "high"]].iloc[1].tolist() == pytest.approx(wilson_interval(1, 2))
    assert apart_table(FOUND, score, table, 7.0)["found"].sum() == 0
    assert apart_table(FOUND, np.full(len(FOUND), -np.inf), table, -np.inf)["found"].sum() == 0
    assert apart_table(FOUND, score, EVENTS, 5.0).empty  # no endless kind, and no column of stars


def events(rho, score, kind="burst", entry="a"):
    return pd.DataFrame({"entry": entry, "kind": kind, "rho": rho, "score": score})


def test_completeness_of_three_of_four():
    """The bin is 6 to 7; a score equal to the threshold passes, and rho = 7 belongs to the next bin."""
    table = completeness_table(events([6, 6.2, 6.5, 6.9, 7.0], [5, 9, 8, 4.9, 0.0], ["burst"] * 3 + ["flare"] * 2), 5.0)
    whole = table[table["kind"] == "all"]
    assert whole[["rho_low", "rho_high", "n", "found", "completeness"]].to_numpy().tolist() == [
        [6, 7, 4, 3, 0.75],
        [7, 8, 1, 0, 0],
    ]
    assert whole[["low", "high"]].iloc[0].tolist() == pytest.approx(wilson_interval(3, 4))
    assert table[["kind", "n", "found"]].to_numpy().tolist()[2:] == [["burst", 3, 3], ["flare", 1, 0], ["flare", 1, 0]]


def test_no_events_give_an_empty_table():
    assert completeness_table(events([], []), 5.0).empty


def simulated(n, rng, rho50=6.5, width=1.0):
    rho = rng.uniform(3, 12, n)
    return rho, rng.random(n) < ndtr((rho - rho50) / width)


@pytest.mark.parametrize(("rho50", "width"), [(6.5, 1.0), (5.8, 0.5), (8.0, 2.0)])
def test_half_of_simulated_events(rho50, width):
    """The median of ``Φ((rho - rho50) / width)`` from 4,000 events, accurate to two per cent."""
    rho, found = simulated(4000, np.random.default_rng(0), rho50, width)
    assert fit_rho50(rho, found) == pytest.approx(rho50, rel=0.02)


def test_bounds_of_the_half_point_stay_within_the_events():
    """Two in three of few events are found at any S/N, so that a fit reaches 50 % far outside, at some S/N below 0."""
    rng = np.random.default_rng(8)
    rho, found = rng.uniform(5, 20, 30), rng.random(30) < 0.67
    events = pd.DataFrame({"rho": rho, "score": np.where(found, 9.0, 1.0), "entry": "a"})
    point = OperatingPoint(5.0, 1, 1.0, 1.0, 0.1, 3.0, False)
    summary = summarise(events, point, bootstrap_events(events, 100, seed=1), eta=5.0)
    assert rho.min() <= summary["rho50_low"] <= summary["rho50_high"] <= rho.max()
    assert not summary["rho50"] <= 0


def test_half_is_unknown_where_all_or_none_were_found():
    rho = np.array([5.0, 6, 7])
    assert np.isnan(fit_rho50(rho, np.ones(3, bool)))
    assert np.isnan(fit_rho50(rho, np.zeros(3, bool)))


def point_at(threshold):
    return OperatingPoint(threshold, 10, 1.0, 10.0, 4.8, 18.4, False)


def test_loss_is_nothing_at_the_optimum():
    """A detector that measures rho ± 1 and has the optimum's threshold: rho50 = eta; 10 % above it, 0.103 mag."""
    rng = np.random.default_rng(3)
    rho = rng.uniform(3, 12, 4000)
    table = events(rho, rho + rng.standard_normal(4000), entry=[f"e{i % 20}" for i in range(4000)])
    samples = bootstrap_events(table, 20, seed=0)
    at_optimum = summarise(table, point_at(6.4), samples, eta=6.4)
    assert at_optimum["loss_mag"] == pytest.approx(0, abs=0.02)
    assert at_optimum["rho50_low"] < at_optimum["rho50"] < at_optimum["rho50_high"]
    assert at_optimum["rho50_low"] < 6.4 < at_optimum["rho50_high"]
    assert at_optimum["completeness_low"] < at_optimum["completeness"] < at_optimum["completeness_high"]
    assert at_optimum["n_events"] == 4000
    higher = summarise(table, point_at(1.1 * 6.4), samples[:2], eta=6.4)
    assert higher["loss_mag"] == pytest.approx(2.5 * np.log10(1.1), abs=0.02)


def test_loss_is_unknown_where_nothing_was_found():
    table = events([5.0, 6, 7], [1.0, 2, 3])
    summary = summarise(table, point_at(9.0), bootstrap_events(table, 5, 0), eta=6.4)
    assert (summary["completeness"], summary["completeness_low"], summary["completeness_high"]) == (0, 0, 0)
    assert all(np.isnan(summary[name]) for name in ("rho50", "rho50_low", "rho50_high", "loss_mag"))


def test_bootstrap_keeps_what_shares_a_frame_together():
    """Of twelve frames with three events each, every drawn frame is complete."""
    table = events(np.arange(36.0), np.zeros(36), entry=[f"e{i % 12:02d}" for i in range(36)])
    for rows in bootstrap_events(table, 10, seed=1):
        assert len(rows) == 36
        times = np.bincount(rows, minlength=36).reshape(3, 12)
        assert np.all(times == times[0])


def test_bootstrap_of_few_frames_resamples_events():
    table = events(np.arange(30.0), np.zeros(30), entry=["a"] * 15 + ["b"] * 15)
    first, again = bootstrap_events(table, 4, seed=1), bootstrap_events(table, 4, seed=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(a) == 30
        assert 10 < len(set(a)) < 30
        assert min(a) < 15 <= max(a)


def test_bootstrap_interval_covers_the_spread():
    """100 events, half found: completeness 0.5 ± 0.05, so the 95 % interval is about 0.2 wide."""
    table = events(np.full(100, 6.0), np.arange(100.0), entry=[f"e{i}" for i in range(100)])
    samples = bootstrap_events(table, 400, seed=2)
    fractions = [np.mean(table["score"].to_numpy()[rows] >= 50) for rows in samples]
    low, high = np.quantile(fractions, [0.025, 0.975])
    assert high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.2)
