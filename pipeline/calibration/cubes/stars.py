"""Find the stars of an image: fit positions, fluxes and the common width of Gaussian point sources."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import convolve, maximum_filter

from shutterless.pipeline.psf import pixel_profile, psf_half_width

MIN_SNR = 10.0
PIXELS_PER_STAR = 9  # pixels for each star at least; more stars would be residuals of bright ones
SHAPE_ERROR = 0.03  # of the brightest light next to a pixel, since real point-spread functions are not Gaussian
_N_PASSES, _N_STEPS, _FLUX_STEPS = 4, 6, 3
# steps by which the width is varied in successive refinements: a large step finds the minimum, a small one is accurate
_WIDTH_STEPS = (0.1, 0.1, 0.1, 0.1, 0.03)
_WIDTH_LIMITS = (0.6, 1.7)  # of the width that was guessed
_MAX_STEP_PX = 0.5


@dataclass
class StarFit:
    """Stars of one image.

    Parameters
    ----------
    image, error : ndarray of float64, shape (y, x)
        Electrons, and their error; NaN where a pixel is dead.
    sigma_px : float
        Width of the point-spread function, refined by the fit.
    y, x, flux : ndarray of float64, shape (s,)
    background : float
    """

    image: np.ndarray
    error: np.ndarray
    sigma_px: float
    y: np.ndarray = field(default_factory=lambda: np.empty(0))
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    flux: np.ndarray = field(default_factory=lambda: np.empty(0))
    background: float = 0.0

    @property
    def half(self) -> int:
        """Pixels to either side of a star that its fit uses."""
        return psf_half_width(self.sigma_px)

    def model(self) -> np.ndarray:
        """Background and all stars, shape (y, x)."""
        model = np.full(self.image.shape, self.background)
        for star in range(self.flux.size):
            window, light, *_ = self._stamp(star)
            model[window] += self.flux[star] * light
        return model

    def weight(self) -> np.ndarray:
        """Inverse variance, the error of the assumed shape included; 0 where dead."""
        stars = maximum_filter(np.maximum(np.nan_to_num(self.image) - self.background, 0), size=3)
        variance = self.error**2 + (SHAPE_ERROR * stars) ** 2
        return np.where(np.isfinite(self.image) & (variance > 0), 1 / np.maximum(variance, 1e-30), 0.0)

    def errors(self) -> np.ndarray:
        """Error of each flux, shape (s,)."""
        weight = self.weight()
        power = [np.sum(weight[window] * light**2) for window, light, *_ in map(self._stamp, range(self.flux.size))]
        return 1 / np.sqrt(np.maximum(power, 1e-30))

    def _stamp(self, star: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
        """Window of a star, its light there for unit flux, and the derivatives of that light along y and x."""
        place = np.array([self.y[star], self.x[star]])
        first = np.maximum(np.round(place).astype(int) - self.half, 0)
        last = np.minimum(np.round(place).astype(int) + self.half + 1, self.image.shape)
        along, slope = [], []
        for a, b, centre in zip(first, last, place, strict=True):
            offsets = np.arange(a, b) - centre
            along.append(pixel_profile(offsets, self.sigma_px))
            slope.append(
                (pixel_profile(offsets - 0.05, self.sigma_px) - pixel_profile(offsets + 0.05, self.sigma_px)) / 0.1
            )
        window = slice(first[0], last[0]), slice(first[1], last[1])
        return window, np.outer(*along), np.outer(slope[0], along[1]), np.outer(along[0], slope[1])


def find_stars(image: np.ndarray, error: np.ndarray, sigma_px: float) -> StarFit:
    """Find and fit the stars of an image.

    Parameters
    ----------
    image, error : ndarray, shape (y, x)
        Electrons and their error; NaN where a pixel is dead.
    sigma_px : float
        First guess of the width of the point-spread function.

    Returns
    -------
    StarFit

    Notes
    -----
    Maxima of the image filtered with the point-spread function are fitted one by one, with the light of the others
    subtracted, until positions and fluxes converge. The residual is then searched again. Light without the shape of a
    star (bleeding columns, nebulae) stays in the residual. Its error grows with the light (`SHAPE_ERROR`), so that it
    does not become many faint stars.
    """
    fit = StarFit(np.asarray(image, np.float64), np.asarray(error, np.float64), sigma_px)
    live = np.isfinite(fit.image)
    if not live.any():
        return fit
    fit.background = float(np.median(fit.image[live & (fit.image <= np.median(fit.image[live]))]))
    for _ in range(_N_PASSES):
        if not _add_maxima(fit):
            break
        for step in _WIDTH_STEPS:
            for _ in range(_N_STEPS):
                _refine_stars(fit)
            _refine_width(fit, sigma_px, step)
            _refine_background(fit)
    _refine_stars(fit)
    kept = fit.flux > MIN_SNR * fit.errors()
    fit.y, fit.x, fit.flux = fit.y[kept], fit.x[kept], fit.flux[kept]
    return fit


def _add_maxima(fit: StarFit) -> int:
    """Add a star at every maximum of the filtered residual, the strongest first; return their number."""
    weight = fit.weight()
    light = np.outer(*[pixel_profile(np.arange(-fit.half, fit.half + 1), fit.sigma_px)] * 2)
    left = np.where(weight > 0, fit.image - fit.model(), 0.0)
    power = convolve(weight, light**2, mode="constant")
    score = convolve(weight * left, light, mode="constant") / np.sqrt(np.maximum(power, 1e-30))
    peaks = (score == maximum_filter(score, size=3)) & (score > MIN_SNR) & (weight > 0)
    places = np.argwhere(peaks)
    room = fit.image.size // PIXELS_PER_STAR - fit.flux.size
    places = places[np.argsort(-score[peaks], kind="stable")][: max(room, 0)]
    if fit.flux.size:  # nearer maxima are residuals of a known star
        distance = np.abs(places[:, None] - np.stack([fit.y, fit.x], axis=1)).max(axis=2)
        places = places[distance.min(axis=1) > 1]
    y, x = places.T
    fit.y, fit.x = np.append(fit.y, y), np.append(fit.x, x)
    fit.flux = np.append(fit.flux, score[y, x] / np.sqrt(power[y, x]))
    return len(places)


def _refine_stars(fit: StarFit) -> None:
    """Take one Gauss-Newton step in each star's position and flux, with the others fixed."""
    weight, left = fit.weight(), np.nan_to_num(fit.image) - fit.model()
    for star in range(fit.flux.size):
        window, light, dy, dx = fit._stamp(star)
        flux = max(fit.flux[star], 1e-12)
        own = left[window] + fit.flux[star] * light
        design = np.stack([light, flux * dy, flux * dx]).reshape(3, -1)
        scaled = design * np.sqrt(weight[window].ravel())
        target = (own - fit.flux[star] * light).ravel() * np.sqrt(weight[window].ravel())
        step = np.linalg.lstsq(scaled.T, target, rcond=1e-8)[0]
        left[window] += fit.flux[star] * light
        fit.flux[star] = max(fit.flux[star] + step[0], 0.0)
        limits = np.array(fit.image.shape) - 0.5
        fit.y[star] = np.clip(fit.y[star] + np.clip(step[1], -_MAX_STEP_PX, _MAX_STEP_PX), -0.5, limits[0])
        fit.x[star] = np.clip(fit.x[star] + np.clip(step[2], -_MAX_STEP_PX, _MAX_STEP_PX), -0.5, limits[1])
        window, light, *_ = fit._stamp(star)
        left[window] -= fit.flux[star] * light


