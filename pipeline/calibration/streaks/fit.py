"""Fit positions, fluxes, width and background of overlapping streaks to a collapsed profile, step by step."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from shutterless.pipeline.calibration.streaks.background import (
    KNOT_COLUMNS,
    follow_background,
    open_background,
    sky_level,
)
from shutterless.pipeline.calibration.streaks.deblending import inverse_diagonal
from shutterless.pipeline.calibration.streaks.profile_fit import (
    add_profiles,
    measure_widths,
    misfits,
    profile_taps,
    solve_streaks,
)
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.psf import noise_equivalent_columns, pixel_profile

FIT_HALF_WIDTH = 6  # columns to either side of a streak in which it has light
MIN_STREAK_SIGNIFICANCE = 5.0
# error of a Gaussian as a model of real point-spread functions, relative to the light of the columns around
PROFILE_TOLERANCE = 0.02
WIDTH_TOLERANCE = 0.005  # the same for the fit of the width, which the brightest streaks dominate
WIDTH_PRIOR = 0.15  # relative error of the seeing in the header
MAX_WIDTH_ERROR = 0.2  # relative, of a streak's own width; others do not contribute to the common width
MAX_OWN_WIDTH = 0.25  # relative difference of a streak's own width from the common one
MAX_WIDTH_SHARE = 1 / 6  # of all weight, so that one bright star with a hidden companion does not dominate
LEAST_WIDTH_STREAKS = 3  # isolated streaks for a common width
EDGE_PX = 3.0  # nearer to the edge, width and position of a streak cannot be separated
N_WIDTH_STREAKS = 24  # the brightest, which undetected companions broaden least
CLEAN_PX, CLEAN_SHARE = 4.0, 0.1  # a streak with more than this share of other light so near does not contribute either
MIN_SPIKE_SIGMA, MIN_SPIKE_SHARE = 8.0, 0.05  # of the noise and of the sky; a crowd of faint stars is as rough as 2 %
MAX_MISFIT_LEFT = 0.1  # of the chi-square of a streak with a column that spoils it
OPENING_SIGMA = 5.0  # half width of the first background's opening, in widths of the point-spread function
# closer streaks are merged, since a width that is 8 % off splits one into two; in widths of the point-spread function;
# tuned on simulated amplifiers with and without image motion
LEAST_SEPARATION = 1.25
MAX_WIDTH_STEP_PX, WIDTHS_PX = 0.1, (0.4, 4.0)
_MAX_SHIFT_PX, _CONTEST_PX = 0.4, 2.0


class StreakFit:
    """Streaks of one profile and the present state of their fit.

    Parameters
    ----------
    profile_e, error_e : ndarray of float64, shape (x,)
        Electrons per pixel and row. Columns that are not finite are left out.
    sigma_px : float
        First guess of the width of the point-spread function.

    Attributes
    ----------
    x, flux, width : ndarray of float64, shape (s,)
        Sorted by column; ``width`` is each streak's own, `sigma_px` the common one.
    background, model : ndarray of float64, shape (x,)
        Smooth background, and the light of the streaks.
    valid : ndarray of bool, shape (x,)
        False in hot columns and traps, which lack the flanks of a point-spread function.
    """

    def __init__(self, profile_e: np.ndarray, error_e: np.ndarray, sigma_px: float) -> None:
        self.valid = np.isfinite(profile_e) & np.isfinite(error_e) & (error_e > 0)
        self.profile = np.where(self.valid, profile_e, 0.0)
        self.error = np.where(self.valid, error_e, 1.0)
        self.sigma_px = self.prior_px = float(sigma_px)
        self.width_error_px, self.scatter_px = WIDTH_PRIOR * self.prior_px, 0.0
        self.background = self._first_background()
        self.model = np.zeros(self.profile.size)
        self.x = self.flux = self.width = np.empty(0)
        self._factor = np.ones((0, 2))

    @property
    def half_width(self) -> int:
        """Columns to either side of a streak that are fitted: at least four widths."""
        return max(FIT_HALF_WIDTH, int(np.ceil(4 * self.sigma_px)))

    @property
    def residual(self) -> np.ndarray:
        """Profile minus background and streaks, shape (x,)."""
        return self.profile - self.background - self.model

    @property
    def flux_error(self) -> np.ndarray:
        """Standard errors of the fluxes from the noise of the profile, all positions free, (s,)."""
        return np.sqrt(inverse_diagonal(self._factor)[::2])

    @property
    def total_error(self) -> np.ndarray:
        """Standard errors including those of background and width, which were fitted to the same profile, (s,).

        A Gaussian's fitted flux changes with the square root of its width, and with the background times its
        noise-equivalent columns. The background is a median over about one and a half times `KNOT_COLUMNS`.
        """
        background = np.sqrt(np.pi / 2 / (1.5 * KNOT_COLUMNS)) * np.median(self.error)
        width = 0.5 * self.flux * self.width_error_px / self.sigma_px
        return np.sqrt(self.flux_error**2 + (noise_equivalent_columns(self.sigma_px) * background) ** 2 + width**2)

    @property
    def _columns(self) -> np.ndarray:
        """Column under the centre of each streak, (s,)."""
        return np.clip(np.round(self.x), 0, self.profile.size - 1).astype(np.int64)

    def tolerance(self, relative: float) -> np.ndarray:
        """Error of the profile plus an allowance for the shape of point-spread function and ghosts, shape (x,)."""
        light = self.model + np.maximum(self.background - np.median(self.background), 0)
        return np.hypot(self.error, relative * maximum_filter1d(light, 5))

    def add_peaks(self, *, over_curved_sky: bool) -> bool:
        """Add a streak wherever the residual, filtered with the point-spread function, has a significant peak.

        With ``over_curved_sky`` the filter ignores constant and quadratic terms over its width. The background is not
        known yet, and a ghost must not become a row of streaks.
        """
        offsets = np.arange(-self.half_width, self.half_width + 1)
        kernel = pixel_profile(offsets, self.sigma_px)
        if over_curved_sky:
            basis = np.linalg.qr(np.stack([np.ones(offsets.size), offsets**2.0], axis=1))[0]
            kernel = kernel - basis @ (basis.T @ kernel)
        weight = self.valid / self.tolerance(PROFILE_TOLERANCE) ** 2
        power = np.convolve(weight, kernel**2, mode="same")
        score = np.convolve(self.residual * weight, kernel, mode="same") / np.sqrt(np.maximum(power, 1e-30))
        peaks = np.flatnonzero((score == maximum_filter1d(score, 3)) & (score > MIN_STREAK_SIGNIFICANCE)).astype(
            np.float64
        )
        if self.x.size:
            peaks = peaks[np.abs(peaks[:, None] - self.x).min(axis=1) > LEAST_SEPARATION * self.sigma_px]
        order = np.argsort(np.append(self.x, peaks))
        self.x = np.append(self.x, peaks)[order]
        self.width = np.append(self.width, np.full(peaks.size, self.sigma_px))[order]
        return peaks.size > 0

    def refine(self, n_steps: int, *, blends_known: bool) -> None:
        """Gauss–Newton steps on all positions and fluxes, and on the common width (see `_fit_width`)."""
        for _ in range(n_steps):
            taps, u = self._solve()
            self._fit_width(*taps, blends_known=blends_known)
            positive = self.flux > 0
            shift = np.clip(u[positive] / self.flux[positive], -_MAX_SHIFT_PX, _MAX_SHIFT_PX)
            x = np.clip(self.x[positive] + shift, -1.0, self.profile.size)
            self._keep(positive)
            self.x = x
            self._merge_close(LEAST_SEPARATION * self.sigma_px)
        self._solve()

    def update_background(self) -> None:
        """Set the background to the slow variation of the profile without its streaks."""
        knot = max(KNOT_COLUMNS, int(np.ceil(10 * self.sigma_px)))
        self.background = follow_background(np.where(self.valid, self.profile - self.model, np.nan), knot)
        self._solve()

    def drop_spikes(self) -> None:
        """Mark hot columns and traps as invalid, and drop streaks on them.

        Both lack the flanks of a point-spread function. The two columns beside the brightest one of a streak, its
        neighbours subtracted, hold at least ``2 P(1)/P(0)`` of its light, wherever within the column it is centred.
        """
        noise = self.tolerance(PROFILE_TOLERANCE)
        least = np.maximum(MIN_SPIKE_SIGMA * noise, MIN_SPIKE_SHARE * np.abs(self.background))
        flanks = 2 * pixel_profile(1, self.sigma_px) / pixel_profile(0, self.sigma_px)
        columns = np.clip(np.round(self.x).astype(np.int64), 1, self.profile.size - 2)
        window = columns[:, None] + np.arange(-1, 2)
        own = self.residual[window] + self.flux[:, None] * pixel_profile(window - self.x[:, None], self.width[:, None])
        spiky = (own[:, 1] > least[columns]) & _lacks_flanks(own, noise[window], flanks)
        spiky &= self.valid[window].all(axis=1)
        around = np.arange(1, self.profile.size - 1)[:, None] + np.arange(-1, 2)
        lack = (self.background - self.profile)[around]
        trap = (lack[:, 1] > least[1:-1]) & _lacks_flanks(lack, noise[around], flanks)
        trap &= self.valid[around].all(axis=1)
        if spiky.any() or trap.any():
            self.valid[columns[spiky]] = False
            self.valid[1:-1][trap] = False
            self._keep(~spiky)
            self._solve()

    def drop_spoiled_columns(self) -> None:
        """Mark a hot column or trap under a streak as invalid, if leaving out that column makes a bad fit good.

        A companion, or a point-spread function of another shape, spoils several columns and stays.
        """
        noise = self.tolerance(PROFILE_TOLERANCE)
        bad = np.abs(self.residual) > MIN_SPIKE_SIGMA * noise
        reach = int(np.ceil(3 * self.sigma_px))
        spoiled = []
        for s in np.flatnonzero(uniform_filter1d(bad.astype(np.float64), 2 * reach + 1)[self._columns] > 0):
            window = self._columns[s] + np.arange(-reach - 2, reach + 3)
            window = window[(window >= 0) & (window < self.profile.size)]
            window = window[self.valid[window]]
            own = self.residual[window] + self.flux[s] * pixel_profile(window - self.x[s], self.width[s])
            misfit = misfits(window, own, noise[window], self.x[s], self.width[s])
            best = int(np.argmin(misfit))
            if misfit[-1] > MIN_SPIKE_SIGMA**2 and misfit[best] < MAX_MISFIT_LEFT * misfit[-1]:
                spoiled.append(window[best])
        if spoiled:
            self.valid[spoiled] = False
            self._solve()

    def drop_insignificant(self) -> None:
        """Drop streaks below `MIN_STREAK_SIGNIFICANCE`; of close ones the least first, since others get its light."""
        while self.x.size:
            significance = self.flux / self.flux_error
            weak = significance < MIN_STREAK_SIGNIFICANCE
            if not weak.any():
                return
            self._keep(~(weak & (significance <= _least_nearby(self.x, significance))))
            self._solve()

    def _clean(self, share: float) -> np.ndarray:
        """Streaks away from the edges whose neighbours have less than a share of their flux, bool, (s,)."""
        inside = (self.x > EDGE_PX) & (self.x < self.profile.size - 1 - EDGE_PX)
        return inside & (self.flux > 0) & (light_nearby(self.x, self.flux, CLEAN_PX) < share * self.flux)

    def _keep(self, kept: np.ndarray) -> None:
        self.x, self.flux, self.width = self.x[kept], self.flux[kept], self.width[kept]

    def _merge_close(self, within_px: float) -> None:
        """Sort streaks by column and merge those too close to each other at their centre of light."""
        self._keep(np.argsort(self.x))
        kept = np.ones(self.x.size, dtype=bool)
        for i in np.flatnonzero(np.diff(self.x) < within_px) + 1:
            if self.x[i] - self.x[i - 1] < within_px:
                self.x[i] = np.average(self.x[i - 1 : i + 1], weights=self.flux[i - 1 : i + 1])
                self.flux[i] += self.flux[i - 1]
                kept[i - 1] = False
        self._keep(kept)

    def _first_background(self) -> np.ndarray:
        """The sky level; where most columns of a neighbourhood are smooth, as in a ghost, their opened profile."""
        if self.valid.sum() < 2:
            return np.zeros(self.profile.size)
        sky = sky_level(self.profile[self.valid])
        profile = np.where(self.valid, self.profile, sky)
        width = 2 * int(np.ceil(OPENING_SIGMA * self.sigma_px)) + 1
        opened = open_background(profile, width)
        smooth = np.abs(profile - opened) < 4 * self.error + PROFILE_TOLERANCE * np.abs(opened - sky)
        return np.where(uniform_filter1d(smooth.astype(np.float64), 2 * width + 1) > 0.5, opened, sky)

    def _solve(self) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Fit all fluxes at the present positions; return the profiles, and position errors times fluxes."""
        first, taps = profile_taps(self.x, self.width, self.half_width)
        weight = self.valid / self.error**2
        self.flux, u, self._factor = solve_streaks(self.profile - self.background, weight, first, taps)
        self.model = add_profiles(first, taps, self.flux, self.profile.size)
        return (first, taps), u

    def _fit_width(self, first: np.ndarray, taps: np.ndarray, *, blends_known: bool) -> None:
        """Update the common width by a weighted median over isolated streaks, with the header's seeing as a prior.

        With too few isolated streaks the width stays as it is until blends are resolved (``blends_known``), and is then
        fitted to all streaks at once.
        """
        weight = self.valid / self.tolerance(WIDTH_TOLERANCE) ** 2
        step, information = measure_widths(self.residual, weight, first, taps, self.flux)
        clean = self._clean(CLEAN_SHARE) & (information > (MAX_WIDTH_ERROR * self.sigma_px) ** -2.0)
        own = self.width + step
        if clean.sum() >= LEAST_WIDTH_STREAKS:
            brightest = np.flatnonzero(clean)[np.argsort(-self.flux[clean])[:N_WIDTH_STREAKS]]
            weights = information[brightest]
            weights = np.minimum(weights, MAX_WIDTH_SHARE * weights.sum())
            prior = (WIDTH_PRIOR * self.prior_px) ** -2.0
            common = weighted_median(np.append(own[brightest], self.prior_px), np.append(weights, prior))
            self.scatter_px = MAD_TO_SIGMA * weighted_median(np.abs(own[brightest] - common), weights)
            self.width_error_px = (weights.sum() + prior) ** -0.5
        elif blends_known:
            change, self.width_error_px = self._common_width(first, taps, weight)
            common = self.sigma_px + change
        else:
            return
        self.sigma_px = float(np.clip(common, self.sigma_px - MAX_WIDTH_STEP_PX, self.sigma_px + MAX_WIDTH_STEP_PX))
        self.sigma_px = float(np.clip(self.sigma_px, *WIDTHS_PX))
        trust = information / (information + max(self.scatter_px, 1e-9) ** -2.0) * clean
        change = np.clip(own - self.sigma_px, -MAX_OWN_WIDTH * self.sigma_px, MAX_OWN_WIDTH * self.sigma_px)
        self.width = self.sigma_px + trust * change

    def _common_width(self, first: np.ndarray, taps: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
        """Change of the common width and its error, fluxes and positions fitted too; the header's seeing is a prior."""
        n_columns = self.profile.size
        broadening = add_profiles(first, taps, self.flux, n_columns, 2)
        flux, u, _ = solve_streaks(broadening, weight, first, taps)
        own = broadening - add_profiles(first, taps, flux, n_columns) - add_profiles(first, taps, u, n_columns, 1)
        information = np.sum(weight * own**2)
        prior = (WIDTH_PRIOR * self.prior_px) ** -2.0
        pull = np.sum(weight * own * self.residual) + prior * (self.prior_px - self.sigma_px)
        return float(pull / (information + prior)), float((information + prior) ** -0.5)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Value below which half of the weight lies, interpolated between the middles of the weights."""
    order = np.argsort(values)
    weights = weights[order]
    return float(np.interp(weights.sum() / 2, np.cumsum(weights) - weights / 2, values[order]))


def light_nearby(x: np.ndarray, flux: np.ndarray, reach_px: float) -> np.ndarray:
    """Flux of all other streaks within ``reach_px`` of each, (s,); ``x`` sorted."""
    cumulative = np.append(0.0, np.cumsum(flux))
    stop, start = np.searchsorted(x, x + reach_px, side="right"), np.searchsorted(x, x - reach_px)
    return cumulative[stop] - cumulative[start] - flux


def _lacks_flanks(light: np.ndarray, error: np.ndarray, flanks: float) -> np.ndarray:
    """Whether the outer columns of light (n, 3) have less than half of the expected flanks, by 3 sigma at least."""
    left, middle, right = light.T
    lacking = 0.5 * flanks * middle - (left + right)
    noise = np.sqrt(error[:, 0] ** 2 + error[:, 2] ** 2 + (0.5 * flanks * error[:, 1]) ** 2)
    return lacking > 3 * noise


def _least_nearby(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Least value among each streak and up to three neighbours on either side within `_CONTEST_PX`."""
    least = value.copy()
    for distance in range(1, min(4, x.size)):
        near = x[distance:] - x[:-distance] < _CONTEST_PX
        least[distance:] = np.where(near, np.minimum(least[distance:], value[:-distance]), least[distance:])
        least[:-distance] = np.where(near, np.minimum(least[:-distance], value[distance:]), least[:-distance])
    return least
