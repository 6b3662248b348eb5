"""Find images that hold no light of their own: lost ones, and those that a capture program wrote twice."""

from __future__ import annotations

import numpy as np

FEWEST_PIXELS, FEWEST_ALIKE = 25, 9  # of an image that noise makes unlike any other, and whose pixels it makes unlike
_MOST_SHARE = 0.5  # of the images; more are no accident


def find_lost_images(images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images that are no measurement.

    Parameters
    ----------
    images : ndarray, shape (t, y, x)
        As the file has them.

    Returns
    -------
    lost : ndarray of bool, shape (t,)
        Images whose finite pixels are all alike, and repetitions of the image before, pixel by pixel.
    notes : tuple of str
        What was found, in words.

    Notes
    -----
    Neither is looked for in images of fewer pixels than `FEWEST_ALIKE` and `FEWEST_PIXELS`, which may be alike by
    chance, and an image of one pixel always is.
    """
    n_images = len(images)
    lost = np.zeros(n_images, dtype=bool)
    notes: list[str] = []
    if images[0].size < FEWEST_ALIKE or n_images < 2:
        return lost, ()
    flat = images.reshape(n_images, -1)
    finite = np.isfinite(flat)
    low = np.min(np.where(finite, flat, np.inf), axis=1)
    high = np.max(np.where(finite, flat, -np.inf), axis=1)
    n_finite = finite.sum(axis=1)
    alike, enough = (n_finite >= FEWEST_ALIKE) & (low == high), n_finite >= FEWEST_PIXELS
    repeated = np.zeros(n_images, dtype=bool)
    repeated[1:] = enough[1:] & ~alike[1:] & (flat[1:] == flat[:-1]).all(axis=1)
    for found, what in ((alike, "all pixels of an image are alike"), (repeated, "an image repeats the one before")):
        n_found = int(found.sum())
        if not n_found:
            continue
        places = _list_some(np.flatnonzero(found))
        if n_found > _MOST_SHARE * n_images:
            notes.append(f"{what} in {n_found:,} of {n_images:,} images: too many to be lost ones, so they are kept")
            continue
        lost |= found
        notes.append(f"{what} in {n_found:,} of {n_images:,} images, which are masked: {places}")
    return lost, tuple(notes)


def _list_some(places: np.ndarray, most: int = 5) -> str:
    more = f" and {len(places) - most:,} more" if len(places) > most else ""
    return ", ".join(str(place) for place in places[:most]) + more
