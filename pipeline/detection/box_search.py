"""Search the filtered light of many pixels with boxes of many widths, and find runs of positions above a threshold.

A box is the sum of two boxes of half its width, so each width costs one addition per position. Rounding errors are
those of pairwise sums and do not depend on the length of a file, since no cumulative sum grows over a million rows. For
each width the highest of every `CHUNK` positions is compared with the threshold; only where it is above are all tested.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from shutterless.pipeline.compiled.residual_lines import mark_live, unpack_line, weighted_sum

MIN_LIVE_OF_BOX = 0.5  # live fraction below which a box or a PSF is not searched
SCAN_BLOCK_ROWS = (
    12_288  # positions searched at once, a multiple of every stride; sums of one pixel stay in the L2 cache
)
WIDEST_BOX = 4 * SCAN_BLOCK_ROWS  # the strides of wider ones are none of which so many rows are a multiple
CHUNK = 128
_ROWS_UNPACKED = 512  # residuals of 72 columns stay in the L2 cache
_STRIDES_PER_BOX = 8  # long boxes are placed at every eighth of their width, which costs at most 3 % of their S/N
_SPARE = 4 * CHUNK  # chunks are summed whole, beyond the last row too
_MAGNITUDE = np.uint32(0x7FFF_FFFF)  # bits of a single without its sign; these sort as integers


class BoxWidths(NamedTuple):
    """Widths that are searched, and the narrower widths whose sums make up theirs.

    Parameters
    ----------
    width, stride : ndarray of int64, shape (w,)
        Rows of a box, ascending, and rows between its positions.
    first, second : ndarray of int64, shape (w,)
        Indices of the two widths whose sum a box is; for a width of 1 its own.
    """

    width: np.ndarray
    stride: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def up_to(cls, widths: tuple[int, ...], n_rows: int) -> BoxWidths:
        """Those of ``widths`` that fit into ``n_rows``; ``widths`` begins with 1 and holds the halves of each."""
        known = [width for width in widths if width <= n_rows]
        halves = [(width // 2, width - width // 2) if width % 2 == 0 else (width - 1, 1) for width in known[1:]]
        first, second = ([0, *(known.index(pair[k]) for pair in halves)] for k in (0, 1))
        width = np.array(known, dtype=np.int64)
        return cls(width, np.maximum(1, width // _STRIDES_PER_BOX), np.array(first), np.array(second))


def search_pixels(
    residual: np.ndarray, taps: np.ndarray, kernels: np.ndarray, widths: BoxWidths, threshold: float
) -> np.ndarray:
    """Find every run of positions where boxes of one width and sign exceed the threshold.

    Parameters
    ----------
    residual : ndarray, shape (l, t)
        Lines of `shutterless.pipeline.compiled.residual_lines.compiled_lines`; values that are not finite are masked.
    taps : ndarray of int64, shape (p, k)
        Lines of the neighbours of each pixel.
    kernels : ndarray of float32, shape (p, k)
        Their weights, of unit norm.
    widths : BoxWidths
    threshold : float

    Returns
    -------
    ndarray of float64, shape (h, 4)
        Pixel, first row, width and signed S/N of the highest position of every run.
    """
    n_pixels, n_rows, n_widths = len(taps), residual.shape[1], len(widths.width)
    reach = int(widths.width[-1]) - 1  # rows by which boxes reach into the next block
    length = min(SCAN_BLOCK_ROWS + reach, n_rows) + _SPARE
    numbers, places = np.unique(taps, return_inverse=True)
    series, valid = np.zeros((2, n_pixels, length), np.float32)
    whole = np.ones(n_pixels, bool)
    best, rows = np.zeros((n_pixels, n_widths), np.float32), np.full((n_pixels, n_widths, 2), -1)
    hits = []
    for start in range(0, n_rows, SCAN_BLOCK_ROWS):
        stop = min(start + SCAN_BLOCK_ROWS + reach, n_rows)
        filter_rows(residual, numbers, start, stop, places.reshape(taps.shape), kernels, series, valid, whole)
        hits.append(_search_rows(series, valid, whole, start, stop, widths, np.float32(threshold), best, rows))
    return np.concatenate([*hits, _unfinished_runs(best, rows[..., 0], widths.width)])


def _unfinished_runs(best: np.ndarray, best_row: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Hits of the runs that last until the end of the file."""
    pixel, k = np.nonzero(best_row >= 0)
    return np.stack([pixel, best_row[pixel, k], width[k], best[pixel, k]], axis=1).astype(np.float64)


