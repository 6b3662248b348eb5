"""Find bytes and counters that a capture program or a GPS card wrote into the first or the last row of every image."""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA

FEWEST_ROWS, FEWEST_IMAGES_FOR_DATA = 4, 20  # of an image, so that other rows tell what noise is; of a series
_COUNTER_SHARE = 0.9  # of the steps of a counter that are alike
_IDLE_SHARE, _LIVE_SHARE = 0.5, 0.1  # of steps that are 0: in a byte that seldom changes, and at most in other rows
_LOUD = 4.0  # scatter of a byte over the largest one of the other rows
_EVEN = 0.24  # scatter over range: 0.29 of equally frequent values, < 0.2 of noise
_WHITE = 1.2  # steps over scatter: 1.4 of values without an order
_FEWEST_IMAGES_FOR_RANGE = 100
_WRAPS = (1 << 8, 1 << 16)  # at which counters begin again
_MOST_IMAGES = 2000  # that are looked at


def find_embedded_data(images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of the first and the last row whose values are data of a program and not light.

    Parameters
    ----------
    images : ndarray, shape (t, y, x)
        As the file has them.

    Returns
    -------
    embedded : ndarray of bool, shape (y, x)
    notes : tuple of str
        What was found, in words.

    Notes
    -----
    Light has noise. A pixel of these rows is none if it counts (nearly all of its steps are one number), if it stands
    still for most of the time while pixels of other rows do not, or if it jumps by far more than any of them between
    values that are all equally frequent. Whole numbers alone are looked at.
    """
    embedded = np.zeros(images.shape[1:], dtype=bool)
    n_images, n_y, n_x = images.shape
    if n_y < FEWEST_ROWS or n_images < FEWEST_IMAGES_FOR_DATA:
        return embedded, ()
    some = images[:_MOST_IMAGES]
    border = some[:, [0, -1]].astype(np.float64)
    if not np.isfinite(border).all() or (border != np.rint(border)).any():
        return embedded, ()
    inner = np.diff(some[:, 1:-1].astype(np.float64), axis=0)
    if not np.isfinite(inner).all() or np.mean(inner == 0) > _LIVE_SHARE:
        return embedded, ()
    steps = np.diff(border, axis=0)
    loudest = MAD_TO_SIGMA * np.median(np.abs(inner), axis=0).max()
    idle = np.mean(steps == 0, axis=0) > _IDLE_SHARE
    loud = MAD_TO_SIGMA * np.median(np.abs(steps), axis=0) > _LOUD * loudest
    embedded[[0, -1]] = _is_counter(steps) | idle | (loud & _is_even(border, steps))
    notes = tuple(
        f"{int(embedded[row].sum()):,} of {n_x:,} pixels of row {row % n_y} hold no light but numbers (a counter, a "
        "time): they are masked"
        for row in (0, -1)
        if embedded[row].any()
    )
    return embedded, notes


def _is_counter(steps: np.ndarray) -> np.ndarray:
    """Whether nearly all steps of a pixel are one number other than 0, bool (2, x); a counter may begin again."""
    counts = np.zeros(steps.shape[1:], dtype=bool)
    for wrap in _WRAPS:
        wrapped = np.mod(steps, wrap)
        usual = np.median(wrapped, axis=0)
        counts |= (usual != 0) & (np.mean(wrapped == usual, axis=0) > _COUNTER_SHARE)
    return counts


def _is_even(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Whether values (t, 2, x) are equally frequent and independent, as those of the lowest byte of a clock."""
    scatter, extent = values.std(axis=0), np.ptp(values, axis=0)
    is_even = (scatter > _EVEN * extent) & (steps.std(axis=0) > _WHITE * scatter)
    return np.asarray(is_even & (len(values) >= _FEWEST_IMAGES_FOR_RANGE))
