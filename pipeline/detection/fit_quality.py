"""Measure how well the best template of a trigger fits: χ², sharpness and flatness of the residuals around it."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.detection.box_search import MIN_LIVE_OF_BOX

# pixels (row, y, x) of straight tracks that a cosmic ray may leave, one to four pixels long; along y only in stacks
TRACKS = tuple(
    np.array([[max(-step, 0) * (n - 1) + step * k for step in direction] for k in range(n)])
    for n in (1, 2, 3, 4)
    for direction in ((0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 0, -1), (0, 1, 0), (0, 1, 1), (0, 1, -1))
    if n > 1 or direction == (0, 0, 1)
)
_TRACK_LENGTHS = np.array([len(track) for track in TRACKS])
_TRACK_SPANS = np.stack([track.max(axis=0) for track in TRACKS])
_TRACK_STEPS = np.stack([np.pad(track, ((0, 4 - len(track)), (0, 0))) for track in TRACKS])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def judge_fit(patch, live, shift, across, light, snr, kernel, judged, half, quality):  # pragma: no cover - compiled
    """Write chi2_excess, chi2_significance, sharpness and flatness of the best fit.

    Parameters
    ----------
    patch, live : ndarray of float32, shape (y x, t)
        Residuals in σ, and the unmasked fraction of each.
    shift : int
        Bin of the patch in which the template begins.
    across : ndarray of float64, shape (y x,)
        S/N of each pixel alone at the best time and shape.
    light : ndarray of float64, shape (y x,)
        Light of the source over the noise, of unit norm.
    snr : float
    kernel : ndarray of float32, shape (k,)
        The template, of unit norm.
    judged : (int, int)
        First bin of the template in which the fit is judged, and the bin after the last.
    half : (int, int)
        Pixels of the patch on either side of its middle, along y and x.
    quality : ndarray of float64, shape (4,)
        Written to.

    Notes
    -----
    r_pt is the patch, l_p the light, k_t the template (Σ l² = Σ k² = 1), s the S/N and a_p = Σ_t r_pt k_t the S/N of
    each pixel alone (``across``). For a dip s and a_p are negative.

    ``chi2_excess = (χ² - ν) / s²`` and ``chi2_significance = (χ² - ν) / √(2ν)``. Here χ² = Σ (r_pt - s l_p k_t)² over
    the n live pixels and bins in the ``judged`` range, and ν = max(n - 1, 1). Both are about 0 if the template leaves
    only noise. An excess of 1 means that it leaves as much as it explains; a significance of 1 is one standard
    deviation of χ². The patch is the whole two-dimensional footprint of the template. A cosmic ray is sharper than the
    point-spread function in either direction, so it leaves a large excess: 1 / (l k)² - 1 for a single pixel.

    ``sharpness = max over tracks of Σ r_pt / (s √m)``: the S/N of the best straight track of m = 1 to 4 pixels
    (`TRACKS`) over that of the template. It detects faint tracks, which χ² over 60 pixels would not. It is 1 if a track
    has all of the S/N, as a cosmic ray does (1 / (l k) for a single pixel), and well below 1 if the light is spread as
    a source's is. It is never 0, since the best of many tracks through noise has a few sigma.

    ``flatness = (Σ_p a_p / √N - a_max) / s``: the S/N of the sum of all pixels, less that of the best pixel, over s. N
    is the number of pixels with a live bin. a_max is, of the middle pixel and its neighbours, the a_p farthest from 0.
    Flatness is 0 if all pixels together have the S/N of the best one, and about 1 if every pixel has the same light. It
    is negative for a source, and the more so, the darker its flanks are.
    """
    left, n_used = _chi_square(patch, live, shift, light, snr, kernel, judged)
    dof = max(n_used - 1, 1)
    n_live, total = 0, 0.0
    for pixel in range(len(patch)):
        n_live += _highest(live[pixel, shift : shift + len(kernel)]) > 0
        total += across[pixel]
    flat = total / np.sqrt(max(n_live, 1))
    quality[0] = (left - dof) / snr**2
    quality[1] = (left - dof) / np.sqrt(2.0 * dof)
    quality[2] = _best_track(patch[:, shift + judged[0] : shift + judged[1]], np.float32(1 / snr), half)
    quality[3] = (flat - _best_of_middle(across, half)) / snr


@numba.njit(cache=True, nogil=True)
def _chi_square(patch, live, shift, light, snr, kernel, judged):  # pragma: no cover - compiled
    """Sum of squares that a template leaves of a patch, and the number of bins in it."""
    total, n_used = 0.0, 0
    for pixel in range(len(patch)):
        for b in range(judged[0], judged[1]):
            if live[pixel, shift + b] >= MIN_LIVE_OF_BOX:
                total += (patch[pixel, shift + b] - snr * light[pixel] * kernel[b]) ** 2
                n_used += 1
    return total, n_used


@numba.njit(cache=True, nogil=True)
def _best_of_middle(across, half):  # pragma: no cover - compiled
    """S/N that is farthest from 0 among the pixel of the hit and its neighbours."""
    best = 0.0
    for y in range(max(half[0] - 1, 0), half[0] + 2 if half[0] else 1):
        for x in range(half[1] - 1, half[1] + 2):
            value = across[y * (2 * half[1] + 1) + x]
            best = value if abs(value) > abs(best) else best
    return best


@numba.njit(cache=True, nogil=True)
def _best_track(patch, scale, half):  # pragma: no cover - compiled
    """Highest S/N, times ``scale``, of a straight track of one to four pixels anywhere in a patch (y x, t)."""
    n_y, n_x, n_rows = 2 * half[0] + 1, 2 * half[1] + 1, patch.shape[1]
    best = -np.inf
    for track in range(len(_TRACK_LENGTHS)):
        n, steps, span = _TRACK_LENGTHS[track], _TRACK_STEPS[track], _TRACK_SPANS[track]
        room_t, room_y, room_x = n_rows - span[0], n_y - span[1], n_x - span[2]
        if room_t < 1:
            continue
        for y in range(room_y):
            for x in range(room_x):
                best = max(best, _highest_sum(patch, y * n_x + x, n_x, steps[:n], room_t, scale) / np.sqrt(n))
    return best


@numba.njit(cache=True, nogil=True)
def _highest_sum(patch, corner, n_x, steps, n_rows, scale):  # pragma: no cover - compiled
    """Highest sum of the pixels of a track that begins in one of the first rows of a line."""
    total = np.zeros(n_rows, np.float32)
    for k in range(len(steps)):
        row = steps[k, 0]
        line = patch[corner + steps[k, 1] * n_x + steps[k, 2], row : row + n_rows]
        for t in range(n_rows):
            total[t] += line[t] * scale
    return _highest(total)


@numba.njit(cache=True, nogil=True)
def _highest(values):  # pragma: no cover - compiled
    highest = values[0]
    for value in values:
        highest = max(highest, value)
    return highest
