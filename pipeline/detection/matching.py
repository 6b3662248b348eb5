"""Match detections with rows of a truth table, and number groups of detections that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

TRUTH_MATCH_PX = 3.0


def match_truth(detections: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Match the detections of one amplifier of one file to its truth rows.

    Parameters
    ----------
    detections : DataFrame
        With ``x``, ``row_start``, ``row_stop`` and ``width_rows``, and ``y`` for a stack of images.
    truth : DataFrame
        With ``x``, ``row_start``, ``row_stop`` and ``rho``, and ``y`` for a stack of images.

    Returns
    -------
    ndarray of int64, shape (number of detections,)
        Position of the matching truth row, -1 without one. A match lies within `TRUTH_MATCH_PX` in x and y, and its
        rows overlap those of the truth within one width of the template. Among several truth rows, those that overlap
        without that tolerance take precedence, then the one with the highest ``rho``.
    """
    matched = np.full(len(detections), -1, dtype=np.int64)
    columns = {
        name: detections[name].to_numpy(dtype=np.float64) for name in ("x", "row_start", "row_stop", "width_rows")
    }
    best = np.full(len(detections), -np.inf)
    overlapped = np.zeros(len(detections), dtype=bool)
    y, truth_y = (
        table["y"].fillna(0).to_numpy(float) if "y" in table else np.zeros(len(table)) for table in (detections, truth)
    )
    for position, row in enumerate(truth[["x", "row_start", "row_stop", "rho"]].itertuples(index=False)):
        near = (np.abs(columns["x"] - row.x) <= TRUTH_MATCH_PX) & (np.abs(y - truth_y[position]) <= TRUTH_MATCH_PX)
        near &= columns["row_start"] <= row.row_stop + columns["width_rows"]
        near &= columns["row_stop"] >= row.row_start - columns["width_rows"]
        overlaps = (columns["row_start"] <= row.row_stop) & (columns["row_stop"] >= row.row_start)
        near &= np.where(overlaps == overlapped, row.rho > best, overlaps)
        matched[near] = position
        best[near] = row.rho
        overlapped[near] = overlaps[near]
    return matched


def match_places(detections: pd.DataFrame, places: pd.DataFrame) -> np.ndarray:
    """As `match_truth`, for places that have no ``rho`` and are all alike."""
    return match_truth(detections, places.assign(rho=1.0))


def number_groups(pairs: Sequence[tuple[int, int]], n: int) -> np.ndarray:
    """Group number of each of ``n`` things, int64 (n,); things joined by a chain of pairs share a group."""
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
