"""Say how many cadences the flags of an archive hide, and by which of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def describe_flags(quality: np.ndarray | None, ignored_bits: Sequence[int], column: str) -> tuple[str, ...]:
    """What a column of flags masks, in words.

    Parameters
    ----------
    quality : ndarray of int64, shape (f,), or None
    ignored_bits : sequence of int
        Bits, the lowest being 1, that mask nothing.
    column : str
        Its name; empty for files that never have one.

    Returns
    -------
    tuple of str
    """
    if quality is None:
        return (f"there is no column {column}: no cadence is masked by a flag",) if column else ()
    ignored = sum(1 << (bit - 1) for bit in ignored_bits)
    masked = quality & ~ignored != 0
    kept = (quality & ignored != 0) & ~masked
    notes = []
    if masked.any():
        bits = [bit for bit in range(1, 64) if (quality & ~ignored & (1 << (bit - 1)) != 0).any()]
        counts = ", ".join(f"bit {bit}: {_count(quality, bit):,}" for bit in bits)
        notes.append(f"{column} flags {masked.sum():,} of {len(quality):,} cadences, which are masked ({counts})")
    if kept.any():
        notes.append(f"{column} flags {kept.sum():,} cadences as outliers or cosmic rays, as flares are: they are kept")
    return tuple(notes)


def _count(quality: np.ndarray, bit: int) -> int:
    return int(np.count_nonzero(quality & (1 << (bit - 1))))
