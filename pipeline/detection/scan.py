"""Search every pixel with a matched filter: the PSF across its neighbours and boxes of a row to 3.4 s along time.

This is the first stage of detection. Every place where a box of either sign exceeds a low threshold becomes one hit.
`shutterless.pipeline.detection.triggers` then measures each hit with better templates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import nearest_place
from shutterless.pipeline.compiled.residual_lines import compiled_lines
from shutterless.pipeline.detection.box_search import MIN_LIVE_OF_BOX, WIDEST_BOX, BoxWidths, search_pixels
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.psf import psf_half_width
from shutterless.pipeline.reading.readout import Readout

__all__ = ["MIN_LIVE_OF_BOX", "Footprint", "box_widths", "choose_hits", "footprint", "scan", "whitened"]

LONGEST_BOX_S = 1024 / 300  # of continuous readout: the baseline follows what is longer
MIN_LONGEST_BOX = 16  # rows, where they are slow
LONGEST_BOX_IMAGES = 1024  # of a stack of images, whose baseline is as many times longer whatever their pace
# of too many hits, those come last that are beyond so many of the same rows, or beyond so small a share of all in the
# same columns: pickup, and a column that blinks
SAME_ROWS, SAME_COLUMNS, MOST_OF_ROWS, MOST_OF_COLUMNS = 8, 8, 8, 1 / 64
SAME_CAUSE_COLUMNS = 3  # hits this close along x and y in overlapping rows have one cause
_COLUMNS_AT_ONCE = 64


@dataclass(frozen=True)
class Footprint:
    """Pixels of a stack that the point-spread function covers, and the matched filter over them.

    Parameters
    ----------
    y, x : slice
        Pixels whose time series are needed, all within the stack.
    taps : ndarray of int64, shape (p, k)
        For each of ``p`` sources the flat indices of its ``k`` neighbours in ``residual[y, x]``. A neighbour beyond the
        stack is replaced by a pixel of its border with weight 0.
    kernels : ndarray of float32, shape (p, k)
        ``C⁻¹ (P / σ)``, of unit norm, so that filtered white noise has unit variance. C is the covariance of the
        columns in units of their noise (`Amplifier.column_covariance`), the identity in still air. The filter gives
        least weight to those differences of columns that vary most, as image motion and focus make them.
    """

    y: slice
    x: slice
    taps: np.ndarray
    kernels: np.ndarray


def footprint(amplifier: Amplifier, y: int, x: np.ndarray) -> Footprint:
    """Matched filter for sources in neighbouring pixels of one row of a stack.

    Parameters
    ----------
    amplifier : Amplifier
    y : int
    x : ndarray of int, shape (p,)
        Ascending. ``P`` is centred on a star within half a pixel of the pixel, if there is one, otherwise on the pixel.
    """
    half = psf_half_width(amplifier.psf_sigma_px)
    half_y = half if amplifier.n_y > 1 else 0
    tap_y, tap_x = y + np.arange(-half_y, half_y + 1), x[:, None] + np.arange(-half, half + 1)
    inside_y, inside_x = (tap_y >= 0) & (tap_y < amplifier.n_y), (tap_x >= 0) & (tap_x < amplifier.n_columns)
    tap_y, tap_x = np.clip(tap_y, 0, amplifier.n_y - 1), np.clip(tap_x, 0, amplifier.n_columns - 1)
    window = slice(tap_y[0], tap_y[-1] + 1), slice(tap_x.min(), tap_x.max() + 1)
    sigma = amplifier.sigma_e[window].mean(axis=2)
    columns = tap_x - window[1].start
    lines = (tap_y - window[0].start)[None, :, None] * sigma.shape[1] + columns[:, None, :]
    light = _centred_light(amplifier, y, x, half_y, half)
    weight = light / sigma[(tap_y - window[0].start)[None, :, None], columns[:, None, :]]
    weight *= inside_y[None, :, None] & inside_x[:, None, :]
    weight = whitened(amplifier, x, weight.reshape(len(x), -1))
    kernels = (weight / np.sqrt(np.sum(weight**2, axis=1, keepdims=True))).astype(np.float32)
    return Footprint(*window, lines.reshape(len(x), -1), kernels)


def whitened(amplifier: Amplifier, x: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Filter for light (p, k) on the columns around each of ``x`` (p,): C⁻¹ times the light, as in `Footprint`."""
    covariance = amplifier.column_covariance
    if covariance is None:
        return light
    outside = (covariance.shape[1] - light.shape[1]) // 2
    inner = slice(outside, covariance.shape[1] - outside)
    near = covariance[x, inner, inner]
    moving = np.flatnonzero(np.any(near != np.eye(light.shape[1]), axis=(1, 2)))
    filters = np.array(light)
    filters[moving] = np.linalg.solve(near[moving], light[moving][..., None])[..., 0]
    filters[light == 0] = 0  # a column beyond the border
    return filters


def _centred_light(amplifier: Amplifier, y: int, x: np.ndarray, half_y: int, half: int) -> np.ndarray:
    """Share of a source's light on the pixels around each place, (p, y, x), centred on the pixel's star if any."""
    centre = np.stack([np.full(len(x), y), x], axis=1).astype(np.float64)
    star = nearest_place(amplifier.star_places, centre, within_px=0.5)
    centre[star >= 0] = amplifier.star_places[star[star >= 0]]
    reach_y, reach = np.arange(-half_y, half_y + 1), np.arange(-half, half + 1)
    return amplifier.profile(y + reach_y - centre[:, :1], x[:, None] + reach - centre[:, 1:])


