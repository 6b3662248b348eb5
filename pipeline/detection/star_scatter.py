"""Measure the scatter of a star's own light over rows, by which the S/N of its triggers is divided.

Scintillation, clouds and blends that move at different times make bright stars vary by many sigma of photon noise.
A change that the star shows all the time is no event, however significant it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial

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
# slow variation grows with the width, and shorter boxes are more: so the scatter in boxes of a half to an eighth of the
# width is a lower limit, too, with a larger margin since these are three more chances
SHORTER, SHORTER_MARGIN = (2, 4, 8), 3.0
MIN_HEIGHT_SIGMA, REACH_PX = 0.5, 4.0  # light of a star's central pixel in a row over its noise (r = 15)
# stars whose relative scatter is pooled: cloud and scintillation are alike for all, and many stars have many boxes
MOST_POOLED, MIN_POOLED, MIN_POOLED_SIGMA = 32, 6, 2.0
MIN_POOLED_BOXES = 4  # of a width, of each star
MIN_POOLED_EXCESS = 0.05  # of the variance of boxes over that of noise; less changes no S/N by more than 2.5 %
_ROWS_UNPACKED = 1024  # at once, so that a filter works in the L1 cache
_POOLED_EFFICIENCY = 2.05  # the same of the median over stars of many boxes each: 1.64 for the deviation, times 1.25
_SLACK = 0.4  # of the margin for errors, by which the median of some boxes may differ from that of all
_MAD_EFFICIENCY = 1.17  # error of a scatter from the median deviation over that from the standard deviation, per 1/√2n

_Boxes = Callable[[int], tuple[np.ndarray, np.ndarray, float]]  # first rows, S/N and median of the boxes of a width


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
        self._fractions: dict[int, float] = {}

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
            errors, and at least that in boxes `SHORTER` times as short. If the event leaves too few boxes, the
            differences of successive boxes over √2 are used. It is at least √(1 + f² s²), too, with f the relative
            scatter of the bright stars in boxes of this width (`pooled_fraction`) and s the S/N of the place's own
            steady light in such a box.
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
        steady = self._steady_snr(y, column, has_star)
        for each in np.unique(width_rows[has_star]):
            same = has_star & (width_rows == each)
            found[same] = np.sqrt(1 + (self.pooled_fraction(int(each)) * steady[same]) ** 2 * each)
        for i, boxes_of in self._boxes(y, column, has_star):
            away = row_start[i] - length[i], row_stop[i] + TAIL * length[i]
            found[i] = _spread(*boxes_of(width[i]), width[i], *away, ERROR_MARGIN, found[i])
            for times in SHORTER:
                shorter = width[i] // times
                if shorter:
                    found[i] = _spread(*boxes_of(shorter), shorter, *away, SHORTER_MARGIN, found[i])
        return found

    def pooled_fraction(self, width_rows: int) -> float:
        """Relative scatter of the light of the amplifier's bright stars in boxes, beyond their photon noise.

        Parameters
        ----------
        width_rows : int
            The power of two next below it is taken, or the longest width of which the file has `MIN_POOLED_BOXES`.

        Returns
        -------
        float
            Median over at most `MOST_POOLED` stars whose light has `MIN_POOLED_SIGMA` in a row; 0 for fewer than
            `MIN_POOLED`. Of each star it is the scatter of its boxes (from the median absolute deviation) over that of
            its steady light, with the noise taken off in quadrature. Half of the stars may hold events.
        """
        longest = max(self._amplifier.n_rows // MIN_POOLED_BOXES, 1)
        width = 1 << int(np.log2(np.clip(width_rows, 1, longest)))
        if width not in self._fractions:
            self._fractions[width] = self._pool(width)
        return self._fractions[width]

    def _pool(self, width: int) -> float:
        squares, fractions, n_boxes = [], [], 0
        for light, valid, steady in self._pooled_light:
            _, boxes = _sum_boxes(light, valid, width)
            if len(boxes) >= MIN_POOLED_BOXES:
                square = (MAD_TO_SIGMA * _median_deviation(boxes)) ** 2
                squares.append(square)
                fractions.append(np.sqrt(max(square - 1, 0.0) / width) / steady)
                n_boxes += len(boxes)
        if len(squares) < MIN_POOLED:
            return 0.0
        error = 2 * _POOLED_EFFICIENCY / np.sqrt(2 * n_boxes)  # of the variance
        is_more = np.median(squares) > 1 + max(ERROR_MARGIN * error, MIN_POOLED_EXCESS)
        return float(np.median(fractions)) if is_more else 0.0

    @cached_property
    def _pooled_light(self) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Filtered light, valid rows and S/N of the steady light in a row, of each star that is pooled."""
        if self._amplifier.n_y > 1 or not len(self._bright_stars):
            return []
        column = np.clip(np.round(self._bright_stars[:, 1]).astype(np.int64), 0, self._amplifier.n_columns - 1)
        column = np.unique(column)
        steady = self._steady_snr(np.zeros_like(column), column, np.ones(len(column), dtype=bool))
        brightest = np.flatnonzero(steady > MIN_POOLED_SIGMA)
        brightest = brightest[np.argsort(-steady[brightest], kind="stable")][:MOST_POOLED]
        if len(brightest) < MIN_POOLED:
            return []
        chosen = dict(zip(column[brightest].tolist(), steady[brightest].tolist(), strict=True))
        return [
            (*_filter_pixel(self._lines, numbers, kernel), chosen[int(at_x)])
            for at_x, numbers, kernel in self._filters(0, np.sort(column[brightest]))
        ]

    def _steady_snr(self, y: np.ndarray, column: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """S/N in a row of the steady light above the sky at each pixel, (n,); 0 for pixels that are not wanted."""
        found = np.zeros(len(column))
        if self._amplifier.n_y > 1 or not wanted.any():  # images are not taken through the same cloud
            return found
        excess = self._amplifier.baseline_e[0].mean(axis=1) - self._amplifier.sky_e
        relative = (excess / self._amplifier.sigma_e[0].mean(axis=1)).astype(np.float64)
        columns = np.unique(column[wanted])
        snr = {int(x): float(kernel @ relative[numbers]) for x, numbers, kernel in self._filters(0, columns)}
        found[wanted] = [max(snr[int(x)], 0.0) for x in column[wanted]]
        return found

    def _boxes(self, y: np.ndarray, column: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[int, _Boxes]]:
        """Index of each wanted event and a function that gives the boxes of its pixel of a width, ordered by pixel."""
        for at_y in np.unique(y[wanted]):
            here = wanted & (y == at_y)
            for at_x, numbers, kernel in self._filters(int(at_y), np.unique(column[here])):
                boxes_of: _Boxes = cache(partial(_middle_boxes, *_filter_pixel(self._lines, numbers, kernel)))
                for i in np.flatnonzero(here & (column == at_x)).tolist():
                    yield i, boxes_of

    def _filters(self, y: int, x: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each pixel, the lines of residuals in its matched filter, and their weights."""
        near = footprint(self._amplifier, y, x)
        tap_y, tap_x = np.divmod(near.taps, near.x.stop - near.x.start)
        numbers = (tap_y + near.y.start) * self._amplifier.n_columns + tap_x + near.x.start
        for at_x, lines, kernel in zip(x, numbers, near.kernels, strict=True):
            yield at_x, lines[kernel != 0], kernel[kernel != 0]


@numba.njit(cache=True, nogil=True)
def _spread(first, boxes, middle, width, before, after, margin, least):  # pragma: no cover - compiled
    """Scatter of boxes that end before one row or begin after another, as defined in `StarScatter.scatter`.

    It is ``least`` if the scatter is below that. Most stars are steady, which is seen without another median.
    """
    start = np.searchsorted(first, before - width, side="right")
    stop = max(np.searchsorted(first, after, side="right"), start)
    n_away = start + len(boxes) - stop
    if n_away >= MIN_BOXES // 2:
        limit = least / (MAD_TO_SIGMA * _error_share(n_away, margin))
        if _is_steady(boxes[:start], boxes[stop:], middle, limit, limit * _SLACK * (1 - _error_share(n_away, margin))):
            return least
        away = np.concatenate((boxes[:start], boxes[stop:]))
        departures = away - np.median(away)
    # a flare that fills the file is smooth from box to box, a variable star is not
    elif len(boxes) > MIN_BOXES // 2:
        departures = (boxes[1:] - boxes[:-1]) / np.sqrt(2)
    else:
        return least
    spread = MAD_TO_SIGMA * np.median(np.abs(departures))
    return max(spread * _error_share(len(departures), margin), least)


@numba.njit(cache=True, nogil=True)
def _error_share(n, margin):  # pragma: no cover - compiled
    """Share of a scatter of n boxes that remains without ``margin`` of its errors."""
    return 1 - margin * _MAD_EFFICIENCY / np.sqrt(2 * n)


@numba.njit(cache=True, nogil=True)
def _is_steady(before, after, middle, limit, slack):  # pragma: no cover - compiled
    """Whether the median deviation of the values in two arrays is certainly below a limit.

    Their median is within ``slack`` of ``middle`` if fewer than half of them are beyond it on either side.
    """
    half = (len(before) + len(after)) / 2
    below = above = far = 0
    for part in (before, after):
        for value in part:
            departure = value - middle
            below += departure < -slack
            above += departure > slack
            far += abs(departure) >= limit - slack
    return below < half and above < half and far < half


@numba.njit(cache=True, nogil=True)
def _median_deviation(values):  # pragma: no cover - compiled
    """Median distance of values from their median."""
    return np.median(np.abs(values - np.median(values)))


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


@numba.njit(cache=True, nogil=True)
def _middle_boxes(light, valid, width):  # pragma: no cover - compiled
    """First rows and S/N of boxes as `_sum_boxes` gives them, and their median; 0 without a box."""
    first, boxes = _sum_boxes(light, valid, width)
    return first, boxes, np.median(boxes) if len(boxes) else 0.0


def _find_bright_stars(amplifier: Amplifier) -> np.ndarray:
    """Places (y, x) of stars that are bright enough to vary measurably, shape (s, 2)."""
    places, sigma = amplifier.star_places, amplifier.sigma_e.mean(axis=2)
    y, x = np.clip(np.round(places).astype(np.int64), 0, np.array(sigma.shape) - 1).T
    height = amplifier.streaks["flux_e_row"].to_numpy() * amplifier.profile([0.0], [0.0])[0, 0]
    return places[height > MIN_HEIGHT_SIGMA * sigma[y, x]]