@numba.njit(cache=True, nogil=True)
def filter_rows(residual, numbers, start, stop, taps, kernels, series, valid, whole):  # pragma: no cover - compiled
    """Apply the matched filter of some pixels (p, k) to rows ``start..stop`` of the lines ``numbers`` of ``residual``.

    ``series`` (p, t) becomes the filtered light. Where part of a kernel is masked, it is scaled to unit variance; where
    more than half of the weight is masked, it is 0. ``whole`` (p) states which pixels have no masked tap. For the
    others ``valid`` (p, t) becomes 1 where at least half of the weight is live, else 0. Both are 0 beyond ``stop``.
    """
    n_rows, n_lines = stop - start, len(numbers)
    lines, live = np.empty((n_lines, _ROWS_UNPACKED), np.float32), np.ones((n_lines, _ROWS_UNPACKED), np.float32)
    masked = np.zeros(n_lines, np.bool_)
    whole[:] = True
    for first in range(0, n_rows, _ROWS_UNPACKED):
        last = min(first + _ROWS_UNPACKED, n_rows)
        for line in range(n_lines):
            raw = residual[numbers[line]][start + first : start + last]
            masked[line] = _unpack(raw, lines[line], live[line], masked[line])
        for pixel in range(len(taps)):
            part = series[pixel][first:last]
            weighted_sum(lines, taps[pixel], kernels[pixel], part)
            if _is_touched(masked, taps[pixel], kernels[pixel]):
                if whole[pixel]:
                    whole[pixel] = False
                    valid[pixel, :n_rows] = 1
                _rescale(live, taps[pixel], kernels[pixel], part, valid[pixel][first:last])
    series[:, n_rows:] = 0
    valid[:, n_rows:] = 0


@numba.njit(cache=True, nogil=True)
def _unpack(raw, line, live, was_masked):  # pragma: no cover - compiled
    """As `unpack_line`; ``live`` becomes 1 in finite rows. Unless the line ``was_masked``, it is 1 already."""
    any_masked = unpack_line(raw, line[: len(raw)])
    if any_masked:
        mark_live(raw, live[: len(raw)])
    elif was_masked:
        live[:] = 1
    return any_masked


@numba.njit(cache=True, nogil=True)
def _is_touched(masked, taps, kernel):  # pragma: no cover - compiled
    """Whether a line with a weight holds a masked value."""
    touched = False
    for k in range(len(taps)):
        touched = touched or (masked[taps[k]] and kernel[k] != 0)
    return touched


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _rescale(live, taps, kernel, series, valid):  # pragma: no cover - compiled
    """Scale the sum over live taps to unit variance; it is 0 and invalid where they hold less than half the weight."""
    square = np.empty_like(kernel)
    for k in range(len(kernel)):
        square[k] = kernel[k] ** 2
    weighted_sum(live, taps, square, valid)
    for t in range(len(series)):
        weight = valid[t]
        enough = weight >= np.float32(MIN_LIVE_OF_BOX)
        series[t] = series[t] / np.sqrt(weight) if enough else np.float32(0)
        valid[t] = np.float32(1) if enough else np.float32(0)


