"""Number the triggers that belong to one object: a light that moves, a column that varies, rows that all columns share.

A satellite that crosses an amplifier leaves tens of triggers on a straight line of columns and rows. Each looks like an
event of its own, so that one satellite would decide the rate of false alarms. A set of triggers counts as one object
only where chance makes fewer than `MOST_CHANCE_TRAILS` such sets in an amplifier of so many triggers (the *number of
false alarms* of Desolneux, Moisan & Morel 2000, Int. J. Computer Vision 40, 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, ceil, cos, floor, lgamma, log, pi, sin

import numba
import numpy as np
import pandas as pd

MOST_CHANCE_TRAILS = 0.05  # expected in an amplifier
_MOST_OF_A_KIND = MOST_CHANCE_TRAILS / 3  # rows, columns and lines
LEAST_MEMBERS = 4
# half widths of the band around a line in px: a star's image, and an aircraft's, which is 20 to 40 px out of focus
BANDS_PX = (3.0, 10.0, 30.0)
REACHES_PX = (128.0, 512.0, 2048.0, 1e9)  # along the line to either side of the trigger from which it is sought
# strongest triggers among which lines are sought, since strong ones are rare and few suffice: their share, how many of
# them lines are sought from (a trail without a strong trigger is no alarm), and the bands
_SEARCHES = ((1 / 16, 128, BANDS_PX), (1 / 4, 128, BANDS_PX), (1.0, 256, BANDS_PX[:1]))
_N_TESTS = sum(len(bands) for _, _, bands in _SEARCHES) * len(REACHES_PX)
LEAST_TRIGGERS = 16  # of a share
LEAST_COLUMNS = 8.0  # px along x that a line must cross, or it may be the events of one star
ROW_WINDOWS = (2, 7, 22)  # rows to either side in which triggers of many columns are counted
COLUMN_REACH_PX = 2.0
# triggers of a column without a star, since a source that repeats may be too faint for a streak. Of 35 hot columns of 4
# to 30 e- a row, each alone, none had more than 7 in 8,000 rows, nor more than one above 6 sigma without a veto
LEAST_OF_COLUMN = 10
# triggers of one star that are no longer single events, of any S/N. The busiest of 600 stars in moving air had 10 in
# 8,000 rows; the limits are a choice
LEAST_OF_STAR, ROWS_PER_TRIGGER = 20, 400.0
SAME_COLUMNS_PX = 16  # triggers this close in the same rows may be the flanks of one event
_BINS = 2048  # of directions over half a turn
_ROW_ERROR = 0.25  # of a trigger's width, by which its middle misses the moment at which a light crossed its column
_MOST_DWELL = 4.0  # half widths of the band that a light may cross during one trigger
_SLACK = 5.0  # in the logarithm of a line's chance before it is fitted
# px that a light may cross during a trigger that blends it with a star's own change, at any moment of the trigger. A
# satellite of 14.5 mag had two of these beside 40 plain ones
_MOST_BLEND_PX = 30.0
_WIDER = (2.0, 4.0, 8.0)  # half widths of the band to which the wings of a bright trail may reach


@dataclass(frozen=True)
class _Points:
    """Triggers as points of columns and rows: ``group`` numbers the star of each, or itself without a star."""

    x: np.ndarray
    row: np.ndarray
    width: np.ndarray
    group: np.ndarray
    size: tuple[float, float]

    def take(self, index: np.ndarray) -> _Points:
        return _Points(self.x[index], self.row[index], self.width[index], self.group[index], self.size)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.x, self.row, self.width, self.group


def find_trails(triggers: pd.DataFrame, n_rows: int) -> np.ndarray:
    """Number the triggers of one amplifier that are one object.

    Parameters
    ----------
    triggers : DataFrame
        With ``x``, ``row_start``, ``row_stop``, ``width_rows``, ``snr`` and ``streak_id``, and ``y`` of a stack of
        images, in which no trails are sought.
    n_rows : int
        Rows of the amplifier.

    Returns
    -------
    ndarray of int64, shape (number of triggers,)
        Number of the trail, from 0 in the order of their first rows; -1 for a trigger that stands alone.

    Notes
    -----
    Three kinds are sought one after the other, each among the triggers that the ones before left:

    * rows: at least `LEAST_MEMBERS` triggers in different columns, in the same rows within one of `ROW_WINDOWS`
    * columns: at least `LEAST_OF_COLUMN` triggers within `COLUMN_REACH_PX` that are on no known streak. Those of a star
      may be several events, unless there are `LEAST_OF_STAR`, and one in `ROWS_PER_TRIGGER` rows
    * lines: triggers within one of `BANDS_PX` of a straight line that crosses at least `LEAST_COLUMNS`

    If n triggers fall independently on the amplifier, a window or band holds μ of them on average, and k or more with
    the Poisson probability P(k; μ). Expected by chance are N P(k - d; μ), where N is the number of windows or lines
    that are tested and d the number of triggers that define one: 1 for a window around a trigger, 2 for a line through
    two. A star counts once on a line however many triggers it has. Triggers crowd in the columns of bright stars and in
    the rows of pickup, so μ of a line is the largest of three: triggers fall anywhere, each keeps its column and falls
    in any row, each keeps its row and falls in any column.
    """
    trails = np.full(len(triggers), -1, dtype=np.int64)
    if len(triggers) < LEAST_MEMBERS or ("y" in triggers and triggers["y"].nunique() > 1):
        return trails
    points, strength = _points_of(triggers, n_rows), triggers["snr"].abs().to_numpy(dtype=np.float64)
    _number_rows(points, trails)
    has_star = triggers["streak_id"].notna().to_numpy(dtype=bool)
    _number_columns(points, ~has_star, trails)
    _number_stars(points, has_star, trails)
    order = np.lexsort((points.x, points.row, -strength))
    for share, most_seeds, bands in _SEARCHES:
        _number_lines(points, order[: max(int(share * len(order)), LEAST_TRIGGERS)], most_seeds, bands, trails)
    return _in_order_of_rows(trails, points.row)


def count_members(trails: np.ndarray) -> np.ndarray:
    """Number of triggers of each trigger's trail, int64 (n,); 1 for a trigger that stands alone."""
    counts = np.bincount(trails[trails >= 0], minlength=1)
    return np.where(trails >= 0, counts[trails], 1).astype(np.int64)


