"""One rate of false alarms per amplifier-hour for cameras of any size: each amplifier has its own threshold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR, Readout
from shutterless.pipeline.reading.segments import FileSpan, Segment
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.searching.frame_rates import (
    SURE_EVENT,
    FrameRates,
    _number_trails_apart,
    distinct_scores,
    fit_frame_rates,
    join_parts,
    segment_hours,
)
from shutterless.workflows.searching.search import SearchError, SearchJob, assemble, describe_rate, find_curve
from shutterless.workflows.searching.segment_search import ExposureRecord, SearchedSegment
from shutterless.workflows.settings.settings import SearchSettings

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, first_row=0, ccd=1, quadrant=1, sequence="s")
SLOW = replace(READOUT, row_rate_hz=20.0, n_transit=1024)
# 1,000 alarms in an hour of ZTF, of scores 10.00 down to 0.01
CURVE = RateCurve(np.arange(1000, 0, -1) / 100, live_hours=1.0)


def searched(
    name: str, readout: Readout, n_columns: int, scores: Sequence[float], hours: float = 0.001, first: int = 0
) -> SearchedSegment:
    """A segment with one trigger for each score."""
    n_rows = 100 * len(scores) + 5000
    span = FileSpan(Path(f"/frames/{name}.fits"), 0, n_rows, first)
    rows = first + 100 * np.arange(1, len(scores) + 1)
    triggers = pd.DataFrame({"x": 10.0, "row_start": rows, "row_stop": rows + 2, "row_peak": rows + 1})
    triggers = triggers.assign(y=0.0, snr=scores, amplitude_e=1.0, veto="", exposure=0, width_rows=3.0)
    triggers["streak_id"] = pd.array([None] * len(scores), dtype="Int64")
    triggers["bank/score"] = scores
    streaks = pd.DataFrame({column: pd.Series(dtype=float) for column in STREAK_COLUMNS})
    per_hour = readout.pixel_rows_per_hour(n_columns)
    numbers = {"pixel_rows_per_hour": per_hour, "live_pixel_rows": round(hours * per_hour)}
    exposure = ExposureRecord(readout, (span,), 1, numbers, streaks)
    return SearchedSegment(
        Segment(name, readout.quadrant, (span,), (first, first + n_rows)), (exposure,), triggers, (), ""
    )


PARTS = [searched("wide", READOUT, 3072, [9.6, 9.4, 8.0]), searched("slow", SLOW, 1024, [9.6, 9.4, 8.0])]


@pytest.fixture
def job(tmp_path) -> SearchJob:
    settings = SearchSettings(false_alarms_per_hour=20.0)
    return SearchJob("template-bank", tmp_path, settings, Detector("bank", None), CURVE, None, None, None, {})


def find(
    parts: list[SearchedSegment], curve: RateCurve | None = CURVE, asked: float = 20.0, prior: float | None = None
):
    """Rates of some parts and the candidates."""
    joined = join_parts(parts)
    rates = fit_frame_rates(parts, joined, "bank", asked, curve)
    return rates, assemble(parts, joined, "bank", rates, events_per_hour=prior)[0]


def test_each_amplifier_is_cut_at_the_rate_of_its_own_hour(job):
    """20 an hour of ZTF lie above 9.81; 20 of a camera of a 45th of the pixel-rows are 900 of ZTF, above 1.01."""
    rates, candidates = find(PARTS)
    assert [rates.threshold(part) for part in PARTS] == [9.81, 1.01]
    assert candidates["file"].tolist() == ["slow.fits"] * 3
    assert job.lowest_threshold(rates) == 1.01
    assert job.lowest_threshold(find(PARTS[:1])[0]) == 9.81
    assert job.lowest_threshold(FrameRates(20.0, {}, {}, {})) == 9.81


def noisy(rng, quadrant: int, hours: float, scale: float = 0.5, lowest: float = 5.0, **where) -> SearchedSegment:
    """A segment with 12,000 alarms an hour that fall by e in ``scale``."""
    scores = lowest + rng.exponential(scale, round(12_000 * hours))
    return searched(f"noisy_{quadrant}", replace(READOUT, quadrant=quadrant), 3072, list(scores), hours, **where)


def test_a_threshold_comes_from_the_frames_that_are_searched():
    """50 an hour lie above 5 + 0.5 ln(12000 / 50) = 7.74; the stored curve would say 9.5."""
    rng = np.random.default_rng(3)
    parts = [noisy(rng, quadrant, 0.5) for quadrant in (1, 2, 3, 4)]
    rates, candidates = find(parts, asked=50.0)
    assert list(rates.rates) == ["s_c01_q1", "s_c01_q2", "s_c01_q3", "s_c01_q4"]
    assert list(rates.thresholds.values()) == pytest.approx([7.74] * 4, abs=0.25)
    assert rates.expected == pytest.approx(100, rel=1e-3)
    assert 65 < len(candidates) < 140
    assert (candidates["false_alarm_rate"] <= 50.0001).all()
    for _, amplifier in candidates.assign(height=candidates["snr"]).groupby("quadrant"):
        falling = amplifier.sort_values("height", ascending=False)["false_alarm_rate"]
        assert falling.is_monotonic_increasing


def test_the_prior_rate_of_events_gives_a_posterior():
    rng = np.random.default_rng(8)
    parts = [noisy(rng, quadrant, 0.5) for quadrant in (1, 2)]
    curve = replace(CURVE, event_scores=rng.normal(9, 1.5, 500))
    posteriors = [find(parts, curve, 50.0, prior)[1]["posterior"] for prior in (1.0, 100.0)]
    assert (posteriors[0] < posteriors[1]).all()
    assert find(parts, curve, 50.0)[1]["posterior"].isna().all()
    assert find(parts, CURVE, 50.0, 100.0)[1]["posterior"].isna().all()


def test_a_detector_that_does_not_know_events_gives_no_posterior(tmp_path):
    settings = SearchSettings(events_per_hour=100.0)
    with pytest.raises(SearchError, match=r"template-bank does not say what events score, so search.events_per_hour"):
        SearchJob.prepare("template-bank", tmp_path, settings)


def test_one_flooded_amplifier_does_not_flood_the_table():
    rng = np.random.default_rng(4)
    quiet = [noisy(rng, quadrant, 0.05) for quadrant in (1, 2, 3)]
    rates, candidates = find([*quiet, noisy(rng, 4, 0.05, scale=4.0, lowest=30.0)], asked=50.0)
    others, _ = find([*quiet, noisy(rng, 4, 0.05)], asked=50.0)
    assert (candidates["quadrant"] == 4).sum() <= 10  # 2.5 are expected
    for name in list(rates.rates)[:3]:
        assert rates.rates[name].threshold(50.0) == pytest.approx(others.rates[name].threshold(50.0), abs=0.4)


def test_rates_do_not_depend_on_the_order_of_rows_within_a_part():
    rng = np.random.default_rng(5)
    parts = [noisy(rng, quadrant, 0.02) for quadrant in (1, 2)]
    mixed = [replace(part, triggers=part.triggers.iloc[::-1].reset_index(drop=True)) for part in parts]
    assert find(parts)[0] == find(mixed)[0]


def test_two_segments_of_an_amplifier_have_one_threshold_and_their_own_rows_count_once():
    rng = np.random.default_rng(6)
    first, second = noisy(rng, 1, 0.02), noisy(rng, 1, 0.02, first=50_000)
    series = [replace(part, segment=replace(part.segment, series="s")) for part in (first, second)]
    rates, _ = find(series)
    assert rates.threshold(series[0]) == rates.threshold(series[1])
    assert list(rates.rates) == ["s_c01_q1"]
    assert rates.live_hours["s_c01_q1"] == pytest.approx(0.04)
    n_rows = series[0].segment.own[1]
    half = replace(series[0], segment=replace(series[0].segment, own=(0, n_rows // 2)))
    assert segment_hours(half) == pytest.approx(0.01, rel=1e-3)


def test_one_cause_counts_once_and_what_is_vetoed_or_on_a_trail_does_not():
    part = searched("one", READOUT, 3072, [9.0, 8.0, 7.0, 6.0])
    triggers = part.triggers
    assert distinct_scores(triggers, "bank").tolist() == [9, 8, 7, 6]
    triggers["row_start"] = [100, 101, 900, 901]  # two pairs at one column
    triggers["row_stop"] = triggers["row_start"] + 2
    assert distinct_scores(triggers, "bank").tolist() == [9, 7]
    apart = triggers.assign(x=[10.0, 50.0, 10.0, 50.0])
    assert distinct_scores(apart, "bank").tolist() == [9, 8, 7, 6]
    trail = pd.array([3, 3, None, None], dtype="Int64")
    assert distinct_scores(apart.assign(trail_id=trail), "bank").tolist() == [9, 7, 6]
    vetoed = apart.assign(**{"bank/score": [-np.inf, 8.0, 7.0, -np.inf]})
    assert distinct_scores(vetoed, "bank").tolist() == [8, 7]
    assert distinct_scores(pd.DataFrame({"exposure": []}), "bank").tolist() == []


def test_two_cameras_that_share_a_sequence_are_two_amplifiers():
    rates, _ = find(PARTS)
    assert list(rates.rates) == ["s_c01_q1", "s_c01_2_q1"]
    assert rates.names == {PARTS[0].segment.name: "s_c01_q1", PARTS[1].segment.name: "s_c01_2_q1"}


def test_the_record_keeps_what_was_asked_and_what_is_expected(job):
    rng = np.random.default_rng(7)
    parts = [noisy(rng, quadrant, 0.05) for quadrant in (1, 2)]
    candidates, rates, *_ = job.write(parts, pd.DataFrame(), {})
    kept = json.loads((job.out / "search.json").read_text())
    assert kept["threshold"] == min(rates.thresholds.values())
    counted = kept["rates"]
    assert (counted["asked_per_hour"], counted["candidates"]) == (20.0, len(candidates))
    assert counted["expected_false_alarms"] == pytest.approx(20 * 0.1, rel=1e-3)
    assert {name: one["threshold"] for name, one in counted["amplifiers"].items()} == rates.thresholds
    table = pd.read_parquet(job.out / "amplifiers.parquet")
    assert table["threshold"].tolist() == list(rates.thresholds.values())
    assert table["live_hours"].sum() == pytest.approx(0.1, rel=1e-3)
    assert table["threshold_error"].between(0.05, 1).all()
    assert rates.describe(len(candidates)).startswith(
        f"20 false alarms per amplifier-hour asked, 2 expected in 0.1 amplifier-hours, {len(candidates)} candidates; "
        "thresholds from the scores of 2 of 2 amplifiers, each rate known to a factor of "
    )


def test_a_search_by_the_stored_curve_is_as_it_was(job):
    rng = np.random.default_rng(8)
    parts = [noisy(rng, quadrant, 0.05) for quadrant in (1, 2)]
    stored = replace(job, settings=replace(job.settings, own_rates=False))
    assert stored.lowest_threshold(stored.fit_rates(parts, join_parts(parts))) == CURVE.threshold(20.0)[0]
    assert stored.describe_rates(PARTS, find(PARTS)[0]) == []


def test_a_threshold_that_many_triggers_raise_is_said(job):
    """Triggers of 20 σ, above the stored 9.8: events, or a sky that the curve does not know."""
    rng = np.random.default_rng(4)
    parts = [searched(f"p{k}", READOUT, 3072, sorted(20 + 3 * rng.exponential(size=200)), 0.05) for k in range(2)]
    rates = job.fit_rates(parts, join_parts(parts))
    (line,) = job.describe_rates(parts, rates)
    assert re.match(r"\d+ triggers are above the stored threshold of 9\.8\d?, but below those of the frames' own", line)
    assert line.endswith("search again with --set search.own_rates=false")
    calm = [noisy(rng, quadrant, 0.2) for quadrant in (1, 2)]
    assert job.describe_rates(calm, job.fit_rates(calm, join_parts(calm))) == []


def test_a_detector_without_a_curve_needs_enough_frames(job, tmp_path):
    rng = np.random.default_rng(9)
    fresh = replace(job, curve=None, detector=Detector("bank", str(tmp_path)))
    parts = [noisy(rng, quadrant, 0.2) for quadrant in (1, 2)]
    rates = fresh.fit_rates(parts, join_parts(parts))
    assert list(rates.thresholds.values()) == pytest.approx([5 + 0.5 * np.log(12_000 / 20)] * 2, abs=0.6)
    assert fresh.describe_rates(parts, rates) == []
    for few in (PARTS, [*parts, PARTS[1]], []):
        with pytest.raises(SearchError, match=r"so no threshold is known for 20 per .* frames are too few to tell it"):
            fresh.fit_rates(few, join_parts(few))


def test_a_rate_that_the_curve_cannot_tell_is_noted_for_the_camera_it_is_searched_with(job):
    assert job.describe_rates(PARTS, find(PARTS)[0]) == []
    rare = replace(job, settings=SearchSettings(false_alarms_per_hour=0.1))
    assert len(rare.describe_rates(PARTS, find(PARTS)[0])) == 2
    wide, slow = PIXEL_ROWS_PER_HOUR, SLOW.pixel_rows_per_hour(1024)
    assert describe_rate(CURVE, 5.0, slow) is None
    assert describe_rate(CURVE, 5.0, wide) == (
        "5 false alarms per amplifier-hour is extrapolated: 1000 alarms were counted in 1 amplifier-hours"
    )
    assert describe_rate(CURVE, 50.0, wide) is None
    assert describe_rate(CURVE, 50.0, slow) == (
        "50 false alarms per amplifier-hour is more than is known: 1000 in 45 amplifier-hours are all, so the search "
        "has 22.2"
    )


def test_the_curve_of_the_template_bank_says_what_its_hours_are():
    curve = find_curve(Detector("template-bank", None), 50.0)
    assert curve.pixel_rows_per_hour == PIXEL_ROWS_PER_HOUR
    assert curve.threshold(50.0, READOUT.pixel_rows_per_hour(3072)) == curve.threshold(50.0)


def test_a_detector_without_a_curve_is_refused_where_only_a_curve_can_tell(tmp_path):
    with pytest.raises(SearchError, match="holds no false-alarm curve, so no threshold is known for 50 per"):
        find_curve(Detector("own", str(tmp_path)), 50.0)
    (tmp_path / "config.json").write_text('{"model_type": "shutterless-mlp"}')
    with pytest.raises(SearchError, match="holds no false-alarm curve, so no threshold is known for 50 per"):
        SearchJob.prepare(str(tmp_path), tmp_path / "out", SearchSettings(own_rates=False))


def test_trails_of_two_segments_and_exposures_are_numbered_apart():
    """Every exposure numbers its trails from 0; one without any, and one without triggers, change nothing."""
    first = pd.DataFrame({"exposure": [0, 0, 1], "trail_id": pd.array([0, None, 0], dtype="Int64")})
    lone = pd.DataFrame({"exposure": [0], "trail_id": pd.array([None], dtype="Int64")})
    empty = pd.DataFrame({"exposure": pd.Series(dtype="int64")})
    numbered = _number_trails_apart([SimpleNamespace(triggers=table) for table in (first, lone, empty, first)])
    assert [table["trail_id"].dropna().tolist() for table in numbered if len(table)] == [[0, 1], [], [2, 3]]
    assert numbered[0]["trail_id"].isna().tolist() == [False, True, False]


def test_causes_that_are_events_for_sure_are_no_noise():
    """Five triggers far apart; the detector is sure of two of them."""
    rows = np.arange(5) * 1000
    triggers = pd.DataFrame(
        {"exposure": 0, "x": 10.0, "y": 0.0, "row_start": rows, "row_stop": rows + 5, "width_rows": 6.0}
    ).assign(**{"m/score": [1.0, 2.0, 3.0, 4.0, 5.0], "m/probability": [0.1, 0.95, SURE_EVENT, 0.2, 0.99]})
    assert distinct_scores(triggers, "m").tolist() == [4.0, 3.0, 1.0]
    unknown = triggers.assign(**{"m/probability": np.nan})  # as of the template bank
    assert distinct_scores(unknown, "m").tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert distinct_scores(triggers.assign(**{"m/probability": 1.0}), "m").tolist() == []
