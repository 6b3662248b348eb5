"""Say what an archive hides by flags, and put back what it took off as cosmic rays."""

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


def restore_cosmic_rays(
    flux: np.ndarray, removed: np.ndarray | None, column: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Add the light that the archive took off as cosmic rays, since a flare of one cadence looks like one.

    Kepler keeps it in a column of its own, in the unit of the flux (Kepler Archive Manual, KDMC-10008-006).

    Parameters
    ----------
    flux : ndarray of float32, shape (f, y, x)
    removed : ndarray of float32, or None
        Of the shape of ``flux``, NaN or 0 where nothing was taken off.
    column : str or None
        Its name.

    Returns
    -------
    flux : ndarray of float32, shape (f, y, x)
    notes : tuple of str
    """
    if removed is None:
        return flux, ()
    if removed.shape != flux.shape:
        shapes = " and ".join(" × ".join(map(str, array.shape)) for array in (removed, flux))
        return flux, (f"{column} is not read: it and the pixels have the shapes {shapes}",)
    is_taken = np.isfinite(removed) & (removed != 0)
    if not is_taken.any():
        return flux, ()
    taken = f"{int(is_taken.sum()):,} pixels in {int(is_taken.any(axis=(1, 2)).sum()):,} cadences"
    return (
        np.where(is_taken, flux + removed, flux),
        (f"{column}: what was taken off {taken} as cosmic rays is added again, since a flare may be among it",),
    )


def _count_bits(quality: np.ndarray) -> str:
    counts = {bit: int(np.count_nonzero(quality & (1 << (bit - 1)))) for bit in range(1, 64)}
    return ", ".join(f"bit {bit}: {count:,}" for bit, count in counts.items() if count)
