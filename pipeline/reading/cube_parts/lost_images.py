"""Find images that hold no light of their own: lost ones, repeated ones, and a mean of the others at either end."""

from __future__ import annotations

import hashlib

import numpy as np

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA

FEWEST_PIXELS, FEWEST_ALIKE = 25, 9  # of an image that noise makes unlike any other, and whose pixels it makes unlike
FEWEST_IMAGES = 20  # from which the noise of a pixel is known
_BY_CHANCE, _MOST_LEVELS = 0.01, 10  # expected images; values that are looked at
_MOST_SHARE = 0.5  # of the images; more are no accident
_MOST_VALUES = 10_000_000  # pixels of all images that are looked at
_SUM_DEPARTURE = 3.0  # of a sum from the mean; 0.7 of a single image, n^1/2 times as much of a sum without a sky
_QUIET_SHARE = 0.4  # departure of a mean of images over the smallest one of a single image


def find_lost_images(images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images that are no measurement.

    Parameters
    ----------
    images : ndarray, shape (t, y, x)
        As the file has them.

    Returns
    -------
    lost : ndarray of bool, shape (t,)
        Images whose finite pixels are all alike, repetitions of an earlier image, pixel by pixel, and a first or last
        one that is the mean, the median or the sum of the others.
    notes : tuple of str
        What was found, in words.

    Notes
    -----
    Neither is looked for in images of fewer pixels than `FEWEST_ALIKE` and `FEWEST_PIXELS`, which may be alike by
    chance, and an image of one pixel always is. Where single photons are counted, images are alike by chance, too:
    they are kept if more than `_BY_CHANCE` such images are expected from the shares of equal pixels.
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
    alike &= ~_is_usual(flat, alike, low)
    repeated = enough & ~alike & _is_repeated(flat)
    for found, what in ((alike, "all pixels of an image are alike"), (repeated, "an image repeats an earlier one")):
        n_found = int(found.sum())
        if not n_found:
            continue
        places = _list_some(np.flatnonzero(found))
        if n_found > _MOST_SHARE * n_images:
            notes.append(f"{what} in {n_found:,} of {n_images:,} images: too many to be lost ones, so they are kept")
            continue
        lost |= found
        notes.append(f"{what} in {n_found:,} of {n_images:,} images, which are masked: {places}")
    for place in _find_means(flat, enough & ~lost):
        lost[place] = True
        notes.append(f"image {place} is a mean or sum of the others, which has no noise of its own: it is masked")
    return lost, tuple(notes)


def _is_usual(flat: np.ndarray, alike: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether images of one value, as 0 where few photons are counted, are expected by chance, bool (t,)."""
    usual = np.zeros(len(flat), dtype=bool)
    others = flat[~alike]
    for value in np.unique(values[alike])[:_MOST_LEVELS] if len(others) else ():
        share = float(np.mean(others == value))
        usual |= alike & (values == value) & (len(flat) * share ** flat.shape[1] > _BY_CHANCE)
    return usual


def _is_repeated(flat: np.ndarray) -> np.ndarray:
    """Whether an image equals an earlier one, and not by chance, bool (t,)."""
    share = float(np.quantile((flat[1:] == flat[:-1]).mean(axis=1), 0.25))  # every other image may be a repetition
    if share < 1 and len(flat) ** 2 * share ** flat.shape[1] > _BY_CHANCE:
        return np.zeros(len(flat), dtype=bool)
    seen: set[bytes] = set()
    repeated = np.zeros(len(flat), dtype=bool)
    for place, image in enumerate(flat):
        digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
        repeated[place] = digest in seen
        seen.add(digest)
    return repeated


def _find_means(flat: np.ndarray, usable: np.ndarray) -> list[int]:
    """Of the first and the last image those that are a mean, a median or a sum of the others.

    Such an image departs from the mean of the others by far less than any single image does, in units of the noise of
    each pixel, which is that of its steps from image to image.
    """
    n_images = len(flat)
    inner = np.flatnonzero(usable[1:-1]) + 1
    if len(inner) < FEWEST_IMAGES:
        return []
    step = max(flat.size // _MOST_VALUES, 1)  # some pixels of large images will do
    pixels = np.arange(0, flat.shape[1], min(step, max(flat.shape[1] // FEWEST_PIXELS, 1)))
    series = flat[np.ix_(inner, pixels)].astype(np.float64)
    noise = MAD_TO_SIGMA * np.median(np.abs(np.diff(series, axis=0)), axis=0) / np.sqrt(2)
    live = noise > 0  # NaN is not
    if np.count_nonzero(live) < FEWEST_PIXELS:
        return []
    mean, noise, pixels = series[:, live].mean(axis=0), noise[live], pixels[live]
    quiet = _QUIET_SHARE * _departures(series[:, live], mean, noise).min()
    found = []
    for place in np.flatnonzero(usable[[0, -1]]) * (n_images - 1):
        image = flat[place, pixels].astype(np.float64)
        alone, shared = _departures(np.stack([image, image / (n_images - 1)]), mean, noise)
        # without a sky the n-th part of any image is nearly nothing, as the mean is; a sum is far from every image
        if alone < quiet or (shared < quiet and alone > _SUM_DEPARTURE):
            found.append(int(place))
    return found


def _departures(images: np.ndarray, mean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Median distance of each image from the mean in units of the noise of its pixels, shape (t,)."""
    departures: np.ndarray = np.median(np.abs(images - mean) / noise, axis=1)
    return departures


def _list_some(places: np.ndarray, most: int = 5) -> str:
    more = f" and {len(places) - most:,} more" if len(places) > most else ""
    return ", ".join(str(place) for place in places[:most]) + more
