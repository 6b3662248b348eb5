"""Turn an image cube into residuals in units of σ: drifts, trends, shared light, variance, cosmic rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import convolve, uniform_filter

from shutterless.pipeline.calibration.cubes.cosmic_rays import mask_cosmic_rays
from shutterless.pipeline.calibration.cubes.noise_ratio import LARGEST_RATIO, compare_noise
from shutterless.pipeline.calibration.cubes.stars import StarFit, find_stars
from shutterless.pipeline.calibration.cubes.trend import local_trend, robust_spread
from shutterless.pipeline.calibration.cubes.width import choose_width
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.psf import pixel_profile, psf_half_width, stack_profile
from shutterless.pipeline.reading.cubes import Cube

TREND_ROWS = 512  # window of the slow trend where the profile gives none
DRIFT_WINDOWS = 10  # length of drift windows in trend windows
SKY_WINDOWS, STARLIT_SIGMA = 4, 3.0  # trend windows are 4 times as long for pixels with less than 3 σ of starlight
MAX_DRIFT_ORDER, LIVE_ROWS_PER_TERM = 2, 10
MIN_STAR_SNR = 20.0  # of the light around a pixel in one row; changes of fainter light are below the noise
MIN_SKY_PIXELS = 8
SKY_LIGHT_SIGMA = 0.5  # light of stars in a sky pixel, in units of a row's noise
MIN_MOTION_ERRORS = 3.0  # scatter of measured motion over its error; below, the motion is not used
STAR_ROWS = 100  # error of the median image is that of this many rows at most: its background has residuals
MIN_NOISE_ROWS = 20  # live rows from which the scatter of a pixel is known
_CLIP_SIGMA, _N_PASSES = 3.5, 6
_PIXELS_AT_ONCE = 2048
MOST_TREND_S = 86_400.0  # of a window that no profile gives
MIN_TRUSTED_ROWS = 100  # from which the scatter of the data is believed against the header
MOST_SINGLE_STARS = 8  # whose brightness is fitted beside the motion
_MAD_ERROR = 1.17


@dataclass(frozen=True)
class CalibratedCube:
    """A calibrated cube as the store holds it.

    Parameters
    ----------
    residual : ndarray of float32, shape (y, x, t)
        In units of σ; NaN where masked.
    level_e, sigma_e : ndarray of float32, shape (y, x, t)
        Light without events and its noise (electrons per pixel); finite everywhere.
    row_residual : ndarray of float32, shape (t,)
        Offset that all sky pixels of a row share, in units of the median σ; already subtracted from ``residual``.
    noise : ndarray of float32, shape (y, x)
        Robust scatter of each pixel, and of the light of a source there, over the noise from archive or photons.
    stars : StarFit
    cosmic_rays : DataFrame
        From `shutterless.pipeline.calibration.cubes.cosmic_rays.mask_cosmic_rays`.
    motion_px : ndarray of float64, shape (t, 2), or None
        Pointing that was used in the fit; None if unknown.
    notes : tuple of str
        What was measured against the header, in words.
    """

    residual: np.ndarray
    level_e: np.ndarray
    sigma_e: np.ndarray
    row_residual: np.ndarray
    noise: np.ndarray
    stars: StarFit
    cosmic_rays: pd.DataFrame
    motion_px: np.ndarray | None
    notes: tuple[str, ...] = ()


def calibrate_cube(cube: Cube) -> CalibratedCube:
    """Calibrate an image cube.

    Parameters
    ----------
    cube : Cube

    Returns
    -------
    CalibratedCube

    Notes
    -----
    The light of a pixel is modelled as ``L(t) Σ c_ab p^a q^b + s(t)``. Its share of a star's light is a quadratic in
    the pointing ``(p, q)``, whose coefficients change over `DRIFT_WINDOWS` trend windows. ``L`` is the slow trend of
    all light around the pixel, which a drift does not change, and ``s`` the slow trend of the residual (compare
    Vanderburg & Johnson 2014, PASP 126, 948, and Deming et al. 2015, ApJ 805, 132, who decorrelate apertures). An event
    lasts a few rows and is clipped from the fits. If the archive gives no pointing, it is measured on the images, and
    not used if it is below the noise.
    """
    by_row = np.moveaxis(cube.flux_e, 2, 0).astype(np.float64)
    live = np.asarray(np.isfinite(by_row).any(axis=(1, 2)))
    expected, notes = _believe_noise(by_row, expected_noise(cube), cube)
    measured = np.isfinite(by_row).any(axis=0)
    image = np.nanmedian(np.where(measured, by_row, 0.0), axis=0)
    row_error = np.nanmedian(expected, axis=2)
    n_star_rows = int(np.clip(live.sum(), 1, STAR_ROWS))
    sigma_px, lines = choose_width(
        by_row, image, row_error, n_star_rows, cube.readout.psf_sigma_px, is_stated=cube.seeing_is_stated
    )
    notes += lines
    stars = find_stars(np.where(measured, image, np.nan), row_error / np.sqrt(n_star_rows), sigma_px)
    trend_rows = _trend_rows(cube, int(live.sum()))
    common = _common_light(by_row, row_error, trend_rows, stars.half)
    motion = (
        cube.position_px if cube.position_px is not None else _measure_motion(by_row, image, row_error, common, stars)
    )
    if motion is not None:
        motion = np.where(live[:, None], motion, np.nan)  # archives write hundreds of pixels where they lost the star
    lit = np.nan_to_num(image) - stars.background > STARLIT_SIGMA * row_error
    level = _model_light(by_row, common, motion, np.where(lit, trend_rows, SKY_WINDOWS * trend_rows))
    shared = _shared_light(by_row - level, stars, image, row_error)
    level += shared[:, None, None]
    if motion is not None:
        by_row[np.isnan(motion).any(axis=1)] = np.nan  # without the pointing the light of a pixel cannot be predicted
    residual = np.moveaxis(by_row - level, 0, 2) / expected
    noise = _pixel_noise(residual)
    residual /= noise[:, :, None]
    cosmic_rays = mask_cosmic_rays(residual, row_error * noise, stars.sigma_px)
    excess = _pixel_noise(_filter_light(residual, stars.sigma_px))
    residual /= excess[:, :, None]
    noise *= excess
    return CalibratedCube(
        residual=residual.astype(np.float32),
        level_e=np.moveaxis(level, 0, 2).astype(np.float32),
        sigma_e=(expected * noise[:, :, None]).astype(np.float32),
        row_residual=(shared / np.median(row_error)).astype(np.float32),
        noise=noise.astype(np.float32),
        stars=stars,
        cosmic_rays=cosmic_rays,
        motion_px=motion,
        notes=tuple(notes),
    )


def expected_noise(cube: Cube) -> np.ndarray:
    """Noise of every pixel and row (y, x, t) in electrons, from the archive's errors or from photons and read noise.

    Finite and positive everywhere: a masked row has the pixel's median.
    """
    if cube.error_e is not None:
        noise = np.where((cube.error_e > 0) & np.isfinite(cube.error_e), cube.error_e, np.nan).astype(np.float64)
    else:
        noise = np.sqrt(np.maximum(cube.flux_e, 0.0) + cube.readout.read_noise_e**2)
    noise = np.where(noise > 0, noise, np.nan)
    known = np.isfinite(noise)
    typical = np.nanmedian(np.where(known.any(axis=2, keepdims=True), noise, 0.0), axis=2, keepdims=True)
    typical[typical == 0] = np.median(typical[typical > 0]) if (typical > 0).any() else 1.0
    return np.where(known, noise, typical)


def _common_light(by_row: np.ndarray, row_error: np.ndarray, trend_rows: int, half: int) -> np.ndarray:
    """Slow changes of the light around each pixel relative to its median, shape (t, y, x); 1 where there is no star.

    Parameters
    ----------
    by_row : ndarray of float64, shape (t, y, x)
        NaN where masked.
    row_error : ndarray, shape (y, x)
        Noise of one row.
    trend_rows : int
    half : int
        Pixels on either side that are summed.
    """
    size = 2 * half + 1
    masked = np.isnan(by_row).all(axis=(1, 2))
    total = np.stack([uniform_filter(row, size, mode="constant") for row in np.nan_to_num(by_row)]) * size**2
    error = np.sqrt(np.maximum(uniform_filter(row_error**2, size, mode="constant"), 0.0)) * size
    total[masked] = np.nan
    middle = np.nanmedian(total, axis=0) if not masked.all() else np.zeros(row_error.shape)
    bright = middle > MIN_STAR_SNR * error
    common = np.ones_like(by_row)
    if bright.any():
        common[:, bright] = np.clip(local_trend(total[:, bright], trend_rows) / middle[bright], 0.2, 5.0)
    return common


def _measure_motion(
    by_row: np.ndarray, image: np.ndarray, row_error: np.ndarray, common: np.ndarray, stars: StarFit
) -> np.ndarray | None:
    """Measure the shift of each image against the median image, (t, 2) along y and x; None if below the noise.

    Notes
    -----
    Each image is fitted with the median image and its two gradients, so that a change of brightness is no motion. Of
    several stars each has a brightness of its own, so that a flare beside a brighter star is no motion of that star.
    Differences of pixels are less steep than a sharp point-spread function; shifts come out up to a quarter too large.
    """
    weight = np.where(np.isfinite(by_row).any(axis=0), 1 / row_error, 0.0)
    if min(image.shape) < 2 or np.count_nonzero(weight) < 9:
        return None
    modes = np.stack([image, *(-slope for slope in np.gradient(image)), *_single_stars(stars)])
    design = (modes * weight).reshape(len(modes), -1).T
    whole = (np.isfinite(by_row) | (weight == 0)).all(axis=(1, 2))
    normal = design.T @ design
    if np.linalg.matrix_rank(normal) < len(modes) or whole.sum() < MIN_NOISE_ROWS:
        return None
    departure = ((by_row / common - image) * weight).reshape(len(by_row), -1)
    shift = np.full((len(by_row), 2), np.nan)
    shift[whole] = np.linalg.solve(normal, design.T @ np.nan_to_num(departure[whole]).T)[1:3].T
    # scatter from row to row, in case the noise is larger than expected
    jitter = np.nanmedian(_scatter_of_steps(departure))
    error = np.sqrt(np.diag(np.linalg.inv(normal)))[1:3] * max(float(np.nan_to_num(jitter)), 1.0)
    scatter = MAD_TO_SIGMA * np.nanmedian(np.abs(shift - np.nanmedian(shift, axis=0)), axis=0)
    return shift if np.any(scatter > MIN_MOTION_ERRORS * error) else None


def _single_stars(stars: StarFit) -> list[np.ndarray]:
    """Light of each star but the brightest, if there are several and not more than pixels can tell apart."""
    if not 2 <= stars.flux.size <= MOST_SINGLE_STARS:
        return []
    y, x = (np.arange(length) for length in stars.image.shape)
    return [
        np.outer(pixel_profile(y - stars.y[k], stars.sigma_px), pixel_profile(x - stars.x[k], stars.sigma_px))
        for k in np.argsort(-stars.flux)[1:]
    ]


def _believe_noise(by_row: np.ndarray, expected: np.ndarray, cube: Cube) -> tuple[np.ndarray, list[str]]:
    """Noise of every pixel and row (y, x, t), that of the data where the header's is much larger or not known.

    The scatter from row to row is compared, which motions and trends raise but never lower.
    """
    known = np.isfinite(by_row).sum(axis=0)
    measured = _scatter_of_steps(by_row)
    typical = np.median(expected, axis=2)
    usable = (known >= MIN_TRUSTED_ROWS) & (measured > 0)
    if not usable.any():
        return expected, []
    ratio = float(np.median(measured[usable] / typical[usable]))
    if not cube.noise_is_known:
        pixels = np.where(usable, measured, np.median(measured[usable]))
        return np.broadcast_to(pixels[:, :, None], expected.shape).copy(), []
    if cube.error_e is not None:  # an archive knows its errors, but not the motion that raises the scatter
        return expected, compare_noise(min(ratio, 1.0), "the errors in the file say")
    lines = [f"{line}; that of the data is taken" for line in compare_noise(ratio, "GAIN and READNOI say")]
    if ratio > LARGEST_RATIO:  # photons of single rows would then only make noise that varies with the noise
        return np.broadcast_to(typical[:, :, None], expected.shape).copy(), lines
    return expected * min(ratio, 1.0) if lines else expected, lines


def _scatter_of_steps(by_row: np.ndarray) -> np.ndarray:
    """Noise of one row of every pixel by its steps from live row to live row; NaN for a pixel without a step."""
    live = by_row[np.isfinite(by_row).any(axis=tuple(range(1, by_row.ndim)))]
    if len(live) < 2:
        return np.full(by_row.shape[1:], np.nan)
    steps = np.abs(np.diff(live, axis=0))
    known = np.isfinite(steps).any(axis=0)
    return np.where(known, MAD_TO_SIGMA * np.nanmedian(np.where(known, steps, 0.0), axis=0) / np.sqrt(2), np.nan)


def _model_light(by_row: np.ndarray, common: np.ndarray, motion: np.ndarray | None, windows: np.ndarray) -> np.ndarray:
    """Fit the light of each pixel without events, shape (t, y, x): drift times common light, plus a slow trend.

    Parameters
    ----------
    by_row, common : ndarray of float64, shape (t, y, x)
    motion : ndarray of float64, shape (t, 2), or None
    windows : ndarray of int, shape (y, x)
        Rows of the trend's window. The coefficients of the drift change over `DRIFT_WINDOWS` times the shortest.
    """
    drift_rows = DRIFT_WINDOWS * int(windows.min())
    series = by_row.reshape(len(by_row), -1)
    common = common.reshape(series.shape)
    level = np.empty_like(series)
    for start in range(0, series.shape[1], _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        level[:, part] = _fit_drift(series[:, part], common[:, part], motion, drift_rows)
    for rows in np.unique(windows):
        chosen = windows.ravel() == rows
        level[:, chosen] += local_trend(
            series[:, chosen] - level[:, chosen], int(rows), spare_boxes=rows > windows.min()
        )
    return level.reshape(by_row.shape)


def _shared_light(left: np.ndarray, stars: StarFit, image: np.ndarray, row_error: np.ndarray) -> np.ndarray:
    """Median of the sky pixels of each row (electrons), shape (t,); 0 if there are too few.

    A sky pixel has no starlight, nor other light that exceeds the background.
    """
    faint = np.abs(np.nan_to_num(image) - stars.background) < STARLIT_SIGMA * row_error
    starless = stars.model() - stars.background < SKY_LIGHT_SIGMA * row_error
    sky = faint & starless & np.isfinite(left).any(axis=0)
    if sky.sum() < MIN_SKY_PIXELS:
        return np.zeros(len(left))
    masked = np.isnan(left[:, sky]).all(axis=1)
    return np.where(masked, 0.0, np.nanmedian(np.where(masked[:, None], 0.0, left[:, sky]), axis=1))


def _pixel_noise(residual: np.ndarray) -> np.ndarray:
    """Robust scatter of each pixel over its expected noise, at least 1, shape (y, x); 1 where too few rows are live.

    It exceeds 1 where calibration leaves residuals, or where a star varies all the time. The scatter is raised by its
    own error (1.17 / √(2 n), of the median deviation of n normal variates): from few rows it may come out too small,
    and significances too large.
    """
    counts = np.isfinite(residual).sum(axis=2)
    spread = MAD_TO_SIGMA * np.nanmedian(np.where(counts[:, :, None] > 0, np.abs(residual), 0.0), axis=2)
    error = _MAD_ERROR / np.sqrt(2 * np.maximum(counts, 1))
    return np.where(counts >= MIN_NOISE_ROWS, np.maximum(spread * (1 + error), 1.0), 1.0)


def _filter_light(residual: np.ndarray, sigma_px: float) -> np.ndarray:
    """Light of a source at each pixel over its noise: the residual weighted by a point-spread function centred there.

    Stars that vary all the time, and residuals of drifts, are alike in neighbouring pixels and show more in their sum.
    """
    half = psf_half_width(sigma_px)
    offsets = np.arange(-half, half + 1)
    light = stack_profile(offsets, offsets, sigma_px, 2)[:, :, None]
    live = np.isfinite(residual)
    total = convolve(np.where(live, residual, 0.0), light, mode="constant")
    power = convolve(live.astype(np.float64), light**2, mode="constant")
    return np.where(live, total / np.sqrt(np.maximum(power, 1e-12)), np.nan)


def cube_star_table(cube: Cube, stars: StarFit) -> pd.DataFrame:
    """Stars as the streak table of a store; ``y0`` is NaN, since no charge moves during an exposure."""
    zero_point = np.nan if cube.readout.zero_point_mag is None else cube.readout.zero_point_mag
    order = np.lexsort((stars.y, stars.x))
    flux, error = stars.flux[order], stars.errors()[order]
    return pd.DataFrame(
        {
            "streak_id": np.arange(flux.size, dtype=np.int64),
            "x": stars.x[order],
            "y": stars.y[order],
            "flux_e_row": flux,
            "flux_error_e_row": error,
            "flux_e_s": flux / cube.exposure_s,
            "mag": zero_point - 2.5 * np.log10(flux / cube.exposure_s),
            "y0": np.full(flux.size, np.nan),
        }
    )


def _trend_rows(cube: Cube, n_live: int) -> int:
    """Window of the slow trend in rows: that of the profile, or `TREND_ROWS`, but no more than the live rows."""
    wanted = cube.profile.trend_s * cube.readout.row_rate_hz if cube.profile.trend_s else TREND_ROWS
    if not cube.profile.trend_s:  # a star that turns changes in days, whatever the cadence
        wanted = min(wanted, MOST_TREND_S * cube.readout.row_rate_hz)
    return int(np.clip(round(wanted), 8, max(n_live, 8)))


def _fit_drift(series: np.ndarray, common: np.ndarray, motion: np.ndarray | None, window_rows: int) -> np.ndarray:
    """Common light times a polynomial of the pointing with slowly changing coefficients, shape (t, k)."""
    terms = _drift_terms(motion, len(series), int(np.isfinite(series).any(axis=1).sum()))
    total, weights = np.zeros_like(series), np.zeros((len(series), 1))
    step = max(window_rows // 2, 1)
    for centre in range(0, len(series) + step, step):
        weight = np.clip(1 - np.abs(np.arange(len(series)) - centre) / step, 0, None)[:, None]
        rows = weight[:, 0] > 0
        enough = np.isfinite(series[rows]).any(axis=1).sum() >= LIVE_ROWS_PER_TERM * terms.shape[1]
        if not enough:
            continue
        total[rows] += weight[rows] * _robust_fit(series[rows], common[rows], terms[rows])
        weights[rows] += weight[rows]
    uncovered = weights[:, 0] == 0
    if uncovered.any():
        total[uncovered] = (_robust_fit(series, common, terms))[uncovered]
        weights[uncovered] = 1.0
    return total / weights


def _drift_terms(motion: np.ndarray | None, n_rows: int, n_live: int) -> np.ndarray:
    """Powers and products of the pointing up to the order that the live rows allow, shape (t, m); 1 where unknown."""
    if motion is None:
        return np.ones((n_rows, 1))
    low, high = np.nanpercentile(motion, [1, 99], axis=0)  # no extrapolation of the polynomial
    motion = np.clip(motion, low - (high - low) / 4, high + (high - low) / 4)
    moved = motion - np.nanmedian(motion, axis=0)
    moved = np.nan_to_num(moved / np.maximum(np.nanstd(motion, axis=0), 1e-12))
    order = MAX_DRIFT_ORDER
    while order > 0 and (order + 1) * (order + 2) // 2 * LIVE_ROWS_PER_TERM > n_live:
        order -= 1
    powers = [(a, b) for a in range(order + 1) for b in range(order + 1 - a)]
    return np.stack([moved[:, 0] ** a * moved[:, 1] ** b for a, b in powers], axis=1)


def _robust_fit(series: np.ndarray, common: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Fit many series with ``common`` times ``terms`` by least squares, outliers clipped, shape (t, k)."""
    known = np.isfinite(series)
    values = np.where(known, series, 0.0)
    n_terms = terms.shape[1]
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    used, model = known, values
    for _ in range(_N_PASSES):
        normal = (products.T @ (used * common**2)).T.reshape(-1, n_terms, n_terms)
        scale = np.maximum(np.trace(normal, axis1=1, axis2=2), 1e-12)[:, None, None] / n_terms
        right = (terms.T @ (used * common * values)).T[..., None]
        model = common * (terms @ np.linalg.solve(normal + 1e-9 * scale * np.eye(n_terms), right)[..., 0].T)
        departure = np.abs(values - model)
        used = known & (departure <= _CLIP_SIGMA * robust_spread(departure, known))
    return model
