"""How much a star swings anyway: the scatter of its own light over rows, by which its triggers are measured.

Scintillation, cloud and blends that move at different times make bright stars swing by many sigma of photon noise. What
a star does all the time is no event, however significant.
"""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.store import Amplifier
from shutterless.pipeline.template_bank import column_kernels

MIN_BOXES = 16  # of one width in a file; fewer do not tell a habit from one event
TAIL = 3  # lengths of an event after it in which a flare still glows
ERROR_MARGIN = 2.2  # errors by which the scatter must exceed 1: still stars keep their S/N
MIN_HEIGHT_SIGMA, REACH_PX = 0.5, 4.0  # light of a streak's central pixel in a row over its noise: r = 15
_MAD = 1.4826
_MAD_EFFICIENCY = 1.17  # error of a scatter from the median deviation over that from the standard deviation, per 1/√2n


class Habits:
    """Scatter of box sums in the columns of one amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    """

    def __init__(self, amplifier: Amplifier) -> None:
        self._amplifier = amplifier
        self._kernels = column_kernels(amplifier)
        self._shines = _starlit_columns(amplifier)
        self._cumulative: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._boxes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def scatter(self, column: int, width_rows: int, row_start: int, row_stop: int) -> float:
        """Scatter of the filtered light of a column in boxes away from an event, in units of its noise, 1 at least.

        Parameters
        ----------
        column : int
        width_rows : int
            Where the file holds fewer than `MIN_BOXES` of them, the largest width of which it holds as many stands for
            it: slow swings only grow.
        row_start, row_stop : int
            Rows of the event; boxes nearer than its length before them, or `TAIL` lengths after, do not count.

        Returns
        -------
        float
            1 where no star shines; else 1.4826 times the median absolute deviation, less `ERROR_MARGIN` of its own
            errors. Where an event leaves too few boxes, that of the differences of successive ones over √2.
        """
        if not self._shines[column]:
            return 1.0
        width = max(min(width_rows, self._amplifier.n_rows // MIN_BOXES), 1)
        width = 1 << int(np.log2(width))
        first, boxes = self._boxes_of(column, width)
        length = max(row_stop - row_start + 1, width)
        away = (first + width <= row_start - length) | (first > row_stop + TAIL * length)
        # a flare that fills the file is smooth, a restless star is not
        known = away.sum() >= MIN_BOXES // 2
        boxes = boxes[away] - np.median(boxes[away]) if known else np.diff(boxes) / np.sqrt(2)
        if len(boxes) < MIN_BOXES // 2:
            return 1.0
        spread = _MAD * float(np.median(np.abs(boxes)))
        return max(spread * (1 - ERROR_MARGIN * _MAD_EFFICIENCY / np.sqrt(2 * len(boxes))), 1.0)

    def _boxes_of(self, column: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the boxes of a column that are at least half live, and their S/N."""
        key = (column, width)
        if key not in self._boxes:
            total, live = self._column(column)
            edges = np.arange(0, len(total), width)
            counts = np.diff(live[edges])
            kept = counts > width / 2
            self._boxes[key] = edges[:-1][kept], np.diff(total[edges])[kept] / np.sqrt(counts[kept])
        return self._boxes[key]

    def _column(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative filtered residual of a column and cumulative live rows, each (t + 1,)."""
        if column not in self._cumulative:
            kernel = self._kernels[column]
            first = column - len(kernel) // 2
            used = slice(max(-first, 0), len(kernel) - max(first + len(kernel) - self._amplifier.n_columns, 0))
            patch = self._amplifier.residual[0, first + used.start : first + used.stop].astype(np.float32)
            light = kernel[used] @ patch  # NaN where a pixel is masked
            seen = np.isfinite(light)
            series = np.where(seen, light, 0.0)
            self._cumulative[column] = (
                np.concatenate([[0.0], np.cumsum(series, dtype=np.float64)]),
                np.concatenate([[0.0], np.cumsum(seen, dtype=np.float64)]),
            )
        return self._cumulative[column]


def _starlit_columns(amplifier: Amplifier) -> np.ndarray:
    """Columns near a streak that is bright enough for its swings to show, bool (x,)."""
    streaks, sigma = amplifier.streaks, amplifier.sigma_e[0].mean(axis=1)
    columns = np.arange(amplifier.n_columns)
    x = streaks["x"].to_numpy(dtype=np.float64)
    middle = np.clip(np.round(x).astype(np.int64), 0, amplifier.n_columns - 1)
    height = streaks["flux_e_row"].to_numpy() * pixel_profile(0, amplifier.psf_sigma_px)
    shines = np.zeros(amplifier.n_columns, dtype=bool)
    for place in x[height > MIN_HEIGHT_SIGMA * sigma[middle]]:
        shines |= np.abs(columns - place) <= REACH_PX
    return shines
