"""Count the triggers beside a trigger: of its own star, in its own rows, and at its own time in other stars."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.context.stars import star_lags
from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX

NEIGHBOUR_FEATURES = (
    "n_same_star",
    "n_same_star_near",
    "loudest_same_star",
    "loudest_same_star_near",
    "same_row_excess",
    "loudest_same_row",
    "same_time_excess",
    "n_beside",
    "loudest_beside",
    "crowd_near",
    "triggers_per_mpix",
)
SAME_STAR_S, SAME_STAR_NEAR_S = 10.0, 1.0  # before and after a trigger
ALIKE = 2.0  # a neighbour's length over a trigger's, or the inverse, below which they may have one cause
TOLERANCE_ROWS, TOLERANCE_LENGTHS = 3.0, 0.25  # by which peaks of one cause differ
BESIDE_PX = 12.0  # columns beyond the trigger's own star
_APART_PX = 8.0


def count_neighbours(amplifier: Amplifier, triggers: pd.DataFrame) -> pd.DataFrame:
    """Count the triggers beside each trigger of an amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        All triggers of the amplifier, with ``x``, ``row_start``, ``row_stop``, ``row_peak`` and ``snr``.

    Returns
    -------
    DataFrame
        `NEIGHBOUR_FEATURES`, float64.

    Notes
    -----
    ``n_same_star``, ``loudest_same_star``: triggers within `TRUTH_MATCH_PX` columns and `SAME_STAR_S` whose rows do not
    overlap the trigger's own, and the largest S/N of them over its own; ``…_near``: within `SAME_STAR_NEAR_S`.

    ``same_row_excess``: triggers of like length elsewhere whose peaks agree, more than the number that is expected
    there, over the square root of that number plus one: (n - e) / √(e + 1), with e from the density of such triggers in
    all rows. ``loudest_same_row``: the largest S/N of them over the trigger's own. ``same_time_excess``: the same for
    the own time of the stars, row - lag; NaN where the lag is not known (`star_lags`).

    ``n_beside``, ``loudest_beside``: triggers in the columns beside it, up to `BESIDE_PX`, with overlapping rows.
    ``crowd_near``: triggers of the amplifier within `SAME_STAR_NEAR_S` over the number expected;
    ``triggers_per_mpix``: of the amplifier.
    """
    n = len(triggers)
    table = {name: np.zeros(n) for name in NEIGHBOUR_FEATURES}
    if n == 0:
        return pd.DataFrame(table, index=triggers.index)
    x, start, stop, peak = (
        triggers[name].to_numpy(dtype=np.float64) for name in ("x", "row_start", "row_stop", "row_peak")
    )
    snr = triggers["snr"].abs().to_numpy(dtype=np.float64)
    _count_same_star(amplifier, x, start, stop, peak, snr, table)
    _count_beside(x, start, stop, snr, table)
    length = stop - start + 1
    table["same_row_excess"], table["loudest_same_row"] = _count_coincident(peak, x, length, snr, amplifier.n_rows)
    own_time = peak - _onsets(amplifier, triggers)
    table["same_time_excess"] = _count_coincident(own_time, x, length, snr, amplifier.n_rows)[0]
    rows = amplifier.readout.rows_of(SAME_STAR_NEAR_S)
    ordered = np.sort(peak)
    within = np.searchsorted(ordered, peak + rows, "right") - np.searchsorted(ordered, peak - rows, "left")
    covered = np.minimum(peak + rows, amplifier.n_rows) - np.maximum(peak - rows, 0)
    table["crowd_near"] = within / np.maximum(n * covered / amplifier.n_rows, 1.0)
    table["triggers_per_mpix"] = np.full(n, 1e6 * n / max(amplifier.live_pixel_rows, 1))
    return pd.DataFrame(table, index=triggers.index)[list(NEIGHBOUR_FEATURES)]


def _onsets(amplifier: Amplifier, triggers: pd.DataFrame) -> np.ndarray:
    """Row at which the own time of each trigger's star begins, NaN without a star of known lag."""
    onset = pd.Series(star_lags(amplifier), index=amplifier.streaks["streak_id"])
    return onset.reindex(triggers["streak_id"].fillna(-1).astype("int64")).to_numpy(dtype=np.float64)


