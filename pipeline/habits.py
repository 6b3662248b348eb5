"""How much a star swings anyway: the scatter of its own light over rows, by which its triggers are measured.

Scintillation, cloud and blends that move at different times make bright stars swing by many sigma of photon noise. What
a star does all the time is no event, however significant.
"""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.store import Amplifier
from shutterless.pipeline.streaks import nearest_place
from shutterless.pipeline.template_bank import footprint

MIN_BOXES = 16  # of one width in a file; fewer do not tell a habit from one event
TAIL = 3  # lengths of an event after it in which a flare still glows
ERROR_MARGIN = 2.2  # errors by which the scatter must exceed 1: still stars keep their S/N
MIN_HEIGHT_SIGMA, REACH_PX = 0.5, 4.0  # light of a star's central pixel in a row over its noise: r = 15
_MAD = 1.4826
_MAD_EFFICIENCY = 1.17  # error of a scatter from the median deviation over that from the standard deviation, per 1/√2n


class Habits:
    """Scatter of box sums in the pixels of one amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    """

    def __init__(self, amplifier: Amplifier) -> None:
        self._amplifier = amplifier
        self._shining = _shining_stars(amplifier)
        self._cumulative: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._boxes: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def scatter(self, y: int, column: int, width_rows: int, row_start: int, row_stop: int) -> float:
        """Scatter of the filtered light of a pixel in boxes away from an event, in units of its noise, 1 at least.

        Parameters
        ----------
        y, column : int
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
        if nearest_place(self._shining, np.array([[y, column]]), REACH_PX)[0] < 0:
            return 1.0
        width = max(min(width_rows, self._amplifier.n_rows // MIN_BOXES), 1)
        width = 1 << int(np.log2(width))
        first, boxes = self._boxes_of(y, column, width)
        length = max(row_stop - row_start + 1, width)
        away = (first + width <= row_start - length) | (first > row_stop + TAIL * length)
        # a flare that fills the file is smooth, a restless star is not
        known = away.sum() >= MIN_BOXES // 2
        boxes = boxes[away] - np.median(boxes[away]) if known else np.diff(boxes) / np.sqrt(2)
        if len(boxes) < MIN_BOXES // 2:
            return 1.0
        spread = _MAD * float(np.median(np.abs(boxes)))
        return max(spread * (1 - ERROR_MARGIN * _MAD_EFFICIENCY / np.sqrt(2 * len(boxes))), 1.0)

    def _boxes_of(self, y: int, column: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the boxes of a pixel that are at least half live, and their S/N."""
        key = (y, column, width)
        if key not in self._boxes:
            total, live = self._series(y, column)
            edges = np.arange(0, len(total), width)
            counts = np.diff(live[edges])
            kept = counts > width / 2
            self._boxes[key] = edges[:-1][kept], np.diff(total[edges])[kept] / np.sqrt(counts[kept])
        return self._boxes[key]

    def _series(self, y: int, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative filtered residual of a pixel and cumulative live rows, each (t + 1,)."""
        key = (y, column)
        if key not in self._cumulative:
            near = footprint(self._amplifier, y, np.array([column]))
            patch = self._amplifier.residual[near.y, near.x].astype(np.float32).reshape(-1, self._amplifier.n_rows)
            used = near.kernels[0] > 0
            light = near.kernels[0, used] @ patch[near.taps[0, used]]  # NaN where a pixel is masked
            seen = np.isfinite(light)
            series = np.where(seen, light, 0.0)
            self._cumulative[key] = (
                np.concatenate([[0.0], np.cumsum(series, dtype=np.float64)]),
                np.concatenate([[0.0], np.cumsum(seen, dtype=np.float64)]),
            )
        return self._cumulative[key]


def _shining_stars(amplifier: Amplifier) -> np.ndarray:
    """Places (y, x) of stars that are bright enough for their swings to show, shape (s, 2)."""
    places, sigma = amplifier.star_places, amplifier.sigma_e.mean(axis=2)
    y, x = np.clip(np.round(places).astype(np.int64), 0, np.array(sigma.shape) - 1).T
    height = amplifier.streaks["flux_e_row"].to_numpy() * amplifier.profile([0.0], [0.0])[0, 0]
    return places[height > MIN_HEIGHT_SIGMA * sigma[y, x]]
