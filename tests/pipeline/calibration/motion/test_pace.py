"""Times of the air as rows: at 300 rows/s what everything was tuned on, at other rates as long in seconds."""

from __future__ import annotations

from shutterless.pipeline.calibration.motion.model import LIGHT, SHIFT, WIDTH
from shutterless.pipeline.calibration.motion.pace import MotionPace
from shutterless.pipeline.reading.readout import Readout


def pace_at(row_rate_hz: float) -> MotionPace:
    return MotionPace.of(Readout(row_rate_hz, 6.2, 10.0, 48_000.0, 3080))


def test_pace_at_300_rows_a_second_is_what_was_tuned():
    pace = pace_at(300.0)
    assert pace.shared_windows == {LIGHT: (5, 15, 45, 135), SHIFT: (1, 5, 15), WIDTH: (1, 5, 15, 45)}
    assert pace.outlier_windows == (1, 9, 65, 513)
    assert pace.still_lags == (1, 2, 4, 8)
    assert (pace.n_own_windows, pace.coarse_rows, pace.refine_rows, pace.min_anchor_rows) == (6, 4, 12, 512)
    assert pace.baseline_blocks == 256


def test_fast_rows_have_longer_windows():
    pace = pace_at(1000.0)
    assert pace.shared_windows[LIGHT] == (17, 51, 153, 459)
    assert pace.outlier_windows == (1, 31, 217, 1711)
    assert pace.still_lags == (3, 7, 13, 27)
    # 5 to 257 rows: 513 would be longer than 0.43 s
    assert (pace.n_own_windows, pace.coarse_rows, pace.refine_rows, pace.min_anchor_rows) == (7, 13, 40, 1707)


def test_slow_rows_have_few_windows_and_enough_samples():
    pace = pace_at(20.0)
    assert pace.shared_windows == {LIGHT: (1, 3, 9, 27), SHIFT: (1, 3, 9), WIDTH: (1, 3, 9, 27)}
    assert pace.outlier_windows == (1, 3, 9, 35)
    assert pace.still_lags == (1,)
    assert (pace.n_own_windows, pace.coarse_rows, pace.refine_rows, pace.min_anchor_rows) == (6, 1, 4, 128)