def _refine_width(fit: StarFit, guess_px: float, step: float) -> None:
    """Move the width to the minimum of chi-square, with fluxes fitted at each trial width."""
    widths = fit.sigma_px * np.array([1 - step, 1.0, 1 + step])
    costs = []
    for width in widths:
        fit.sigma_px = width
        _scale_fluxes(fit)
        costs.append(float(np.sum(fit.weight() * np.nan_to_num(fit.image - fit.model()) ** 2)))
    curve, slope, _ = np.polyfit(widths, costs, 2)
    best = -slope / (2 * curve) if curve > 0 else widths[int(np.argmin(costs))]
    best = float(np.clip(best, widths[0], widths[-1]))
    smallest, largest = (limit * guess_px for limit in _WIDTH_LIMITS)
    fit.sigma_px = float(np.clip(best, smallest, largest))
    _scale_fluxes(fit)


def _scale_fluxes(fit: StarFit) -> None:
    """Fit fluxes one star after the other, with fixed positions."""
    weight, left = fit.weight(), np.nan_to_num(fit.image) - fit.model()
    for _ in range(_FLUX_STEPS):
        for star in range(fit.flux.size):
            window, light, *_ = fit._stamp(star)
            power = np.sum(weight[window] * light**2)
            step = np.sum(weight[window] * light * left[window]) / max(power, 1e-30)
            step = max(step, -fit.flux[star])
            fit.flux[star] += step
            left[window] -= step * light


def _refine_background(fit: StarFit) -> None:
    weight = fit.weight()
    left = np.nan_to_num(fit.image) - fit.model()
    used = (weight > 0) & (np.abs(left) < 5 * fit.error)
    if used.any():
        fit.background += float(np.average(left[used], weights=weight[used]))
