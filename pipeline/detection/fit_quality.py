"""What the best template leaves of the residuals around a trigger: too much, too sharp, too flat or dark beside it."""

from __future__ import annotations

import numba
import numpy as np

from shutterless.pipeline.detection.box_search import MIN_LIVE_OF_BOX

# pixels (row, y, x) of straight tracks that a cosmic ray may leave, one to four pixels long; in y in stacks alone
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
def judge_fit(patch, live, shift, across, light, snr, kernel, looked, half, quality):  # pragma: no cover - compiled
    """Write chi2_excess, chi2_significance, sharpness and flatness of the best fit.

    Parameters
    ----------
    patch, live : ndarray of float32, shape (y x, t)
        Residuals in σ, and which fraction of each is unmasked.
    shift : int
        Where in the patch the template begins.
    across : ndarray of float64, shape (y x,)
        S/N of each pixel alone at the best time and shape.
    light : ndarray of float64, shape (y x,)
        Light of the source over the noise, of unit norm.
    snr : float
    kernel : ndarray of float32, shape (k,)
        The template, of unit norm.
    looked : (int, int)
        First bin of the template in which the fit is judged, and the one after the last.
    half : (int, int)
        Pixels of the patch on either side of its middle, along y and x.
    quality : ndarray of float64, shape (4,)
        Written to.

    Notes
    -----
    With r_pt the patch, l_p the light, k_t the template (Σ l² = Σ k² = 1), s the S/N and a_p = Σ_t r_pt k_t the S/N of
    each pixel alone (``across``; where light is missing, s and a_p are negative):

    ``chi2_excess = (χ² - ν) / s²`` and ``chi2_significance = (χ² - ν) / √(2ν)``. Here χ² = Σ (r_pt - s l_p k_t)² over
    the n live pixels and bins of those that are looked at, and ν = max(n - 1, 1). Both are 0 where the template leaves
    noise alone. An excess of 1: it leaves as much as it explains. A significance of 1: one standard deviation of χ².
    The patch is the whole two-dimensional footprint of the template, so a cosmic ray, sharper than the point-spread
    function in either direction, is left over: of a single pixel 1 / (l k)² - 1.

    ``sharpness = max over tracks of Σ r_pt / (s √m)``: the S/N of the best straight track of m = 1 to 4 pixels
    (`TRACKS`) over that of the template; χ² of 60 pixels would drown a faint one. 1: a track has all of the S/N, as it
    does on a cosmic ray (a single pixel has 1 / (l k)). Well below 1: the light is spread as a source's is. It is never
    0, for the best of many tracks through noise alone has a few sigma.

    ``flatness = (Σ_p a_p / √N - a_max) / s``: the S/N that the sum of all pixels has beyond that of the best one. N is
    the number of pixels with a live bin, a_max that a_p of the middle pixel and its neighbours that is farthest from 0.
    0: all pixels together tell no more than that one. 1: more by all of the S/N, as where every pixel has the same
    light. Below 0: a source, and the more negative, the darker its flanks.
    """
    left, n_used = _chi_square(patch, live, shift, light, snr, kernel, looked)
    dof = max(n_used - 1, 1)
    n_seen, total = 0, 0.0
    for pixel in range(len(patch)):
        n_seen += _highest(live[pixel, shift : shift + len(kernel)]) > 0
        total += across[pixel]
    flat = total / np.sqrt(max(n_seen, 1))
    quality[0] = (left - dof) / snr**2
    quality[1] = (left - dof) / np.sqrt(2.0 * dof)
    quality[2] = _best_track(patch[:, shift + looked[0] : shift + looked[1]], np.float32(1 / snr), half)
    quality[3] = (flat - _best_of_middle(across, half)) / snr


@numba.njit(cache=True, nogil=True)
def _chi_square(patch, live, shift, light, snr, kernel, looked):  # pragma: no cover - compiled
    """Sum of squares that a template leaves of a patch, and over how many of its bins."""
    total, n_used = 0.0, 0
    for pixel in range(len(patch)):
        for b in range(looked[0], looked[1]):
            if live[pixel, shift + b] >= MIN_LIVE_OF_BOX:
                total += (patch[pixel, shift + b] - snr * light[pixel] * kernel[b]) ** 2
                n_used += 1
    return total, n_used


@numba.njit(cache=True, nogil=True)
def _best_of_middle(across, half):  # pragma: no cover - compiled
    """Of the pixels around that of the hit, the S/N that is farthest from 0."""
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
