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
_MAD_EFFICIENCY = 1.17  # error of a scatter from the median deviation over that from the standard deviation, per 1/√2n

# of the boxes of a width: first rows, S/N, and the same S/N in ascending order
_Boxes = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


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
        for light, valid, is_whole, steady in self._pooled_light:
            _, boxes = _sum_boxes(light, valid, is_whole, width)
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
    def _pooled_light(self) -> list[tuple[np.ndarray, np.ndarray, bool, float]]:
        """Filtered light, valid rows, whether all are, and S/N of its steady light in a row, of each pooled star."""
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
            here = np.flatnonzero(wanted & (y == at_y))
            here = here[np.argsort(column[here], kind="stable")]
            columns, first = np.unique(column[here], return_index=True)
            first = np.append(first, len(here))
            for k, (_, numbers, kernel) in enumerate(self._filters(int(at_y), columns)):
                boxes_of: _Boxes = cache(partial(_ordered_boxes, *_filter_pixel(self._lines, numbers, kernel)))
                for i in here[first[k] : first[k + 1]].tolist():
                    yield i, boxes_of

    def _filters(self, y: int, x: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each pixel, the lines of residuals in its matched filter, and their weights."""
        near = footprint(self._amplifier, y, x)
        tap_y, tap_x = np.divmod(near.taps, near.x.stop - near.x.start)
        numbers = (tap_y + near.y.start) * self._amplifier.n_columns + tap_x + near.x.start
        for at_x, lines, kernel in zip(x, numbers, near.kernels, strict=True):
            yield at_x, lines[kernel != 0], kernel[kernel != 0]


@numba.njit(cache=True, nogil=True)
def _spread(first, boxes, ordered, width, before, after, margin, least):  # pragma: no cover - compiled
    """Scatter of boxes that end before one row or begin after another, as defined in `StarScatter.scatter`.

    It is ``least`` if the scatter is below that.
    """
    start = np.searchsorted(first, before - width, side="right")
    stop = max(np.searchsorted(first, after, side="right"), start)
    n_away = start + len(boxes) - stop
    if n_away >= MIN_BOXES // 2:
        left_out = np.sort(boxes[start:stop])
        middle = _median_without(ordered, left_out)
        spread = MAD_TO_SIGMA * _median_distance_without(ordered, left_out, middle)
        return max(spread * _error_share(n_away, margin), least)
    # a flare that fills the file is smooth from box to box, a variable star is not
    if len(boxes) > MIN_BOXES // 2:
        departures = (boxes[1:] - boxes[:-1]) / np.sqrt(2)
        spread = MAD_TO_SIGMA * np.median(np.abs(departures))
        return max(spread * _error_share(len(departures), margin), least)
    return least


@numba.njit(cache=True, nogil=True)
def _error_share(n, margin):  # pragma: no cover - compiled
    """Share of a scatter of n boxes that remains without ``margin`` of its errors."""
    return 1 - margin * _MAD_EFFICIENCY / np.sqrt(2 * n)


@numba.njit(cache=True, nogil=True)
def _median_without(ordered, left_out):  # pragma: no cover - compiled
    """Median of ascending values without some of them, which are ascending, too.

    Sorting the values once serves all events of a star; each leaves out its own few.
    """
    n = len(ordered) - len(left_out)
    high = _value_without(ordered, left_out, n // 2)
    return high if n % 2 else (_value_without(ordered, left_out, n // 2 - 1) + high) / 2


@numba.njit(cache=True, nogil=True)
def _value_without(ordered, left_out, rank):  # pragma: no cover - compiled
    """Value of a rank from 0 among ascending values without some of them."""
    value, n_left_out = ordered[rank], -1
    while True:
        n_below = np.searchsorted(left_out, value, side="right")
        if n_below == n_left_out:
            return value
        n_left_out = n_below
        value = ordered[rank + n_left_out]


@numba.njit(cache=True, nogil=True)
def _median_distance_without(ordered, left_out, centre):  # pragma: no cover - compiled
    """Median distance from a centre of ascending values without some of them."""
    n = len(ordered) - len(left_out)
    high = _distance_without(ordered, left_out, centre, n // 2)
    return high if n % 2 else (_distance_without(ordered, left_out, centre, n // 2 - 1) + high) / 2


@numba.njit(cache=True, nogil=True)
def _distance_without(ordered, left_out, centre, rank):  # pragma: no cover - compiled
    """Distance from a centre of a rank from 0 among those of ascending values without some of them."""
    distance, n_left_out = _nearest(ordered, centre, rank), -1
    while True:
        n_below = 0
        for value in left_out:
            n_below += abs(value - centre) <= distance
        if n_below == n_left_out:
            return distance
        n_left_out = n_below
        distance = _nearest(ordered, centre, rank + n_left_out)


@numba.njit(cache=True, nogil=True)
def _nearest(ordered, centre, rank):  # pragma: no cover - compiled
    """Distance from a centre of a rank from 0 among ascending values; those nearer are a window of them."""
    low, high = 0, len(ordered) - rank - 1
    while low < high:
        first = (low + high) // 2
        if centre - ordered[first] > ordered[first + rank + 1] - centre:
            low = first + 1
        else:
            high = first
    return max(centre - ordered[low], ordered[low + rank] - centre)


@numba.njit(cache=True, nogil=True)
def _median_deviation(values):  # pragma: no cover - compiled
    """Median distance of values from their median."""
    return np.median(np.abs(values - np.median(values)))


@numba.njit(cache=True, nogil=True)
def _filter_pixel(lines, numbers, kernel):  # pragma: no cover - compiled
    """Weighted sum of some lines, and 1 where none of them is masked; both are 0 elsewhere. Each is (t,).

    The third result tells whether nothing is masked.
    """
    n_rows, taps = lines.shape[1], np.arange(len(numbers))
    light, valid = np.empty(n_rows, np.float32), np.ones(n_rows, np.float32)
    part, live = np.empty((len(numbers), _ROWS_UNPACKED), np.float32), np.empty(_ROWS_UNPACKED, np.float32)
    is_whole = True
    for start in range(0, n_rows, _ROWS_UNPACKED):
        stop = min(start + _ROWS_UNPACKED, n_rows)
        for k in taps:
            raw = lines[numbers[k]][start:stop]
            if unpack_line(raw, part[k, : stop - start]):
                is_whole = False
                mark_live(raw, live[: stop - start])
                for t in range(start, stop):
                    valid[t] *= live[t - start]
        weighted_sum(part, taps, kernel, light[start:stop])
    for t in range(n_rows):
        light[t] *= valid[t]
    return light, valid, is_whole


def _ordered_boxes(
    light: np.ndarray, valid: np.ndarray, is_whole: bool, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First rows and S/N of boxes as `_sum_boxes` gives them, and the S/N in ascending order."""
    first, boxes = _sum_boxes(light, valid, is_whole, width)
    return first, boxes, np.sort(boxes)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _sum_boxes(light, valid, is_whole, width):  # pragma: no cover - compiled
    """First rows of the boxes of which more than half is live, and their S/N."""
    n_boxes = len(light) // width
    first, boxes = np.arange(n_boxes) * width, np.empty(n_boxes)
    _sum_rows(light, width, boxes)
    if is_whole:
        norm = np.sqrt(np.float64(width))
        for k in range(n_boxes):
            boxes[k] /= norm
        return first, boxes
    counts, n_kept = np.empty(n_boxes), 0
    _sum_rows(valid, width, counts)
    for k in range(n_boxes):
        if counts[k] > width / 2:
            first[n_kept], boxes[n_kept] = first[k], boxes[k] / np.sqrt(counts[k])
            n_kept += 1
    return first[:n_kept], boxes[:n_kept]


@numba.njit(cache=True, nogil=True)
def _sum_rows(values, width, totals):  # pragma: no cover - compiled
    """Sums of successive rows. Four boxes are added side by side, since each addition waits for the one before."""
    abreast = len(totals) // 4 * 4
    for k in range(0, abreast, 4):
        one, two = values[k * width : (k + 1) * width], values[(k + 1) * width : (k + 2) * width]
        three, four = values[(k + 2) * width : (k + 3) * width], values[(k + 3) * width : (k + 4) * width]
        a = b = c = d = 0.0
        for t in range(width):
            a += one[t]
            b += two[t]
            c += three[t]
            d += four[t]
        totals[k], totals[k + 1], totals[k + 2], totals[k + 3] = a, b, c, d
    for k in range(abreast, len(totals)):
        totals[k] = 0.0
        for t in range(k * width, (k + 1) * width):
            totals[k] += values[t]


def _find_bright_stars(amplifier: Amplifier) -> np.ndarray:
    """Places (y, x) of stars that are bright enough to vary measurably, shape (s, 2)."""
    places, sigma = amplifier.star_places, amplifier.sigma_e.mean(axis=2)
    y, x = np.clip(np.round(places).astype(np.int64), 0, np.array(sigma.shape) - 1).T
    height = amplifier.streaks["flux_e_row"].to_numpy() * amplifier.profile([0.0], [0.0])[0, 0]
    return places[height > MIN_HEIGHT_SIGMA * sigma[y, x]]
