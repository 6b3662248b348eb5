"""Fit place, time and shape of every hit of the scan, and measure the quality of the fit.

One compiled loop treats the hits of one width. A hit is fitted to its patch: the residuals around its pixel,
(pixels, bins), in bins of rows for wide boxes. Places within a pixel are multiples of 1/16 px, so two small tables, one
for each axis, hold the light of a source at every possible place.

Where the columns of continuous readout are not white (`shutterless.pipeline.amplifier.Amplifier.column_covariance`),
patch and light are both multiplied by the inverse root of their covariance C first. A fit in these units gives least
weight to what image motion and focus leave. The S/N that is returned is that of its filter, C⁻¹ times the light, in
units of white noise, as in the scan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.covariance import inverse_roots
from shutterless.pipeline.compiled.residual_lines import compiled_lines, mark_live, sum_bins, unpack_line, weighted_sum
from shutterless.pipeline.detection.box_search import MIN_LIVE_OF_BOX
from shutterless.pipeline.detection.fit_quality import judge_fit
from shutterless.pipeline.detection.templates import ShapeBank
from shutterless.pipeline.psf import pixel_profile, psf_half_width

PLACES_PER_PX = 16
PLACES_PX = np.arange(-15, 16) / PLACES_PER_PX
PHASES = np.arange(3, 28, 4)  # of `PLACES_PX`, -0.75 to 0.75; an error of half a pixel costs 8 % of the S/N
# an error of 1/8 px leaves 2.6 % of the light of a PSF this narrow in the residual, per axis: too much for a veto
SHARP_PX = 0.7
_FINE_STEPS = (2, 1)  # in `PLACES_PX`, around the best phase of a sharp PSF; each step is half the one before
_NO_ROOT = np.empty((0, 0))
_LEAST_LIVE = MIN_LIVE_OF_BOX - 1e-6  # half, with room for rounding of sums
_NEGLIGIBLE = 1e-6  # fraction of a template's peak below which its tails are left out
_SIGNIFICANT, _MARGIN = 0.02, 3  # fraction of a template's peak above which its fit is judged, and further bins


class Reach(NamedTuple):
    """Pixels on either side of a hit along y and x, and the light of a source there along each axis at all `PLACES_PX`.

    ``light_y`` is (31, pixels along y), ``light_x`` (31, pixels along x). ``is_sharp``: the PSF is so narrow that
    places between the phases are fitted too.
    """

    y: int
    x: int
    light_y: np.ndarray
    light_x: np.ndarray
    is_sharp: bool


class Templates(NamedTuple):
    """A `shutterless.pipeline.detection.templates.ShapeBank` in the form that the compiled loops take.

    ``kernels`` is (s, k); ``bins`` (s, 2) the range where each is not negligible; ``judged`` (s, 2) the range in which
    its fit is judged.
    """

    kernels: np.ndarray
    bins: np.ndarray
    judged: np.ndarray
    peak: np.ndarray
    bin_rows: int
    pre: int
    max_shift: int


class Stack(NamedTuple):
    """Residual lines (y x, t) of a stack, their noise (y x, b) in blocks of rows, and its size.

    ``roots`` (x, k, k) are inverse roots of the covariance of each column with its neighbours; ``is_white`` (x,) tells
    where that is the identity.
    """

    lines: np.ndarray
    sigma_e: np.ndarray
    block_rows: int
    n_y: int
    n_x: int
    roots: np.ndarray
    is_white: np.ndarray


class Fits(NamedTuple):
    """Results of `fit_hits`, one element per hit.

    ``is_measured``: enough pixels are live; otherwise the rest is undefined. ``place_y``, ``place_x``: indices into
    `PLACES_PX`. ``shape``: index of the template. ``shift``: bin of the patch in which the template begins. ``peak``:
    brightest live bin of the template. ``norm``: S/N of a source of 1 electron. ``quality`` (h, 4):
    chi2_excess, chi2_significance, sharpness and flatness.
    """

    is_measured: np.ndarray
    place_y: np.ndarray
    place_x: np.ndarray
    shape: np.ndarray
    shift: np.ndarray
    peak: np.ndarray
    snr: np.ndarray
    norm: np.ndarray
    quality: np.ndarray

    @classmethod
    def of(cls, n_hits: int) -> Fits:
        """Empty results for ``n_hits`` hits."""
        integers = {name: np.zeros(n_hits, np.int64) for name in ("place_y", "place_x", "shape", "shift", "peak")}
        numbers = {name: np.zeros(n_hits) for name in ("snr", "norm")}
        return cls(is_measured=np.zeros(n_hits, bool), **integers, **numbers, quality=np.zeros((n_hits, 4)))


@lru_cache(maxsize=16)
def reach_of(sigma_px: float, is_high: bool) -> Reach:
    """Patch around a hit for a point-spread function of this width, in a stack of one row or of several."""
    half = psf_half_width(sigma_px) + (0 if is_high else 1)
    light_x = pixel_profile(np.arange(-half, half + 1) - PLACES_PX[:, None], sigma_px)
    light_y = light_x if is_high else np.ones((len(PLACES_PX), 1))
    return Reach(half if is_high else 0, half, light_y, light_x, bool(sigma_px < SHARP_PX))


def stack_of(amplifier: Amplifier) -> Stack:
    """Residuals and noise of an amplifier in the form that the compiled loops take, without a copy."""
    sigma = np.ascontiguousarray(amplifier.sigma_e.reshape(-1, amplifier.sigma_e.shape[2]), dtype=np.float32)
    covariance = amplifier.column_covariance
    roots, is_white = np.empty((0, 0, 0)), np.ones(amplifier.n_columns, dtype=bool)
    if covariance is not None:
        roots = inverse_roots(covariance)
        is_white = np.all(covariance == np.eye(covariance.shape[1]), axis=(1, 2))
    size = amplifier.block_rows, amplifier.n_y, amplifier.n_columns
    return Stack(compiled_lines(amplifier.residual), sigma, *size, roots, is_white)


def templates_of(bank: ShapeBank) -> Templates:
    """Templates of a shape bank, with the ranges of bins in which they are not negligible."""
    height = np.abs(bank.kernels) / np.abs(bank.kernels).max(axis=1, keepdims=True)
    n_bins = bank.kernels.shape[1]
    bins, judged = (
        np.stack([np.argmax(above, axis=1), n_bins - np.argmax(above[:, ::-1], axis=1)], axis=1)
        for above in (height > _NEGLIGIBLE, height > _SIGNIFICANT)
    )
    judged = np.clip(judged + np.array([-_MARGIN, _MARGIN]), 0, n_bins)
    peak = (bank.pre + bank.peak).astype(np.int64)
    return Templates(bank.kernels, bins, judged, peak, bank.bin_rows, bank.pre, bank.max_shift)


def template_quality(templates: Templates, shape: int, reach: Reach, place_y: int, place_x: int) -> tuple[float, float]:
    """Sharpness and flatness of a template itself if the noise of all pixels is the same."""
    light = np.outer(reach.light_y[place_y], reach.light_x[place_x]).ravel()
    light /= np.linalg.norm(light)
    kernel, judged = templates.kernels[shape], templates.judged[shape]
    patch = np.outer(light, kernel).astype(np.float32)
    across = patch.astype(np.float64) @ kernel
    quality = np.empty(4)
    judge_fit(patch, np.ones_like(patch), 0, across, light, 1.0, kernel, judged, (reach.y, reach.x), quality)
    return float(quality[2]), float(quality[3])


@numba.njit(cache=True, nogil=True)
def fit_hits(stack, y, x, first_row, templates, reach, fits):  # pragma: no cover - compiled
    """Measure hits of one width.

    Parameters
    ----------
    stack : Stack
    y, x, first_row : ndarray of int64, shape (h,)
        Pixel of each hit, and first row of its patch.
    templates : Templates
    reach : Reach
    fits : Fits
        Written to.
    """
    n_bins = templates.kernels.shape[1] + 2 * templates.max_shift
    n_pixels, half = (2 * reach.y + 1) * (2 * reach.x + 1), (reach.y, reach.x)
    patch, live = np.empty((n_pixels, n_bins), np.float32), np.empty((n_pixels, n_bins), np.float32)
    sigma, light = np.empty(n_pixels), np.empty(n_pixels)
    for hit in range(len(y)):
        is_whole = _cut_patch(stack, y[hit], x[hit], first_row[hit], templates.bin_rows, reach, patch, live, sigma)
        root = _NO_ROOT if stack.is_white[x[hit]] else stack.roots[x[hit]]
        _whiten(root, patch)
        phase_y, phase_x, shift, shape, snr = _best_template(patch, live, is_whole, sigma, root, templates, reach)
        fits.is_measured[hit] = shape >= 0
        if shape < 0:
            continue
        across, covered = _collapse(patch, live, shift, templates, shape)
        if reach.is_sharp:
            phase_y, phase_x, snr = _best_place(across, covered, is_whole, sigma, root, phase_y, phase_x, reach)
        norm, gain = _weigh_light(reach, phase_y, phase_x, sigma, root, light)
        fits.norm[hit] = norm * gain
        fits.place_y[hit], fits.place_x[hit], fits.shape[hit], fits.shift[hit] = phase_y, phase_x, shape, shift
        fits.snr[hit] = snr * gain
        fits.peak[hit] = _live_peak(live, shift, light, templates, shape)
        kernel, judged = templates.kernels[shape], templates.judged[shape]
        judge_fit(patch, live, shift, across, light, np.float64(snr), kernel, judged, half, fits.quality[hit])


@numba.njit(cache=True, nogil=True)
def _cut_patch(stack, y, x, first_row, bin_rows, reach, patch, live, sigma):  # pragma: no cover - compiled
    """Write the binned residuals around a pixel (σ of a bin), their live fraction and noise; whether all are live."""
    n_rows, n_blocks = stack.lines.shape[1], stack.sigma_e.shape[1]
    start, stop = max(first_row, 0), min(first_row + patch.shape[1] * bin_rows, n_rows)
    block = min(max((start + stop) // 2 // stack.block_rows, 0), n_blocks - 1)
    values, known = np.zeros(patch.shape[1] * bin_rows, np.float32), np.zeros(patch.shape[1] * bin_rows, np.float32)
    inside = slice(start - first_row, stop - first_row)
    is_whole = stop - start == len(values)
    for dy in range(-reach.y, reach.y + 1):
        for dx in range(-reach.x, reach.x + 1):
            pixel = (dy + reach.y) * (2 * reach.x + 1) + dx + reach.x
            near_y, near_x = min(max(y + dy, 0), stack.n_y - 1), min(max(x + dx, 0), stack.n_x - 1)
            line = near_y * stack.n_x + near_x
            sigma[pixel] = stack.sigma_e[line, block]
            if near_y != y + dy or near_x != x + dx:
                patch[pixel], live[pixel], is_whole = 0, 0, False
                continue
            raw = stack.lines[line][start:stop]
            known[inside] = 1
            if unpack_line(raw, values[inside]):
                mark_live(raw, known[inside])
                is_whole = False
            sum_bins(values, bin_rows, patch[pixel])
            sum_bins(known, bin_rows, live[pixel])
    scale, share = np.float32(1 / np.sqrt(bin_rows)), np.float32(1 / bin_rows)
    for pixel in range(len(patch)):
        for b in range(patch.shape[1]):
            patch[pixel, b] *= scale
            live[pixel, b] *= share
    return is_whole


@numba.njit(cache=True, nogil=True)
def _whiten(root, patch):  # pragma: no cover - compiled
    """Multiply a patch (pixels, bins) by an inverse root of the covariance of its pixels, in place; empty for none."""
    if len(root) == 0:
        return
    column = np.empty(len(patch))
    for b in range(patch.shape[1]):
        for pixel in range(len(patch)):
            column[pixel] = patch[pixel, b]
        for pixel in range(len(patch)):
            total = 0.0
            for other in range(len(patch)):
                total += root[pixel, other] * column[other]
            patch[pixel, b] = total


@numba.njit(cache=True, nogil=True)
def _weigh_light(reach, place_y, place_x, sigma, root, light):  # pragma: no cover - compiled
    """Write a source's light over the noise on the pixels of a patch, whitened and scaled to unit norm.

    Returns
    -------
    norm : float
        Norm of the whitened light.
    gain : float
        S/N of the filter in white noise over its S/N in whitened units, 1 without a root.
    """
    n_x = reach.light_x.shape[1]
    total = 0.0
    for pixel in range(len(light)):
        light[pixel] = reach.light_y[place_y, pixel // n_x] * reach.light_x[place_x, pixel % n_x] / sigma[pixel]
        total += light[pixel] ** 2
    norm = np.sqrt(total)
    if len(root) == 0:
        for pixel in range(len(light)):
            light[pixel] /= norm
        return norm, 1.0
    plain = light.copy()
    whitened = filtered = 0.0
    for pixel in range(len(light)):
        light[pixel] = 0.0
        for other in range(len(light)):
            light[pixel] += root[pixel, other] * plain[other]
        whitened += light[pixel] ** 2
    for pixel in range(len(light)):
        value = 0.0
        for other in range(len(light)):
            value += root[pixel, other] * light[other]
        filtered += value**2
    norm = np.sqrt(whitened)
    for pixel in range(len(light)):
        light[pixel] /= norm
    return norm, norm / np.sqrt(filtered)


@numba.njit(cache=True, nogil=True)
def _best_template(patch, live, is_whole, sigma, root, templates, reach):  # pragma: no cover - compiled
    """Phase (y, x), shift, shape and value of the highest S/N; shape -1 if too little is unmasked."""
    n_pixels, n_bins = patch.shape
    pixels, light = np.arange(n_pixels), np.empty(n_pixels)
    weight, square = np.empty(n_pixels, np.float32), np.empty(n_pixels, np.float32)
    filtered, cover = np.empty(n_bins, np.float32), np.empty(n_bins, np.float32)
    best_y, best_x, best_shift, best_shape, best = 0, 0, 0, -1, np.float32(0)
    for place_y in PHASES if reach.y else PHASES[3:4]:
        for place_x in PHASES:
            _weigh_light(reach, place_y, place_x, sigma, root, light)
            for pixel in range(n_pixels):
                weight[pixel], square[pixel] = light[pixel], light[pixel] ** 2
            weighted_sum(patch, pixels, weight, filtered)
            if not is_whole:
                weighted_sum(live, pixels, square, cover)
            for shift in range(2 * templates.max_shift + 1):
                for shape in range(len(templates.kernels)):
                    first, last = templates.bins[shape]
                    kernel = templates.kernels[shape, first:last]
                    snr = _dot(filtered[shift + first : shift + last], kernel)
                    if not is_whole:
                        snr = _scaled(snr, _dot_squares(cover[shift + first : shift + last], kernel))
                    if abs(snr) > abs(best) or (best_shape < 0 and snr == snr):
                        best_y, best_x, best_shift, best_shape, best = place_y, place_x, shift, shape, snr
    return best_y, best_x, best_shift, best_shape, best


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(values, kernel):  # pragma: no cover - compiled
    total = np.float32(0)
    for k in range(len(kernel)):
        total += values[k] * kernel[k]
    return total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot_squares(values, kernel):  # pragma: no cover - compiled
    total = np.float32(0)
    for k in range(len(kernel)):
        total += values[k] * kernel[k] * kernel[k]
    return total


@numba.njit(cache=True, nogil=True)
def _scaled(snr, coverage):  # pragma: no cover - compiled
    """S/N over the unmasked part of a template in units of its noise; NaN if more than half of it is masked."""
    return np.float32(snr / np.sqrt(coverage)) if coverage >= _LEAST_LIVE else np.float32(np.nan)


@numba.njit(cache=True, nogil=True)
def _collapse(patch, live, shift, templates, shape):  # pragma: no cover - compiled
    """S/N of each pixel alone at the best time and shape, and the live fraction of the template there."""
    first, last = templates.bins[shape]
    kernel = templates.kernels[shape, first:last]
    across, covered = np.empty(len(patch)), np.empty(len(patch))
    for pixel in range(len(patch)):
        across[pixel] = _dot(patch[pixel, shift + first : shift + last], kernel)
        covered[pixel] = _dot_squares(live[pixel, shift + first : shift + last], kernel)
    return across, covered


@numba.njit(cache=True, nogil=True)
def _best_place(across, covered, is_whole, sigma, root, place_y, place_x, reach):  # pragma: no cover - compiled
    """Place and value of the highest S/N at the best time and shape, searched around the best phase of a sharp PSF."""
    light = np.empty(len(sigma))
    best_y, best_x, best = place_y, place_x, np.float32(0)
    for step in _FINE_STEPS:
        centre_y, centre_x = best_y, best_x
        for dy in (0, -step, step):
            for dx in (0, -step, step):
                if dy and not reach.y:
                    continue
                _weigh_light(reach, centre_y + dy, centre_x + dx, sigma, root, light)
                total, coverage = 0.0, 0.0
                for pixel in range(len(light)):
                    total += light[pixel] * across[pixel]
                    coverage += light[pixel] ** 2 * covered[pixel]
                snr = np.float32(total) if is_whole else _scaled(total, coverage)
                if abs(snr) > abs(best):
                    best_y, best_x, best = centre_y + dy, centre_x + dx, snr
    return best_y, best_x, best


@numba.njit(cache=True, nogil=True)
def _live_peak(live, shift, light, templates, shape):  # pragma: no cover - compiled
    """Bin of a template's peak, or its brightest live bin if the peak is masked."""
    if _is_live(live[:, shift + templates.peak[shape]], light):
        return templates.peak[shape]
    brightest, height = 0, -1.0
    for b in range(templates.kernels.shape[1]):
        if abs(templates.kernels[shape, b]) > height and _is_live(live[:, shift + b], light):
            brightest, height = b, abs(templates.kernels[shape, b])
    return brightest


@numba.njit(cache=True, nogil=True)
def _is_live(live, light):  # pragma: no cover - compiled
    """Whether live pixels hold at least half of the squared weight of a source's light."""
    total = 0.0
    for pixel in range(len(light)):
        total += light[pixel] ** 2 * live[pixel]
    return total >= _LEAST_LIVE
