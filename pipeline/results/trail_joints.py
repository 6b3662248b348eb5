"""Join the trails of one moving light that crosses several amplifiers.

A light that moves evenly on the sky draws a straight line of columns and rows in each amplifier. Amplifiers that are
read towards the same edge share the line. Where it crosses to the other half of the CCD the line has a kink, since
there the rows count the other way, but both parts meet: the two halves read the rows in which they touch at the same
moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from shutterless.pipeline.detection.matching import number_groups

ON_LINE_PX, ON_LINE_ROWS = 30.0, 3.0  # half width of the image of an aircraft out of focus; rows of a peak's error
_LEAST_COLUMNS, _LEAST_ROWS = 8.0, 50.0  # a trail of fewer is a bad column, or rows that all columns share
_MOST_OFF_LINE = 0.1  # share of the triggers of two trails that may be off their common line


@dataclass(frozen=True, eq=False)
class Trail:
    """Triggers of one moving light in one amplifier.

    Parameters
    ----------
    ccd : str
        Name of the sequence and the CCD; only trails of one CCD can be one.
    upper : bool
        Whether the amplifier is read towards the upper edge.
    ccd_x, row : ndarray of float64, shape (n,)
        Column on the CCD and row of the sequence of each trigger.
    half_rows : ndarray of float64, shape (n,)
        Half of the rows of each trigger.
    """

    ccd: str
    upper: bool
    ccd_x: np.ndarray
    row: np.ndarray
    half_rows: np.ndarray

    @property
    def moves(self) -> bool:
        """Whether it crosses columns and rows; neither pickup nor a bad column does."""
        return bool(np.ptp(self.ccd_x) >= _LEAST_COLUMNS and np.ptp(self.row) >= _LEAST_ROWS)

    def ends(self) -> np.ndarray:
        """First and last trigger in the order of rows, shape (2, 2): column and row."""
        order = np.lexsort((self.ccd_x, self.row))[[0, -1]]
        return np.stack([self.ccd_x[order], self.row[order]], axis=1)


def join_trails(
    trails: Mapping[int, Trail], n_columns: int, n_rows: int, most: float
) -> Iterator[tuple[list[int], float]]:
    """Trails of one light, and the number of such joints that chance is expected to make.

    Parameters
    ----------
    trails : mapping of int to Trail
        By any number.
    n_columns, n_rows : int
        Size of a CCD, and rows of a file.
    most : float
        Joints that chance may make among all trails.

    Yields
    ------
    numbers : list of int
        In the order given.
    chance : float

    Notes
    -----
    An end of one trail lies within ``d`` columns and ``r`` rows of an end of the other. Chance makes ``4 N (2 d + 1) (2
    r + 1) / (n_columns n_rows)`` such joints of ``N`` pairs of trails. In the same half of the CCD both must lie on one
    straight line; in different halves both must move the same way along the columns. (A light that is faster than the
    rows runs backwards in the rows of one half.) Each end is joined once.
    """
    moving = {number: trail for number, trail in trails.items() if trail.moves}
    pairs = [(a, b) for a in moving for b in moving if a < b and moving[a].ccd == moving[b].ccd]
    joints = sorted(_nearest_ends(a, b, moving, 4 * len(pairs) / (n_columns * n_rows)) for a, b in pairs)
    used: set[tuple[int, int]] = set()
    kept: list[tuple[int, int]] = []
    chance: dict[tuple[int, int], float] = {}
    for expected, (a, end), (b, other) in joints:
        free = (a, end) not in used and (b, other) not in used
        if free and expected <= most and _goes_on(moving[a], end, moving[b], other):
            used |= {(a, end), (b, other)}
            kept.append((a, b))
            chance[a, b] = expected
    numbers = list(moving)
    label = number_groups([(numbers.index(a), numbers.index(b)) for a, b in kept], len(numbers))
    for one in np.unique(label):
        members = [number for number, own in zip(numbers, label, strict=True) if own == one]
        if len(members) > 1:
            yield members, sum(expected for (a, _), expected in chance.items() if a in members)


_Joint = tuple[float, tuple[int, int], tuple[int, int]]


def _nearest_ends(a: int, b: int, trails: Mapping[int, Trail], per_area: float) -> _Joint:
    """Expected number of such joints by chance, and the ends of two trails that are nearest to each other."""
    apart = np.abs(trails[a].ends()[:, None] - trails[b].ends()) * 2 + 1
    area = apart[..., 0] * apart[..., 1]
    end, other = np.unravel_index(np.argmin(area), area.shape)
    return float(area[end, other]) * per_area, (a, int(end)), (b, int(other))


def _goes_on(one: Trail, end: int, other: Trail, begin: int) -> bool:
    """Whether a trail goes on from its end at the beginning of another."""
    if one.upper != other.upper:
        before, after = one.ends()[1 - end, 0] - one.ends()[end, 0], other.ends()[1 - begin, 0] - other.ends()[begin, 0]
        return bool(before * after <= 0 or min(abs(before), abs(after)) <= ON_LINE_PX)
    outwards = one.ends()[end, 1] - one.ends()[1 - end, 1]
    onwards = other.ends()[1 - begin, 1] - other.ends()[begin, 1]
    return outwards * onwards > 0 and _on_one_line(one, other)


def _on_one_line(one: Trail, other: Trail) -> bool:
    """Whether nearly all triggers of two trails lie on one straight line."""
    x, row = np.concatenate([one.ccd_x, other.ccd_x]), np.concatenate([one.row, other.row])
    half_rows = np.concatenate([one.half_rows, other.half_rows])
    slope, offset = np.polyfit(row, x, 1)
    off_px = np.abs(x - slope * row - offset)
    on_line = (off_px <= ON_LINE_PX) | (off_px <= abs(slope) * (ON_LINE_ROWS + half_rows))
    return bool(np.mean(~on_line) <= _MOST_OFF_LINE)
