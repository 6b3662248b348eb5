"""Put the frames of a file into the order of their times, each once."""

from __future__ import annotations

import numpy as np


def order_frames(times: np.ndarray | None, numbers: np.ndarray | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Order of the frames by their numbers, or else by their times.

    Parameters
    ----------
    times : ndarray of float64, shape (f,), or None
        NaN where unknown.
    numbers : ndarray of int64, shape (f,), or None

    Returns
    -------
    order : ndarray of int64, shape (k,), or None
        Frames of the file in order, a repeated one once; None if they stand so, or if times and numbers contradict each
        other.
    notes : tuple of str
        What was done, in words.
    """
    keys = numbers if numbers is not None else times
    if keys is None or len(keys) < 2 or not np.isfinite(keys).all() or (np.diff(keys) > 0).all():
        return None, ()
    order = np.argsort(keys, kind="stable")
    fresh = np.concatenate([[True], np.diff(keys[order]) > 0])
    if numbers is not None and times is not None and not _agree(times[order], fresh):
        return None, ()
    n_moved = int(np.count_nonzero(np.diff(keys) < 0))
    n_repeated = int(np.count_nonzero(~fresh))
    if 2 * n_repeated > len(keys):
        return None, ()
    notes = []
    if n_moved:
        notes.append(f"cadences are out of order at {n_moved:,} places: they are sorted")
    if n_repeated:
        notes.append(f"{n_repeated:,} cadences are repeated: each counts once")
    return order[fresh], tuple(notes)


def _agree(times: np.ndarray, fresh: np.ndarray) -> bool:
    """Whether sorted numbers give rising times; repeated numbers have equal ones."""
    known = np.isfinite(times)
    steps, new = np.diff(times[known]), fresh[known][1:]
    return bool((steps[new] > 0).all() and (steps[~new] == 0).all())