def best_of_trails(score: np.ndarray, trails: np.ndarray) -> np.ndarray:
    """Index of the trigger of the same trail that has the highest score, the first of equals; its own without a trail.

    Parameters
    ----------
    score : ndarray, shape (n,)
    trails : ndarray of int, shape (n,)
        Number of the trail of each trigger, negative without one.
    """
    best = np.arange(len(score))
    members = np.flatnonzero(trails >= 0)
    order = members[np.lexsort((members, -score[members], trails[members]))]
    best[members] = order[np.searchsorted(trails[order], trails[members])]
    return best


def _points_of(triggers: pd.DataFrame, n_rows: int) -> _Points:
    x, start, stop, width = (
        triggers[name].to_numpy(dtype=np.float64) for name in ("x", "row_start", "row_stop", "width_rows")
    )
    star = triggers["streak_id"].astype("Int64").fillna(-1).to_numpy(dtype=np.int64)
    group = np.where(star >= 0, len(x) + star, np.arange(len(x)))
    _, group = np.unique(group, return_inverse=True)
    return _Points(x, (start + stop) / 2, width, group.astype(np.int64), (float(np.ptp(x)) + 1, float(n_rows)))


def _in_order_of_rows(trails: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Renumber trails by the row of their first member."""
    first = np.full(trails.max(initial=-1) + 1, np.inf)
    np.minimum.at(first, trails[trails >= 0], row[trails >= 0])
    rank = np.empty(len(first) + 1, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    rank[-1] = -1
    return rank[trails]


def _number_rows(points: _Points, trails: np.ndarray) -> None:
    """Number triggers of many columns in the same rows, the least likely sets first."""
    for half in ROW_WINDOWS:
        may = np.flatnonzero((trails < 0) & (points.width <= 8 * half))
        place = np.floor(points.x[may] / SAME_COLUMNS_PX).astype(np.int64)
        mean = len(may) * (2 * half + 1) / points.size[1]
        _number_windows(points.row[may], place, float(half), mean, LEAST_MEMBERS, len(ROW_WINDOWS), may, trails)


def _number_columns(points: _Points, has_no_star: np.ndarray, trails: np.ndarray) -> None:
    """Number triggers of a column without a star."""
    longest = points.size[1] / LEAST_OF_COLUMN  # more than so many longer ones would overlap, and count one cause twice
    may = np.flatnonzero((trails < 0) & has_no_star & (points.width <= longest))
    mean = len(may) * (2 * COLUMN_REACH_PX + 1) / points.size[0]
    _number_windows(points.x[may], np.arange(len(may)), COLUMN_REACH_PX, mean, LEAST_OF_COLUMN, 1, may, trails)


def _number_stars(points: _Points, has_star: np.ndarray, trails: np.ndarray) -> None:
    """Number the triggers of stars that have more than events explain."""
    counts = np.bincount(points.group[has_star], minlength=1)
    for star in np.flatnonzero(counts >= max(LEAST_OF_STAR, points.size[1] / ROWS_PER_TRIGGER)):
        trails[(points.group == star) & (trails < 0)] = trails.max() + 1


def _number_windows(
    place: np.ndarray, kind: np.ndarray, half: float, mean: float, least: int, n_tests: int, may: np.ndarray,
    trails: np.ndarray,
) -> None:  # fmt: skip
    """Number the triggers ``may`` in windows of one axis that hold too many of different kinds for chance."""
    order = np.argsort(place, kind="stable")
    place, kind, may = place[order], kind[order], may[order]
    left = np.ones(len(may), dtype=np.bool_)
    while True:
        first, last, count = _fullest_window(place, kind, left, half)
        if count < least or _log_tail(count - 1, mean) + log(len(may) * n_tests) > log(_MOST_OF_A_KIND):
            return
        here = np.arange(first, last)[left[first:last]]
        trails[may[here]] = trails.max() + 1
        left[here] = False


@numba.njit(cache=True, nogil=True)
def _fullest_window(place, kind, left, half):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Half-open range of the sorted places within ``half`` of one of them that hold most kinds, and their number."""
    seen = np.full(kind.max() + 1 if len(kind) else 1, -1)
    best_first, best_last, best = 0, 0, 0
    first, last = 0, 0
    for i in range(len(place)):
        if not left[i]:
            continue
        while place[first] < place[i] - half:
            first += 1
        while last < len(place) and place[last] <= place[i] + half:
            last += 1
        count = 0
        for j in range(first, last):
            if left[j] and seen[kind[j]] != i:
                seen[kind[j]] = i
                count += 1
        if count > best:
            best_first, best_last, best = first, last, count
    return best_first, best_last, best


def _number_lines(
    points: _Points, strongest: np.ndarray, most_seeds: int, bands: tuple[float, ...], trails: np.ndarray
) -> None:
    """Number the triggers on straight lines through the strongest ones, the least likely lines first."""
    among = strongest[trails[strongest] < 0]
    if len(among) < LEAST_MEMBERS:
        return
    some, n_seeds = points.take(among), min(len(among), most_seeds)
    log_tests = log(n_seeds * len(among) * _N_TESTS)
    likely = log(_MOST_OF_A_KIND) - log_tests
    lines = _best_directions(*some.arrays[:3], n_seeds, np.array(bands), np.array(REACHES_PX), likely + _SLACK)
    for seed in np.argsort(lines[:, 3], kind="stable"):
        band, reach, angle, log_chance = lines[seed]
        if log_chance >= 0:
            break
        if trails[among[seed]] >= 0:
            continue
        free = points.take(among[trails[among] < 0])
        line = _fit_line(*free.arrays[:3], points.x[among[seed]], points.row[among[seed]], angle, band, reach)
        count, mean = _count_on_line(free.arrays, points.size, line, band, reach)
        if count >= LEAST_MEMBERS and _log_tail(count - 2, mean) <= likely:
            _number_members(points, line, band, reach, trails)


def _number_members(
    points: _Points, line: tuple[float, float, float], band: float, reach: float, trails: np.ndarray
) -> None:
    """Number all triggers of a trail that lies on a line, whatever their strength."""
    left = np.flatnonzero(trails < 0)
    free = points.take(left)
    members = _members(free, line, band, reach)
    if len(np.unique(free.group[members])) >= LEAST_MEMBERS and np.ptp(free.x[members]) >= LEAST_COLUMNS:
        trails[left[members]] = trails.max() + 1


@numba.njit(cache=True, nogil=True)
def _best_directions(x, row, width, n_seeds, bands, reaches, limit):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Least likely line through each of the first triggers, shape (n, 4).

    Columns: band, reach, direction (radians from the rows' axis) and logarithm of its chance, 0 if above ``limit``.
    """
    lines = np.zeros((n_seeds, 4))
    turns = np.empty((len(bands), len(reaches), _BINS + 1), dtype=np.int32)
    mean = np.empty((len(bands), len(reaches)))
    total = np.empty(_BINS, dtype=np.int32)
    for seed in range(n_seeds):
        turns[:] = 0
        mean[:] = 0
        _turn_to_partners(x, row, width, seed, bands, reaches, turns, mean)
        for b in range(len(bands)):
            total[:] = 0
            expected = 0.0
            for ring in range(len(reaches)):
                expected += mean[b, ring]
                most, where = _add_ring(turns[b, ring], total)
                if most + 1 >= LEAST_MEMBERS:
                    chance = _log_tail(most - 1, expected)
                    if chance < min(lines[seed, 3], limit):
                        lines[seed] = bands[b], reaches[ring], (where + 0.5) * pi / _BINS, chance
    return lines


@numba.njit(cache=True, nogil=True)
def _turn_to_partners(x, row, width, seed, bands, reaches, turns, mean):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count for every direction, band and ring of distance the triggers on a line through one of them, in place.

    ``turns`` are the steps of the counts from one direction to the next; ``mean`` are counts of a random direction.
    """
    for j in range(len(x)):
        dx, dr = x[j] - x[seed], row[j] - row[seed]
        distance = (dx * dx + dr * dr) ** 0.5
        if distance < 2 * bands[0]:
            continue
        across = width[j] * abs(dx) / distance
        ring = 0
        while distance > reaches[ring]:
            ring += 1
        angle = atan2(dx, dr) / pi * _BINS
        for b in range(len(bands)):
            if distance < 2 * bands[b] or across > _MOST_DWELL * bands[b]:
                continue
            spread = (bands[b] + _ROW_ERROR * across) / distance / pi * _BINS
            low, high = floor(angle - spread), ceil(angle + spread)
            mean[b, ring] += (high - low) / _BINS
            _add_turn(turns[b, ring], low, high)


@numba.njit(cache=True, nogil=True)
def _add_turn(turn, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add 1 to the directions ``low`` to ``high``, given as steps of a running sum; they repeat after half a turn."""
    if high - low >= _BINS:
        turn[0] += 1
        return
    first, last = low % _BINS, high % _BINS
    turn[first] += 1
    turn[last] -= 1
    if last < first:
        turn[0] += 1


@numba.njit(cache=True, nogil=True)
def _add_ring(turn, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add a ring of partners to the totals of all directions; the largest total, and the middle of its directions."""
    running, most, first, last = 0, 0, 0, 0
    for k in range(len(total)):
        running += turn[k]
        total[k] += running
        if total[k] > most:
            most, first, last = total[k], k, k
        elif total[k] == most and k == last + 1:
            last = k
    return most, (first + last) / 2


@numba.njit(cache=True, nogil=True)
def _log_tail(count, mean):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Logarithm of the Poisson probability of at least ``count``."""
    if count <= mean:
        return 0.0
    term, total = 1.0, 1.0
    for i in range(1, 200):
        term *= mean / (count + i)
        total += term
        if term < 1e-12:
            break
    return min(-mean + count * log(max(mean, 1e-300)) - lgamma(count + 1.0) + log(total), 0.0)


@numba.njit(cache=True, nogil=True)
def _is_on(across, width, sine, band):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Whether a trigger of a width is on a line that leans by an angle with this sine."""
    dwell = width * abs(sine)
    return dwell <= _MOST_DWELL * band and abs(across) <= band + _ROW_ERROR * dwell


@numba.njit(cache=True, nogil=True)
def _fit_line(x, row, width, x0, row0, angle, band, reach):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Centre and direction of the principal axis of the triggers on a line."""
    for _ in range(3):
        sine, cosine = sin(angle), cos(angle)
        n, sx, sr, sxx, srr, sxr = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(len(x)):
            dx, dr = x[j] - x0, row[j] - row0
            if abs(dx * sine + dr * cosine) <= reach and _is_on(dx * cosine - dr * sine, width[j], sine, band):
                n, sx, sr = n + 1, sx + dx, sr + dr
                sxx, srr, sxr = sxx + dx * dx, srr + dr * dr, sxr + dx * dr
        if n < 3:
            break
        sxx, srr, sxr = sxx - sx * sx / n, srr - sr * sr / n, sxr - sx * sr / n
        x0, row0, angle = x0 + sx / n, row0 + sr / n, 0.5 * atan2(2 * sxr, srr - sxx)
    return x0, row0, angle


@numba.njit(cache=True, nogil=True)
def _count_on_line(points, size, line, band, reach):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Stars and starless triggers on a line, and how many of them chance puts there."""
    x, row, width, group = points
    n_columns, n_rows = size
    x0, row0, angle = line
    sine, cosine = sin(angle), cos(angle)
    seen = np.zeros(group.max() + 1, dtype=np.bool_)
    count, low, high = 0, reach, -reach
    for j in range(len(x)):
        dx, dr = x[j] - x0, row[j] - row0
        along = dx * sine + dr * cosine
        if abs(along) <= reach and _is_on(dx * cosine - dr * sine, width[j], sine, band):
            count += not seen[group[j]]
            seen[group[j]] = True
            low, high = min(low, along), max(high, along)
    if count < LEAST_MEMBERS:
        return count, 0.0
    left, right = min(low * sine, high * sine) - band, max(low * sine, high * sine) + band
    top, bottom = min(low * cosine, high * cosine) - band, max(low * cosine, high * cosine) + band
    area, by_rows, by_columns = 0.0, 0.0, 0.0
    for j in range(len(x)):
        dwell = width[j] * abs(sine)
        if dwell > _MOST_DWELL * band:
            continue
        dx, dr, across = x[j] - x0, row[j] - row0, 2 * (band + _ROW_ERROR * dwell)
        area += across * (high - low) / (n_columns * n_rows)
        if left <= dx <= right:
            by_rows += min(across / max(abs(sine), 1e-9), bottom - top) / n_rows
        if top <= dr <= bottom:
            by_columns += min(across / max(abs(cosine), 1e-9), right - left) / n_columns
    return count, max(area, by_rows, by_columns)


def _members(points: _Points, line: tuple[float, float, float], band: float, reach: float) -> np.ndarray:
    """Positions of all triggers of a trail that lies on a line: its stretch of the line, and the wings beside it."""
    density = len(points.x) / (points.size[0] * points.size[1])
    for _ in range(4):  # the first stretch holds more chance triggers than the last, which tilt the line
        line = _fit_line(*points.arrays[:3], *line, band, reach)
        along, across, on_line = _along_line(points, line, band)
        near = along[on_line & (np.abs(along) <= reach)]
        if len(near) < LEAST_MEMBERS:
            return np.empty(0, dtype=np.int64)
        own = len(near) / max(float(np.ptp(near)), 1.0)
        first, last = _densest_stretch(np.sort(along[on_line]), own, 2 * band * density)
        middle, reach = (first + last) / 2, (last - first) / 2 + band
        line = line[0] + middle * np.sin(line[2]), line[1] + middle * np.cos(line[2]), line[2]
    inside, outer = (along >= first) & (along <= last), band
    dwell = points.width * abs(np.sin(line[2]))
    chosen = inside & (on_line | ((dwell <= _MOST_BLEND_PX) & (across <= band + dwell / 2)))
    for wider in _WIDER:
        strip = inside & (across > outer) & (across <= wider * band) & ~chosen
        if strip.sum() < 3 + 3 * 2 * (wider * band - outer) * (last - first) * density:
            break
        chosen, outer = chosen | strip, wider * band
    return np.flatnonzero(chosen)


def _along_line(
    points: _Points, line: tuple[float, float, float], band: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place of each trigger along a line, its distance from it, and whether it is on it."""
    x0, row0, angle = line
    sine, cosine = np.sin(angle), np.cos(angle)
    dx, dr = points.x - x0, points.row - row0
    across, dwell = np.abs(dx * cosine - dr * sine), points.width * abs(sine)
    return dx * sine + dr * cosine, across, (dwell <= _MOST_DWELL * band) & (across <= band + _ROW_ERROR * dwell)


def _densest_stretch(along: np.ndarray, density: float, by_chance: float) -> tuple[float, float]:
    """First and last place of the stretch that a trail of one density explains best, against chance.

    It has the largest sum of ``log(density / by_chance)`` of each trigger, less ``density - by_chance`` for each pixel.
    """
    gain, loss = log(max(density / by_chance, 1.0)), max(density - by_chance, 0.0)
    best, best_first, best_last, total, first = -np.inf, along[0], along[0], 0.0, along[0]
    for k, place in enumerate(along):
        total = gain + (total - loss * (place - along[k - 1]) if k else 0.0)
        if total < gain:
            total, first = gain, place
        if total > best:
            best, best_first, best_last = total, first, place
    return float(best_first), float(best_last)
