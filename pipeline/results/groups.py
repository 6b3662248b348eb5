"""Group candidates of one cause: pickup, light on the border of two amplifiers, one flash on several stars, a trail.

Candidates agree by chance, too: in a file of many events some have the same rows. So members of a group agree better
than chance makes them at the density of the candidates that are present: fewer than `MOST_CHANCE_GROUPS` such sets are
expected in a file (the *number of false alarms* of Desolneux, Moisan & Morel 2000, Int. J. Computer Vision 40, 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import pdtrc

from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.results.trail_joints import Trail, join_trails

MOST_CHANCE_GROUPS = 0.05  # expected in a file
_MOST_OF_A_CAUSE = MOST_CHANCE_GROUPS / 4  # rows read together, light on a border, one flash, a trail that goes on
SAME_GROUP_ROWS = 3  # at any row rate: what is read with a row is in all of its columns
BORDER_PX = 30.0  # an aircraft out of focus is as wide; more columns share their rows only if they were read together


@dataclass(frozen=True)
class FileGeometry:
    """Size of one file, and where its quadrants lie on the CCD.

    Parameters
    ----------
    n_rows : int
        Length of the time axis.
    n_columns : int
        Width of a quadrant.
    flips : tuple of (bool, bool)
        Whether the raw columns and the raw rows of each quadrant run against read order, quadrant 1 first. Empty for a
        stack of images.
    """

    n_rows: int
    n_columns: int
    flips: tuple[tuple[bool, bool], ...] = ()

    @classmethod
    def of(cls, info: FrameInfo) -> FileGeometry:
        """Geometry of a file whose headers were read."""
        layouts = getattr(info.profile, "quadrants", ())
        return cls(info.n_rows, info.n_columns, tuple((one.flip_columns, one.flip_rows) for one in layouts))

    @property
    def width(self) -> int:
        """Columns of the CCD from edge to edge."""
        halves = len({columns for columns, _ in self.flips}) or 1
        abreast = max((self._abreast(k) for k in range(len(self.flips))), default=0) + 1
        return halves * abreast * self.n_columns

    def ccd_x(self, quadrant: int | None, x: Any) -> Any:
        """Column on the CCD, counted along raw columns from the left edge, of a column in read order.

        Read order begins at the amplifier, so an amplifier whose raw columns are flipped stands at the right edge.
        """
        if quadrant is None or not 1 <= quadrant <= len(self.flips):
            return x
        inwards = self._abreast(quadrant - 1) * self.n_columns + x
        return self.width - 1 - inwards if self.flips[quadrant - 1][0] else inwards

    def half(self, quadrant: int | None) -> bool:
        """Whether a quadrant is read towards the upper edge; the two halves meet in their last rows."""
        return quadrant is not None and 1 <= quadrant <= len(self.flips) and self.flips[quadrant - 1][1]

    def _abreast(self, index: int) -> int:
        """Number of earlier quadrants with the same flips."""
        return self.flips[:index].count(self.flips[index])


@dataclass(frozen=True)
class GroupedCandidates:
    """Candidates with their ``group_id``, and the number of groups that chance is expected to have made.

    Parameters
    ----------
    table : DataFrame
    chance_groups : float
        Sum over all groups of several members.
    """

    table: pd.DataFrame
    chance_groups: float = 0.0


def group_candidates(
    candidates: pd.DataFrame,
    geometry: Mapping[str, FileGeometry] | None = None,
    trails: Mapping[str, Trail] | None = None,
) -> pd.DataFrame:
    """Group candidates of one cause; parameters and rules are those of `find_groups`."""
    return find_groups(candidates, geometry, trails).table


def find_groups(
    candidates: pd.DataFrame,
    geometry: Mapping[str, FileGeometry] | None = None,
    trails: Mapping[str, Trail] | None = None,
) -> GroupedCandidates:
    """Group candidates of one cause, and state how many groups are expected by chance.

    Parameters
    ----------
    candidates : DataFrame
        From `shutterless.pipeline.results.candidates.build_candidates`, of one file or several.
    geometry : mapping of str to FileGeometry, optional
        By the name of the file. Without it a file ends with its last candidate, and no two quadrants touch.
    trails : mapping of str to Trail, optional
        By ``trail_id``.

    Returns
    -------
    GroupedCandidates
        With ``group_id``: the ``candidate_id`` of the group's strongest member.

    Notes
    -----
    All members of a group have the same sign and lengths within a factor 2. They have one of these causes:

    * a trail that goes on in the next amplifier: see `shutterless.pipeline.results.trail_joints.join_trails`
    * pickup, and whatever else is read at one moment: the same rows
    * light on the border of two amplifiers, or of one event: the same rows, within `BORDER_PX` on the CCD
    * one flash on several stars: the same time of arrival, where it is known

    The same rows are peaks within `SAME_GROUP_ROWS` or a quarter of the shorter one, and more than half of the rows of
    both. Every pair of a group agrees so (complete linkage). If ``k`` of the ``n`` candidates of a file lie within a
    window of ``w`` rows, and each of them has ``m`` others of its sign and length in the file, then chance makes
    ``n / k P(k - 1; m w / n_rows)`` such sets, with the Poisson probability P of so many or more. For light on a
    border the window also has columns.
    """
    numbered = candidates.reset_index(drop=True)
    leader, chance = np.arange(len(numbered)), 0.0
    strength = numbered["snr"].abs().to_numpy(dtype=np.float64)
    for members, expected in _all_groups(numbered, geometry or {}, trails or {}):
        leader[members] = members[np.argmax(strength[members])]
        chance += expected
    named = numbered["candidate_id"].iloc[leader].astype("string").array
    return GroupedCandidates(candidates.assign(group_id=named), chance)


def _all_groups(
    numbered: pd.DataFrame, geometry: Mapping[str, FileGeometry], trails: Mapping[str, Trail]
) -> Iterator[tuple[np.ndarray, float]]:
    """Positions of the members of each group, and the number of such groups expected by chance."""
    free = np.ones(len(numbered), dtype=bool)
    for members, expected in _trails_of_files(numbered, geometry, trails):
        free[members] = False
        yield members, expected
    ends = numbered.groupby("file", sort=False)[["row_stop", "x"]].max()
    for file, part in numbered[free].groupby("file", sort=False):
        if len(part) < 2:
            continue
        last = ends.loc[file]
        plan = geometry.get(str(file)) or FileGeometry(int(last["row_stop"]) + 1, int(np.ceil(last["x"])) + 1)
        for members, expected in _of_file(part, plan):
            yield part.index.to_numpy()[members], expected


def _trails_of_files(
    numbered: pd.DataFrame, geometry: Mapping[str, FileGeometry], trails: Mapping[str, Trail]
) -> Iterator[tuple[np.ndarray, float]]:
    """Candidates that stand for the trails of one moving light. Such a light may cross from one file to the next."""
    named = {int(position): trails[name] for position, name in numbered["trail_id"].dropna().items() if name in trails}
    for sign in (1, -1):
        own = {position: trail for position, trail in named.items() if sign * numbered["snr"].iloc[position] > 0}
        plans = [geometry[file] for file in numbered["file"].iloc[list(own)].unique() if file in geometry]
        if plans:
            size = max(plan.width for plan in plans), max(plan.n_rows for plan in plans)
            for positions, expected in join_trails(own, *size, most=_MOST_OF_A_CAUSE):
                yield np.array(positions), expected


def _of_file(part: pd.DataFrame, plan: FileGeometry) -> Iterator[tuple[np.ndarray, float]]:
    """Groups of one file: what was read together first, since pickup is in all columns, also on borders."""
    free = np.ones(len(part), dtype=bool)
    rows, moments = _Moments.read(part, plan), _Moments.arrived(part, plan)
    for times, reach in ((rows, None), (rows, BORDER_PX), (moments, None)):
        for members, expected in times.groups(free, reach):
            free[members] = False
            yield members, expected


@dataclass(frozen=True)
class _Moments:
    """Rows of the candidates of a file on one clock: that of the readout, or that of the sky."""

    start: np.ndarray
    stop: np.ndarray
    peak: np.ndarray
    sign: np.ndarray
    on_trail: np.ndarray
    ccd_x: np.ndarray
    known: np.ndarray
    plan: FileGeometry
    alike: np.ndarray = field(init=False)  # (n, n): same sign, lengths within a factor 2, both on a trail or neither

    def __post_init__(self) -> None:
        length, known = self.stop - self.start + 1, self.known
        alike = (self.sign[:, None] == self.sign) & (self.on_trail[:, None] == self.on_trail)
        alike &= np.maximum(length[:, None], length) <= 2 * np.minimum(length[:, None], length)
        alike &= known[:, None] & known
        np.fill_diagonal(alike, False)
        object.__setattr__(self, "alike", alike)

    @classmethod
    def read(cls, part: pd.DataFrame, plan: FileGeometry) -> _Moments:
        """Rows as they were read."""
        start, stop, peak = (part[name].to_numpy(dtype=np.float64) for name in ("row_start", "row_stop", "row_peak"))
        quadrants = [None if pd.isna(quadrant) else int(quadrant) for quadrant in part["quadrant"]]
        ccd_x = [plan.ccd_x(quadrant, x) for quadrant, x in zip(quadrants, part["x"], strict=True)]
        return cls(
            start, stop, peak, np.sign(part["snr"].to_numpy(dtype=np.float64)),
            part["trail_id"].notna().to_numpy(dtype=bool), np.array(ccd_x, dtype=np.float64),
            np.ones(len(part), dtype=bool), plan,
        )  # fmt: skip

    @classmethod
    def arrived(cls, part: pd.DataFrame, plan: FileGeometry) -> _Moments:
        """Rows that were read when the light arrived, where that is known."""
        read = cls.read(part, plan)
        event = pd.to_datetime(part["time_event_min_utc"], errors="coerce", format="ISO8601")
        exact = (part["time_event_min_utc"] == part["time_event_max_utc"]).to_numpy() & event.notna().to_numpy()
        seconds = event.to_numpy(dtype="datetime64[ns]").astype(np.int64) / 1e9
        row_s = (part["duration_s"] / (part["row_stop"] - part["row_start"] + 1)).to_numpy()
        zero = seconds[exact].min(initial=np.inf)
        peak = np.where(exact, (seconds - (zero if np.isfinite(zero) else 0.0)) / row_s, np.nan)
        shift = peak - read.peak
        return cls(
            read.start + shift, read.stop + shift, peak, read.sign, read.on_trail, read.ccd_x, exact, plan
        )  # fmt: skip

    def groups(self, free: np.ndarray, reach_px: float | None) -> Iterator[tuple[np.ndarray, float]]:
        """Groups among the free candidates that agree in time and, with a reach, in their column on the CCD."""
        for cluster in _link_completely(*self._agreeing(free, reach_px)):
            members = self._surest(cluster, reach_px)
            if members is not None:
                yield members

    def _agreeing(self, free: np.ndarray, reach_px: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Pairs that agree, int64 (p, 2), the closest first, and the matrix of agreement."""
        agrees = self.alike & free[:, None] & free
        start, stop, peak = self.start, self.stop, self.peak
        first, second = np.nonzero(np.triu(agrees))
        length = np.minimum(stop[first] - start[first], stop[second] - start[second]) + 1
        apart = np.abs(peak[first] - peak[second])
        shared = np.minimum(stop[first], stop[second]) - np.maximum(start[first], start[second]) + 1
        union = np.maximum(stop[first], stop[second]) - np.minimum(start[first], start[second]) + 1
        same = (apart <= np.maximum(SAME_GROUP_ROWS, length / 4) + 1e-3) & (shared > union / 2)
        if reach_px is not None:
            same &= np.abs(self.ccd_x[first] - self.ccd_x[second]) <= reach_px
        first, second, apart = first[same], second[same], apart[same]
        order = np.lexsort((second, first, apart))
        matrix = np.zeros_like(agrees)
        matrix[first, second] = matrix[second, first] = True
        return np.stack([first, second], axis=1)[order], matrix

    def _surest(self, cluster: np.ndarray, reach_px: float | None) -> tuple[np.ndarray, float] | None:
        """The largest part of a cluster that chance does not explain: the outermost members are left out first."""
        members = np.sort(cluster)
        while len(members) > 1:
            expected = self._expected(members, with_place=reach_px is not None)
            if expected <= _MOST_OF_A_CAUSE:
                return members, expected
            off = np.abs(self.peak[members] - np.median(self.peak[members]))
            members = np.delete(members, np.argmax(off))
        return None

    def _expected(self, members: np.ndarray, *, with_place: bool) -> float:
        """Expected number of sets of so many members that agree as well by chance."""
        window = 2 * np.ptp(self.peak[members]) + 1
        share = min(1.0, window / self.plan.n_rows)
        if with_place:
            share *= min(1.0, (2 * np.ptp(self.ccd_x[members]) + 1) / self.plan.width)
        n_others = self.alike[members].sum(axis=1).mean()
        n_sets = np.count_nonzero(self.known) / len(members)
        return float(n_sets * pdtrc(len(members) - 2, n_others * share))


def _link_completely(pairs: np.ndarray, agrees: np.ndarray) -> list[np.ndarray]:
    """Clusters in which every pair agrees; the closest pairs are joined first."""
    clusters: dict[int, list[int]] = {}
    owner: dict[int, int] = {}
    for a, b in pairs.tolist():
        one, other = owner.setdefault(a, a), owner.setdefault(b, b)
        mine, theirs = clusters.setdefault(one, [a]), clusters.setdefault(other, [b])
        if one != other and agrees[np.ix_(mine, theirs)].all():
            mine += clusters.pop(other)
            owner.update(dict.fromkeys(theirs, one))
    return [np.array(cluster) for cluster in clusters.values() if len(cluster) > 1]
