"""Measure the scatter of a star's own light over rows, by which the S/N of its triggers is divided.

Scintillation, clouds and blends that move at different times make bright stars vary by many sigma of photon noise.
A change that the star shows all the time is no event, however significant it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import nearest_place
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.compiled.residual_lines import compiled_lines, mark_live, unpack_line, weighted_sum
from shutterless.pipeline.detection.scan import footprint

MIN_BOXES = 16  # of one width in a file; fewer cannot separate scatter from one event
TAIL = 3  # lengths of an event after its end in which a flare still decays
ERROR_MARGIN = 2.2  # errors by which the scatter must exceed 1, so that constant stars keep their S/N
MIN_HEIGHT_SIGMA, REACH_PX = 0.5, 4.0  # light of a star's central pixel in a row over its noise (r = 15)
_ROWS_UNPACKED = 1024  # at once, so that a filter works in the L1 cache
_MAD_EFFICIENCY = 1.17  # error of a scatter from the median deviation over that from the standard deviation, per 1/√2n


class StarScatter:
    """Scatter of box sums in the pixels of one amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    """

    def __init__(self, amplifier: Amplifier) -> None:
        self._amplifier = amplifier
        self._bright_stars = _find_bright_stars(amplifier)
        self._lines = compiled_lines(amplifier.residual)

    def scatter(self, y: int, column: int, width_rows: int, row_start: int, row_stop: int) -> float:
        """Scatter of the filtered light of a pixel in boxes away from an event, in units of its noise, 1 at least.

        Parameters
        ----------
        y, column : int
        width_rows : int
            If the file holds fewer than `MIN_BOXES` boxes of this width, the largest width of which it holds that many
            is used instead. That is a lower limit, since slow variation grows with the width.
        row_start, row_stop : int
            Rows of the event. Boxes within one of its lengths before it or `TAIL` lengths after it are left out.

        Returns
        -------
        float
            1 without a bright star; else 1.4826 times the median absolute deviation, less `ERROR_MARGIN` of its own
            errors. If the event leaves too few boxes, the differences of successive boxes over √2 are used.
        """
        one = (np.array([value]) for value in (y, column, width_rows, row_start, row_stop))
        return float(self.scatters(*one)[0])

    def scatters(
        self, y: np.ndarray, column: np.ndarray, width_rows: np.ndarray, row_start: np.ndarray, row_stop: np.ndarray
    ) -> np.ndarray:
        """As `scatter` for many events, each argument (n,); only the light of one pixel at a time is in memory."""
        found = np.ones(len(y))
        has_star = nearest_place(self._bright_stars, np.stack([y, column], axis=1), REACH_PX) >= 0
        width = np.clip(width_rows, 1, max(self._amplifier.n_rows // MIN_BOXES, 1)).astype(np.int64)
        width = 1 << np.floor(np.log2(width)).astype(np.int64)
        length = np.maximum(row_stop - row_start + 1, width)
        for i, boxes in self._boxes(y, column, width, has_star):
            found[i] = _spread(*boxes, width[i], row_start[i] - length[i], row_stop[i] + TAIL * length[i])
        return found

    def _boxes(
        self, y: np.ndarray, column: np.ndarray, width: np.ndarray, wanted: np.ndarray
    ) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Index of each wanted event and the boxes of its pixel and width, ordered by pixel, then width."""
        for at_y in np.unique(y[wanted]):
            here = wanted & (y == at_y)
            for at_x, numbers, kernel in self._filters(int(at_y), np.unique(column[here])):
                light, valid = _filter_pixel(self._lines, numbers, kernel)
                same = np.flatnonzero(here & (column == at_x))
                for each in np.unique(width[same]):
                    boxes = _sum_boxes(light, valid, each)
                    for i in same[width[same] == each]:
                        yield i, boxes

    def _filters(self, y: int, x: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each pixel, the lines of residuals in its matched filter, and their weights."""
        near = footprint(self._amplifier, y, x)
        tap_y, tap_x = np.divmod(near.taps, near.x.stop - near.x.start)
        numbers = (tap_y + near.y.start) * self._amplifier.n_columns + tap_x + near.x.start
        for at_x, lines, kernel in zip(x, numbers, near.kernels, strict=True):
            yield at_x, lines[kernel != 0], kernel[kernel != 0]


def _spread(first: np.ndarray, boxes: np.ndarray, width: int, before: int, after: int) -> float:
    """Scatter of boxes that end before one row or begin after another, as defined in `StarScatter.scatter`."""
    away = (first + width <= before) | (first > after)
    # a flare that fills the file is smooth from box to box, a variable star is not
    known = np.count_nonzero(away) >= MIN_BOXES // 2
    boxes = boxes[away] - _median(boxes[away]) if known else np.diff(boxes) / np.sqrt(2)
    if len(boxes) < MIN_BOXES // 2:
        return 1.0
    spread = MAD_TO_SIGMA * _median(np.abs(boxes))
    return max(spread * (1 - ERROR_MARGIN * _MAD_EFFICIENCY / np.sqrt(2 * len(boxes))), 1.0)


def _median(values: np.ndarray) -> float:
    """As `numpy.median` of finite values, without its 20 µs of overhead."""
    middle = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, middle)
    return float(ordered[middle[0]] + ordered[middle[1]]) / 2


@numba.njit(cache=True, nogil=True)
def _filter_pixel(lines, numbers, kernel):  # pragma: no cover - compiled
    """Weighted sum of some lines, and 1 where none of them is masked; both are 0 elsewhere. Each is (t,)."""
    n_rows, taps = lines.shape[1], np.arange(len(numbers))
    light, valid = np.empty(n_rows, np.float32), np.ones(n_rows, np.float32)
    part, live = np.empty((len(numbers), _ROWS_UNPACKED), np.float32), np.empty(_ROWS_UNPACKED, np.float32)
    for start in range(0, n_rows, _ROWS_UNPACKED):
        stop = min(start + _ROWS_UNPACKED, n_rows)
        for k in taps:
            raw = lines[numbers[k]][start:stop]
            if unpack_line(raw, part[k, : stop - start]):
                mark_live(raw, live[: stop - start])
                for t in range(start, stop):
                    valid[t] *= live[t - start]
        weighted_sum(part, taps, kernel, light[start:stop])
    for t in range(n_rows):
        light[t] *= valid[t]
    return light, valid


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _sum_boxes(light, valid, width):  # pragma: no cover - compiled
    """First rows of the boxes of which more than half is live, and their S/N."""
    n_boxes = len(light) // width
    first, boxes = np.empty(n_boxes, np.int64), np.empty(n_boxes)
    n_kept = 0
    for start in range(0, n_boxes * width, width):
        total, count = 0.0, 0.0
        for t in range(start, start + width):
            total += light[t]
            count += valid[t]
        if count > width / 2:
            first[n_kept], boxes[n_kept] = start, total / np.sqrt(count)
            n_kept += 1
    return first[:n_kept], boxes[:n_kept]


def _find_bright_stars(amplifier: Amplifier) -> np.ndarray:
    """Places (y, x) of stars that are bright enough to vary measurably, shape (s, 2)."""
    places, sigma = amplifier.star_places, amplifier.sigma_e.mean(axis=2)
    y, x = np.clip(np.round(places).astype(np.int64), 0, np.array(sigma.shape) - 1).T
    height = amplifier.streaks["flux_e_row"].to_numpy() * amplifier.profile([0.0], [0.0])[0, 0]
    return places[height > MIN_HEIGHT_SIGMA * sigma[y, x]]