def box_widths(readout: Readout) -> tuple[int, ...]:
    """Rows of the boxes of the bank, ascending: powers of two, and one and a half times as many."""
    longest = LONGEST_BOX_IMAGES
    if readout.n_transit:  # rows are clocked
        longest = min(readout.rows_of(LONGEST_BOX_S, MIN_LONGEST_BOX), WIDEST_BOX)
    powers = 2 ** np.arange(1, longest.bit_length())
    widths = np.union1d([1], np.concatenate([powers, powers // 2 * 3]))
    return tuple(widths[widths <= longest].tolist())


def scan(amplifier: Amplifier, threshold: float = TRIGGER_THRESHOLD) -> pd.DataFrame:
    """Find every place where a box template of either sign exceeds the threshold, each cause once.

    Parameters
    ----------
    amplifier : Amplifier
    threshold : float
        Smallest S/N of a trigger.

    Returns
    -------
    DataFrame
        ``y`` and ``x`` (pixel), ``row_start``, ``width_rows`` and ``snr`` (signed), ordered by row, then pixel.
    """
    widths = BoxWidths.up_to(box_widths(amplifier.readout), amplifier.n_rows)
    found = []
    for y in range(amplifier.n_y):
        near = footprint(amplifier, y, np.arange(amplifier.n_columns))
        lines = compiled_lines(amplifier.residual[near.y])
        for start in range(0, amplifier.n_columns, _COLUMNS_AT_ONCE):
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            hits = search_pixels(lines, near.taps[columns], near.kernels[columns], widths, threshold)
            hits[:, 0] += y * amplifier.n_columns + start
            found.append(hits)
    return _keep_strongest(np.concatenate(found), amplifier.n_y, amplifier.n_columns)


def choose_hits(hits: pd.DataFrame, most: float) -> np.ndarray:
    """Choose the hits that are measured where there are too many: the strongest, and few of one column or row.

    Parameters
    ----------
    hits : DataFrame
        From `scan`.
    most : float
        A whole number, or infinite.

    Returns
    -------
    ndarray of bool, shape (number of hits,)
        At most ``most`` are true; all of no more than that.
    """
    chosen = np.ones(len(hits), dtype=bool)
    if len(hits) > most:
        strength = hits["snr"].abs().to_numpy()
        rows = (hits["row_start"] + hits["width_rows"] // 2).to_numpy() // SAME_ROWS
        columns = hits["y"].to_numpy() * (1 + hits["x"].max()) + hits["x"].to_numpy() // SAME_COLUMNS
        crowded = _rank_within(rows, strength) >= MOST_OF_ROWS
        crowded |= _rank_within(columns, strength) >= max(MOST_OF_COLUMNS * most, MOST_OF_ROWS)
        chosen[np.lexsort((-strength, crowded))[int(most) :]] = False
    return chosen


def _rank_within(group: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Rank from 0 of each member of a group, the strongest first."""
    order = np.lexsort((-strength, group))
    first = np.searchsorted(group[order], group[order])
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - first
    return rank


def _keep_strongest(hits: np.ndarray, n_y: int, n_columns: int) -> pd.DataFrame:
    """One hit per cause: the strongest of those within `SAME_CAUSE_COLUMNS` pixels and one width in rows."""
    order = np.lexsort((hits[:, 2], hits[:, 1], hits[:, 0], -np.abs(hits[:, 3])))
    hits = hits[order]
    kept = hits[_suppress(hits, n_y, n_columns, SAME_CAUSE_COLUMNS)]
    kept = kept[np.lexsort((kept[:, 0], kept[:, 1]))]
    pixel = kept[:, 0].astype(np.int64)
    return pd.DataFrame(
        {
            "y": pixel // n_columns,
            "x": pixel % n_columns,
            "row_start": kept[:, 1].astype(np.int64),
            "width_rows": kept[:, 2].astype(np.int64),
            "snr": kept[:, 3],
        }
    )


@numba.njit(cache=True, nogil=True)
def _suppress(hits, n_y, n_columns, same_pixels):  # pragma: no cover - compiled
    """Indices of the hits that no stronger hit explains, strongest first."""
    newest = np.full((n_y, n_columns), -1, dtype=np.int64)  # last kept hit of a pixel; `before` holds earlier ones
    before = np.full(len(hits), -1, dtype=np.int64)
    kept = np.empty(len(hits), dtype=np.int64)
    n_kept = 0
    for i in range(len(hits)):
        y, column = int(hits[i, 0]) // n_columns, int(hits[i, 0]) % n_columns
        explained = False
        for near_y in range(max(y - same_pixels, 0), min(y + same_pixels + 1, n_y)):
            for other in range(max(column - same_pixels, 0), min(column + same_pixels + 1, n_columns)):
                k = newest[near_y, other]
                while k >= 0 and not explained:
                    explained = (
                        hits[i, 1] <= hits[k, 1] + 2 * hits[k, 2] and hits[i, 1] + hits[i, 2] >= hits[k, 1] - hits[k, 2]
                    )
                    k = before[k]
        if not explained:
            before[i] = newest[y, column]
            newest[y, column] = i
            kept[n_kept] = i
            n_kept += 1
    return kept[:n_kept]