@numba.njit(cache=True, nogil=True)
def _search_rows(series, valid, whole, start, stop, widths, threshold, best, rows):  # pragma: no cover - compiled
    """Hits of runs that end in a block of rows; ``best`` (p, w) and ``rows`` (p, w, 2) hold runs that continue.

    ``rows`` are the first rows of the best and of the last position of a run; -1 without a run.
    """
    width, stride, n_widths = widths.width, widths.stride, len(widths.width)
    boxes, counts = np.zeros((n_widths, series.shape[1]), np.float32), np.zeros((n_widths, series.shape[1]), np.float32)
    highest = np.zeros(series.shape[1] // CHUNK + 1, np.uint32)
    hits = [(0.0, 0.0, 0.0, 0.0)]  # the first entry gives the compiler the type
    for pixel in range(len(series)):
        for k in range(n_widths):
            n_boxes = (stop - start - width[k]) // stride[k] + 1
            if n_boxes <= 0:
                break
            n_chunks = -(-n_boxes // CHUNK)
            _add_boxes(series[pixel], boxes, k, widths, n_chunks)
            box = boxes[k] if k else series[pixel]
            _find_highest(box, highest, n_chunks)
            count = counts[k] if k else valid[pixel]
            if not whole[pixel]:
                _add_boxes(valid[pixel], counts, k, widths, n_chunks)
            n_here = min(n_boxes, SCAN_BLOCK_ROWS // stride[k])  # the others belong to the next block
            run = best[pixel, k : k + 1], rows[pixel, k]
            scale = start, stride[k], width[k]
            _follow_runs(box[:n_here], count, whole[pixel], highest, scale, pixel, threshold, run, hits)
    return np.array(hits)[1:]


@numba.njit(cache=True, nogil=True)
def _add_boxes(series, boxes, k, widths, n_chunks):  # pragma: no cover - compiled
    """Sums over boxes of the ``k``-th width at all its positions, from the sums of narrower boxes."""
    if k == 0:  # the series itself
        return
    first, second = widths.first[k], widths.second[k]
    near = boxes[first] if first else series
    far = (boxes[second] if second else series)[widths.width[first] // widths.stride[second] :]
    ratio = widths.stride[k] // widths.stride[first]
    if ratio == 1:
        _add_lines(near, far, boxes[k], n_chunks * CHUNK)
        return
    for chunk in range(n_chunks):
        place = slice(chunk * ratio * CHUNK, (chunk + 1) * ratio * CHUNK)
        _add_every(ratio, near[place], far[place], boxes[k, chunk * CHUNK : (chunk + 1) * CHUNK])


@numba.njit(cache=True, nogil=True)
def _add_lines(near, far, total, n):  # pragma: no cover - compiled
    near, far, total = near[:n], far[:n], total[:n]
    for i in range(n):
        total[i] = near[i] + far[i]


@numba.njit(cache=True, nogil=True)
def _add_every(ratio, near, far, total):  # pragma: no cover - compiled
    """Sums of every second or third element; a step known at compile time costs a third of a variable one."""
    if ratio == 2:
        for i in range(CHUNK):
            total[i] = near[2 * i] + far[2 * i]
    else:
        for i in range(CHUNK):
            total[i] = near[ratio * i] + far[ratio * i]


@numba.njit(cache=True, nogil=True)
def _find_highest(box, highest, n_chunks):  # pragma: no cover - compiled
    """Largest absolute value of every chunk, as the bits of a single; the compiler compares sixteen of them at once."""
    bits = box.view(np.uint32)
    for chunk in range(n_chunks):
        part = bits[chunk * CHUNK : (chunk + 1) * CHUNK]
        largest = np.uint32(0)
        for i in range(CHUNK):
            largest = max(largest, np.uint32(part[i] & _MAGNITUDE))
        highest[chunk] = largest


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _follow_runs(box, count, is_whole, highest, scale, pixel, threshold, run, hits):  # pragma: no cover - compiled
    """Append the highest S/N of each run of positions above the threshold, per sign, once the run has ended."""
    best, best_row, last_row = run[0][0], run[1][0], run[1][1]
    start, stride, width = scale
    limit = threshold * np.sqrt(np.float32(width))
    least = np.float32(limit if is_whole else limit * np.sqrt(MIN_LIVE_OF_BOX) * (1 - 1e-5))
    least_bits = np.uint32(least.view(np.uint32))
    norm = np.sqrt(np.float32(width))
    for chunk in range(-(-len(box) // CHUNK)):
        if highest[chunk] < least_bits:
            continue
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(box))):
            if not abs(box[i]) >= least:  # also skips sums that are NaN because their kernel is
                continue
            if not is_whole:
                if count[i] < MIN_LIVE_OF_BOX * width:
                    continue
                norm = np.sqrt(count[i])
            snr = np.float32(box[i] / norm)
            if abs(snr) < threshold:
                continue
            row = start + i * stride
            if best_row >= 0 and (row - last_row > width or (snr > 0) != (best > 0)):
                hits.append((float(pixel), float(best_row), float(width), float(best)))
                best = np.float32(0)
            if abs(snr) > abs(best):
                best, best_row = snr, row
            last_row = row
    run[0][0], run[1][0], run[1][1] = best, best_row, last_row
