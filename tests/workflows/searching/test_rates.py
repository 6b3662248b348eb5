"""One rate of false alarms per amplifier-hour for cameras of any size: each amplifier has its own threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR, Readout
from shutterless.pipeline.reading.segments import FileSpan, Segment
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.searching.search import SearchError, SearchJob, assemble, describe_rate, find_curve
from shutterless.workflows.searching.segment_search import ExposureRecord, SearchedSegment
from shutterless.workflows.settings.settings import SearchSettings

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, first_row=0, ccd=1, quadrant=1, sequence="s")
SLOW = replace(READOUT, row_rate_hz=20.0, n_transit=1024)
# 1,000 alarms in an hour of ZTF, of scores 10.00 down to 0.01
CURVE = RateCurve(np.arange(1000, 0, -1) / 100, live_hours=1.0)


def searched(name: str, readout: Readout, n_columns: int, scores: list[float]) -> SearchedSegment:
    """A segment with one trigger for each score."""
    span = FileSpan(Path(f"/frames/{name}.fits"), 0, 5000, 0)
    rows = 100 * np.arange(1, len(scores) + 1)
    triggers = pd.DataFrame({"x": 10.0, "row_start": rows, "row_stop": rows + 2, "row_peak": rows + 1})
    triggers = triggers.assign(y=0.0, snr=scores, amplitude_e=1.0, veto="", exposure=0, width_rows=3.0)
    triggers["streak_id"] = pd.array([None] * len(scores), dtype="Int64")
    triggers["bank/score"] = scores
    streaks = pd.DataFrame({column: pd.Series(dtype=float) for column in STREAK_COLUMNS})
    numbers = {"pixel_rows_per_hour": readout.pixel_rows_per_hour(n_columns)}
    exposure = ExposureRecord(readout, (span,), 1, numbers, streaks)
    return SearchedSegment(Segment(name, 1, (span,), (0, 5000)), (exposure,), triggers, (), "")


PARTS = [searched("wide", READOUT, 3072, [9.6, 9.4, 8.0]), searched("slow", SLOW, 1024, [9.6, 9.4, 8.0])]


@pytest.fixture
def job(tmp_path) -> SearchJob:
    settings = SearchSettings(false_alarms_per_hour=20.0)
    return SearchJob("template-bank", tmp_path, settings, Detector("bank", None), CURVE, None, None, None, {})


def test_each_amplifier_is_cut_at_the_rate_of_its_own_hour(job):
    """20 an hour of ZTF lie above 9.81; 20 of a camera of a 45th of the pixel-rows are 900 of ZTF, above 1.01."""
    assert [job.threshold(part.exposures[0].numbers["pixel_rows_per_hour"]) for part in PARTS] == [9.81, 1.01]
    candidates, _ = assemble(PARTS, "bank", job.threshold)
    assert candidates["file"].tolist() == ["slow.fits"] * 3
    assert job.lowest_threshold(PARTS) == 1.01
    assert job.lowest_threshold(PARTS[:1]) == 9.81
    assert job.lowest_threshold([]) == 9.81


def test_a_rate_that_the_curve_cannot_tell_is_noted_for_the_camera_it_is_searched_with(job):
    assert job.describe_rates(PARTS) == []
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


def test_a_detector_without_a_curve_is_refused(tmp_path):
    with pytest.raises(SearchError, match="holds no false-alarm curve, so no threshold is known for 50 per"):
        find_curve(Detector("own", str(tmp_path)), 50.0)
