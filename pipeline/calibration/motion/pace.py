"""How fast the air moves stars: times that the cleaning of streaks was tuned on, as rows of one row rate.

Motion changes in about 0.1 s, focus in a second, cloud in five. All was tuned on simulated sequences of 300 rows/s, so
times are written as rows of that rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shutterless.pipeline.calibration.levels.baseline import baseline_blocks
from shutterless.pipeline.calibration.motion.model import LIGHT, SHIFT, WIDTH
from shutterless.pipeline.reading.readout import Readout

# seconds over which the other stars are averaged, set on simulated motion, focus and cloud; 0 is a single row. Each
# window has three times the rows of the one before at least: where rows are slow, longer ones still leave less noise
SHARED_WINDOWS_S = {
    LIGHT: (5 / 300, 15 / 300, 45 / 300, 135 / 300),
    SHIFT: (0.0, 5 / 300, 15 / 300),
    WIDTH: (0.0, 5 / 300, 15 / 300, 45 / 300),
}
LONGEST_OWN_WINDOW_S = 129 / 300  # over which the amplitude of a mode may be averaged ...
MIN_LONGEST_OWN_ROWS = 129  # ... where rows are slow so many of them, for the window that predicts best is taken
OUTLIER_WINDOWS_S = (0.0, 9 / 300, 65 / 300, 513 / 300)  # over which a star is compared with what the others predict
STILL_LAGS_S = (1 / 300, 2 / 300, 4 / 300, 8 / 300)  # over which motion is seen in the anchors' shifts, if there is any
COARSE_S = 4 / 300  # lags are searched on means over so long first
REFINE_S = 12 / 300  # to either side of a lag, known or found coarsely, that a better one is looked for
MIN_ANCHOR_S = 512 / 300  # of an anchor, after the ramp; less tells nothing of its motion
MIN_REFINE_ROWS = 4  # where rows are slow: the row of an onset is no better known
MIN_ANCHOR_ROWS = 128  # and so many samples are needed to tell motion from noise


@dataclass(frozen=True)
class MotionPace:
    """The times of this module in rows.

    Parameters
    ----------
    shared_windows : mapping of int to tuple of int
        By channel; odd, as are ``outlier_windows``.
    n_own_windows : int
        Of 5, 9, 17, 33, ... rows.
    outlier_windows, still_lags : tuple of int
    coarse_rows, refine_rows, min_anchor_rows : int
    baseline_blocks : int
        Window of the running level of a column, in blocks.
    """

    shared_windows: Mapping[int, tuple[int, ...]]
    n_own_windows: int
    outlier_windows: tuple[int, ...]
    still_lags: tuple[int, ...]
    coarse_rows: int
    refine_rows: int
    min_anchor_rows: int
    baseline_blocks: int

    @classmethod
    def of(cls, readout: Readout) -> MotionPace:
        """Pace of the rows of a readout."""
        longest_own = readout.rows_of(LONGEST_OWN_WINDOW_S, MIN_LONGEST_OWN_ROWS)
        return cls(
            shared_windows={channel: _odd_windows(readout, times) for channel, times in SHARED_WINDOWS_S.items()},
            n_own_windows=1 + int(np.log2((longest_own - 1) // 4)),
            outlier_windows=_odd_windows(readout, OUTLIER_WINDOWS_S),
            still_lags=tuple(sorted({readout.rows_of(lag) for lag in STILL_LAGS_S})),
            coarse_rows=readout.rows_of(COARSE_S),
            refine_rows=readout.rows_of(REFINE_S, least=MIN_REFINE_ROWS),
            min_anchor_rows=readout.rows_of(MIN_ANCHOR_S, least=MIN_ANCHOR_ROWS),
            baseline_blocks=baseline_blocks(readout),
        )


def _odd_windows(readout: Readout, times: tuple[float, ...]) -> tuple[int, ...]:
    """Rows of each time, odd, for windows are centred on a row, and thrice those of the time before at least."""
    windows: list[int] = []
    for time in times:
        windows.append(max(readout.rows_of(time) | 1, 3 * windows[-1] if windows else 1))
    return tuple(windows)
