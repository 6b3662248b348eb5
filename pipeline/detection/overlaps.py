"""Join the triggers of overlapping segments so that every cause appears once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX


def join_overlaps(tables: Sequence[pd.DataFrame], owns: Sequence[tuple[int, int]]) -> list[pd.DataFrame]:
    """Keep the triggers of each segment that belong to its own rows.

    Parameters
    ----------
    tables : sequence of DataFrame
        Triggers of the segments of one time series in the order of their rows, each with ``x``, ``snr``,
        ``row_start``, ``row_stop`` and ``row_peak`` in rows of the sequence.
    owns : sequence of (int, int)
        Half-open range of rows whose peaks belong to each segment.

    Returns
    -------
    list of DataFrame
        One per segment. A trigger is kept if its peak lies in the segment's own rows. Two segments may place the peak
        of one cause on different sides of their border. If both or neither then own it, the stronger trigger is kept.
    """
    kept = [_peaks_within(table, own) for table, own in zip(tables, owns, strict=True)]
    for k in range(len(tables) - 1):
        for a, b in _same_causes(tables[k], tables[k + 1]):
            if kept[k][a] == kept[k + 1][b]:
                first_is_stronger = abs(tables[k]["snr"].iloc[a]) >= abs(tables[k + 1]["snr"].iloc[b])
                kept[k][a], kept[k + 1][b] = first_is_stronger, not first_is_stronger
    return [
        table if keep.all() else table[keep].reset_index(drop=True) for table, keep in zip(tables, kept, strict=True)
    ]


def _peaks_within(table: pd.DataFrame, own: tuple[int, int]) -> np.ndarray:
    """Mask of the triggers that peak in a segment's own rows; an empty table need not have columns."""
    if table.empty:
        return np.zeros(0, dtype=bool)
    # a copy, since pandas returns a read-only view
    return table["row_peak"].between(*own, inclusive="left").to_numpy(copy=True)


def _same_causes(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[int, int]]:
    """Positions of triggers of two segments that have one cause; each appears at most once, nearest peaks first."""
    if first.empty or second.empty:
        return []
    x, start, stop, peak, snr = (
        [table[name].to_numpy(dtype=np.float64) for table in (first, second)]
        for name in ("x", "row_start", "row_stop", "row_peak", "snr")
    )
    here, there = np.flatnonzero(stop[0] >= start[1].min()), np.flatnonzero(start[1] <= stop[0].max())
    pairs = []
    for a in map(int, here):
        near = np.abs(x[1][there] - x[0][a]) <= TRUTH_MATCH_PX
        near &= (start[1][there] <= stop[0][a]) & (stop[1][there] >= start[0][a]) & (snr[1][there] * snr[0][a] > 0)
        pairs += [(abs(peak[1][b] - peak[0][a]), int(a), int(b)) for b in there[near]]
    used_a: set[int] = set()
    used_b: set[int] = set()
    causes = []
    for _, i, j in sorted(pairs):
        if i not in used_a and j not in used_b:
            used_a.add(i)
            used_b.add(j)
            causes.append((i, j))
    return causes
