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
        counts = _count_bits(quality & ~ignored)
        notes.append(f"{column} flags {masked.sum():,} of {len(quality):,} cadences, which are masked ({counts})")
    if kept.any():
        what = f"{column} flags {kept.sum():,} cadences as outliers or cosmic rays, as flares are"
        notes.append(f"{what}: they are kept ({_count_bits(quality[kept])})")
    return tuple(notes)


def _count_bits(quality: np.ndarray) -> str:
    counts = {bit: int(np.count_nonzero(quality & (1 << (bit - 1)))) for bit in range(1, 64)}
    return ", ".join(f"bit {bit}: {count:,}" for bit, count in counts.items() if count)