def _count_same_star(
    amplifier: Amplifier,
    x: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    peak: np.ndarray,
    snr: np.ndarray,
    table: dict[str, np.ndarray],
) -> None:
    far, near = (float(amplifier.readout.rows_of(seconds)) for seconds in (SAME_STAR_S, SAME_STAR_NEAR_S))
    order = np.argsort(x, kind="stable")
    first, last = np.searchsorted(x[order], x - TRUTH_MATCH_PX), np.searchsorted(x[order], x + TRUTH_MATCH_PX, "right")
    for reach, suffix in ((far, ""), (near, "_near")):
        counted = _count_apart(order, first, last, start, stop, peak, snr, reach)
        table["n_same_star" + suffix], table["loudest_same_star" + suffix] = counted


@numba.njit(cache=True, nogil=True)
def _count_apart(order, first, last, start, stop, peak, snr, reach):  # pragma: no cover - compiled
    """Number of the triggers between ``first`` and ``last`` with other rows and a near peak, and the loudest of them.

    Loudness is relative to a trigger's own.
    """
    count, loudest = np.zeros(len(first)), np.zeros(len(first))
    for i in range(len(first)):
        for other in order[first[i] : last[i]]:
            is_apart = start[other] > stop[i] or stop[other] < start[i]
            if is_apart and abs(peak[other] - peak[i]) <= reach:
                count[i] += 1
                loudest[i] = max(loudest[i], snr[other])
        loudest[i] /= snr[i]
    return count, loudest


def _count_beside(
    x: np.ndarray, start: np.ndarray, stop: np.ndarray, snr: np.ndarray, table: dict[str, np.ndarray]
) -> None:
    order = np.argsort(x, kind="stable")
    first, last = np.searchsorted(x[order], x - BESIDE_PX), np.searchsorted(x[order], x + BESIDE_PX, "right")
    table["n_beside"], table["loudest_beside"] = _count_overlapping(order, first, last, start, stop, snr)


@numba.njit(cache=True, nogil=True)
def _count_overlapping(order, first, last, start, stop, snr):  # pragma: no cover - compiled
    """Number of the triggers between ``first`` and ``last`` that share rows, and the loudest; as `_count_apart`."""
    count, loudest = np.zeros(len(first)), np.zeros(len(first))
    for i in range(len(first)):
        for other in order[first[i] : last[i]]:
            if start[other] <= stop[i] and stop[other] >= start[i] and other != i:
                count[i] += 1
                loudest[i] = max(loudest[i], snr[other])
        loudest[i] /= snr[i]
    return count, loudest


def _count_coincident(
    time: np.ndarray, x: np.ndarray, length: np.ndarray, snr: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Excess of triggers of like length elsewhere at the same time over chance, and the loudest; NaN without a time."""
    excess, loudest = np.full(len(time), np.nan), np.zeros(len(time))
    known = np.flatnonzero(np.isfinite(time))
    order = known[np.argsort(time[known], kind="stable")]
    sorted_length, ordered = np.sort(length[known]), time[order]
    tolerance = np.maximum(TOLERANCE_ROWS, TOLERANCE_LENGTHS * length)
    first = np.searchsorted(ordered, time - tolerance)
    last = np.searchsorted(ordered, time + tolerance, "right")
    alike = np.searchsorted(sorted_length, ALIKE * length, "right") - np.searchsorted(sorted_length, length / ALIKE)
    count, highest = _count_alike(order, known, first, last, x, length, snr)
    expected = np.maximum(alike - 1, 0) * np.minimum(2 * tolerance / n_rows, 1.0)
    excess[known] = ((count - expected) / np.sqrt(expected + 1))[known]
    loudest[known] = highest[known]
    return excess, loudest


@numba.njit(cache=True, nogil=True)
def _count_alike(order, known, first, last, x, length, snr):  # pragma: no cover - compiled
    """Number of the triggers between ``first`` and ``last`` of like length elsewhere, and the loudest.

    As `_count_apart`, for the triggers ``known`` alone.
    """
    count, loudest = np.zeros(len(x)), np.zeros(len(x))
    for i in known:
        for other in order[first[i] : last[i]]:
            ratio = length[other] / length[i]
            if 1 / ALIKE <= ratio <= ALIKE and abs(x[other] - x[i]) > _APART_PX:
                count[i] += 1
                loudest[i] = max(loudest[i], snr[other])
        loudest[i] /= snr[i]
    return count, loudest
