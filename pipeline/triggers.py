"""What a trigger is worth: the best of many shapes at the best position, and whether something else explains it.

With its vetoes this is the classical detector, the rival that every learned model must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from shutterless.pipeline.events import event_light_curve
from shutterless.pipeline.habits import Habits
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.store import BLOCK_ROWS, Amplifier
from shutterless.pipeline.streaks import nearest_streak
from shutterless.pipeline.template_bank import MIN_LIVE_FRACTION, TRIGGER_THRESHOLD, psf_half_width, scan

TRIGGER_COLUMNS = (
    "x",
    "y",
    "row_start",
    "row_stop",
    "row_peak",
    "width_rows",
    "shape",
    "snr",
    "chi2_excess",
    "chi2_significance",
    "sharpness",
    "flatness",
    "n_same_row",
    "veto",
    "amplitude_e",
    "streak_id",
)
# shapes tried around a box of width w: name, keyword arguments, scale in units of w
SHAPES = (
    *(("box", "burst", {"profile": "tophat"}, scale) for scale in (0.7, 1.0, 1.4)),
    *(("gaussian", "burst", {"profile": "gaussian"}, scale) for scale in (0.6, 0.85, 1.2)),
    *(("flare", "flare", {}, scale) for scale in (0.25, 0.4, 0.6, 0.9)),
)
PHASES_PX = np.arange(-0.75, 0.76, 0.25)  # a source half a pixel off its template loses 8 % of its S/N
HALF_ROW_WIDTH = 8  # up to this width templates are also centred between two rows
BINS_PER_WIDTH = 16  # longer boxes are refined on rows binned to this many per width
# pixels (row, column) of straight tracks that a cosmic ray may leave, one to four pixels long, in four directions
TRACKS = tuple(
    np.array([(row * k + max(-row, 0) * (n - 1), column * k + max(-column, 0) * (n - 1)) for k in range(n)])
    for n in (1, 2, 3, 4)
    for row, column in ((0, 1), (1, 0), (1, 1), (1, -1))
    if n > 1 or (row, column) == (0, 1)
)

# Vetoes, set on events and cosmic rays injected into simulated training frames: they cost 1 % of the events and let
# 17 % of the cosmic rays between 6.5 and 8 sigma pass, 3 % between 8 and 20, none above; docs/experiments.md
# S/N of the best track over that of the best template: 0.8 for events, 1.15 for cosmic rays; noise adds about 1.3 / S/N
MAX_SHARPNESS, SHARPNESS_NOISE = 0.78, 1.3
MAX_CHI2_EXCESS = 0.15  # chi-square over degrees of freedom, per squared S/N; a one-pixel spike leaves 1.5
MIN_CHI2_SIGNIFICANCE = 3.5
LONG_WIDTH = 9  # rows; beyond, few cosmic rays reach and the shapes of events fit worse
MAX_CHI2_EXCESS_LONG = 0.3
MIN_CHI2_SIGNIFICANCE_LONG = 5.0
MAX_FLATNESS = 0.5  # a point source has -0.2, light shared by all columns of the patch 1.1
# a point source has -0.2 ± 1.2 / S/N; what is left of a star that moved or widened gives the middle what it takes from
# the flanks. Costs 0.5 % of events injected above 8 sigma in still air; on two amplifiers with all nuisances on it took
# 29 and 15 triggers above 7 sigma down to 18 and 12
MIN_FLATNESS, FLATNESS_NOISE = -0.3, 3.5
MAX_SAME_ROW = 1  # further triggers elsewhere on the amplifier in the same rows
SAME_ROW_TOLERANCE = 2
SAME_ROW_DISTANCE_PX = 8


@dataclass(frozen=True)
class ShapeBank:
    """Time templates for boxes of one width.

    ``kernels`` is (s, k), each row of unit norm, ``names`` their shapes; ``bin_rows`` rows per bin; ``pre`` the bin of
    the centre; ``max_shift`` bins to try on either side; ``start``, ``stop``, ``peak`` the central 90 % of each
    template, in bins relative to the centre; ``peak_value`` the largest element of each.
    """

    kernels: np.ndarray
    names: tuple[str, ...]
    bin_rows: int
    pre: int
    max_shift: int
    start: np.ndarray
    stop: np.ndarray
    peak: np.ndarray
    peak_value: np.ndarray


def find_triggers(amplifier: Amplifier, threshold: float = TRIGGER_THRESHOLD) -> pd.DataFrame:
    """Scan an amplifier, refine what is found and say what each trigger may be instead of an event.

    Parameters
    ----------
    amplifier : Amplifier
    threshold : float
        Smallest S/N of a box template.

    Returns
    -------
    DataFrame
        `TRIGGER_COLUMNS`, one row per trigger in row order. ``snr`` is signed; ``row_start`` to ``row_stop`` hold the
        central 90 % of the best template; ``veto`` is empty or the reason against; ``amplitude_e`` is in electrons
        per row at the peak, summed over columns.
    """
    return characterise(amplifier, scan(amplifier, threshold), threshold)


def characterise(amplifier: Amplifier, hits: pd.DataFrame, threshold: float = 0.0) -> pd.DataFrame:
    """Refine the hits of `shutterless.pipeline.template_bank.scan` and add what the vetoes look at.

    What falls below the threshold once it is measured by its star's habit is no trigger, and left out.
    """
    rows = [_refine(amplifier, int(hit.x), int(hit.row_start), int(hit.width_rows)) for hit in hits.itertuples()]
    triggers = pd.DataFrame(
        [row for row in rows if row is not None], columns=[c for c in TRIGGER_COLUMNS if c not in _LATE]
    )
    scatter = np.array(_habitual_scatter(amplifier, triggers))
    triggers["snr"] /= scatter
    triggers = triggers[(scatter == 1) | (triggers["snr"].abs() >= threshold)].reset_index(drop=True)
    triggers["n_same_row"] = count_same_row(triggers, triggers)
    streak = nearest_streak(amplifier.streaks, triggers["x"].to_numpy(dtype=np.float64), within_px=1.5)
    ids = amplifier.streaks["streak_id"].to_numpy()
    triggers["streak_id"] = pd.array([int(ids[k]) if k >= 0 else None for k in streak], dtype="Int64")
    triggers["veto"] = veto_reasons(triggers)
    return triggers[list(TRIGGER_COLUMNS)].astype(_TYPES if triggers.empty else {})


def _habitual_scatter(amplifier: Amplifier, triggers: pd.DataFrame) -> list[float]:
    """How much the star of each trigger swings anyway over so many rows, in units of its noise."""
    habits = Habits(amplifier)
    return [
        habits.scatter(round(hit.x), int(hit.width_rows), hit.row_start, hit.row_stop) for hit in triggers.itertuples()
    ]


def veto_reasons(triggers: pd.DataFrame) -> pd.Series:
    """Why a trigger is not taken for an event by the classical detector; empty where it is.

    ``same row``: others elsewhere on the amplifier in the same rows (pickup; a flash in the sky reaches two stars in
    two different rows). ``wide``: wider than the point-spread function (rows shared by many columns). ``sharp``: a
    track of a few pixels fits better (cosmic rays). ``shape``: what is left after the best template is too much.
    ``flanks``: their light has the other sign (a star that moved or widened).
    """
    long = triggers["width_rows"] > LONG_WIDTH
    excess = np.where(long, MAX_CHI2_EXCESS_LONG, MAX_CHI2_EXCESS)
    significance = np.where(long, MIN_CHI2_SIGNIFICANCE_LONG, MIN_CHI2_SIGNIFICANCE)
    checks = {
        "same row": triggers["n_same_row"] > MAX_SAME_ROW,
        "wide": triggers["flatness"] > MAX_FLATNESS,
        "sharp": triggers["sharpness"] > MAX_SHARPNESS + SHARPNESS_NOISE / triggers["snr"].abs(),
        "shape": (triggers["chi2_excess"] > excess) & (triggers["chi2_significance"] > significance),
        "flanks": triggers["flatness"] < MIN_FLATNESS - FLATNESS_NOISE / triggers["snr"].abs(),
    }
    reasons = np.select(list(checks.values()), list(checks), default="")
    return pd.Series(reasons, index=triggers.index, dtype=object)


def count_same_row(triggers: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """How many other triggers of an amplifier peak in the same rows but elsewhere in x.

    Parameters
    ----------
    triggers, others : DataFrame
        With ``x``, ``row_peak`` and ``snr``. Of ``others`` those above `TRIGGER_THRESHOLD` count that are at least half
        as strong: pickup is the same in all columns, and a bright event must not fall to two of noise beside it.

    Returns
    -------
    ndarray of int64, shape (number of triggers,)
    """
    others = others[others["snr"].abs() >= TRIGGER_THRESHOLD].sort_values("row_peak", kind="stable")
    rows, columns, strengths = (others[name].to_numpy() for name in ("row_peak", "x", "snr"))
    peak, x, snr = (triggers[name].to_numpy() for name in ("row_peak", "x", "snr"))
    first = np.searchsorted(rows, peak - SAME_ROW_TOLERANCE, side="left")
    last = np.searchsorted(rows, peak + SAME_ROW_TOLERANCE, side="right")
    counts = []
    for i in range(len(peak)):
        near = slice(first[i], last[i])
        apart = np.abs(columns[near] - x[i]) > SAME_ROW_DISTANCE_PX
        counts.append(np.sum(apart & (np.abs(strengths[near]) >= abs(snr[i]) / 2)))
    return np.asarray(counts, dtype=np.int64)


@lru_cache(maxsize=128)
def shape_bank(width_rows: int, sigma_rows: float) -> ShapeBank:
    """Time templates around a box of ``width_rows``, smeared by the PSF, on rows binned for speed.

    Short ones are there twice, centred on a row and between two: half a row off costs a delta burst 8 % of its S/N.
    """
    bin_rows = max(width_rows // BINS_PER_WIDTH, 1)
    width = width_rows / bin_rows
    pre, post = int(np.ceil(max(2 * width, 6))), int(np.ceil(max(6 * width, 8)))
    n_bins, centre = pre + post + 1, pre * bin_rows + (bin_rows - 1) / 2
    curves, names = [], []
    for phase in (0.0, 0.5) if width_rows <= HALF_ROW_WIDTH else (0.0,):
        for name, kind, arguments, scale in SHAPES:
            curve = event_light_curve(
                kind, n_bins * bin_rows, centre + phase, scale * width_rows, sigma_rows, **arguments
            )
            curves.append(curve.reshape(n_bins, bin_rows).sum(axis=1))
            names.append(name)
    kernels = np.asarray(curves)
    cumulative = np.cumsum(kernels, axis=1) / kernels.sum(axis=1, keepdims=True)
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    return ShapeBank(
        kernels=kernels.astype(np.float32),
        names=tuple(names),
        bin_rows=bin_rows,
        pre=pre,
        max_shift=int(np.ceil(max(width, 3))),
        start=(cumulative >= 0.05).argmax(axis=1) - pre,
        stop=(cumulative >= 0.95).argmax(axis=1) - pre,
        peak=kernels.argmax(axis=1) - pre,
        peak_value=kernels.max(axis=1),
    )


_LATE = ("n_same_row", "veto", "streak_id")
_TYPES = {
    "x": "float64",
    "y": "int64",
    "row_start": "int64",
    "row_stop": "int64",
    "row_peak": "int64",
    "width_rows": "float64",
    "shape": "str",
    "snr": "float64",
    "chi2_excess": "float64",
    "chi2_significance": "float64",
    "sharpness": "float64",
    "flatness": "float64",
    "n_same_row": "int64",
    "veto": "object",
    "amplitude_e": "float64",
}


def _refine(amplifier: Amplifier, column: int, row_start: int, width_rows: int) -> tuple | None:
    """Best position, time and shape around one hit; None where too little is unmasked."""
    bank = shape_bank(width_rows, round(amplifier.psf_sigma_px, 3))
    centre_row = row_start + (width_rows - 1) // 2
    first_row = centre_row - (bank.pre + bank.max_shift) * bank.bin_rows - (bank.bin_rows - 1) // 2
    n_bins = bank.kernels.shape[1] + 2 * bank.max_shift
    half = psf_half_width(amplifier.psf_sigma_px) + 1
    patch, live, sigma = _binned_patch(amplifier, column, half, first_row, n_bins, bank.bin_rows)
    profiles = _column_profiles(amplifier, column, half, sigma)  # (p, w)
    snr = _correlate(patch, live, profiles, bank.kernels)  # (p, shift, s)
    if not np.any(np.isfinite(snr)):
        return None
    phase, shift, shape = np.unravel_index(np.nanargmax(np.abs(snr)), snr.shape)
    value = float(snr[phase, shift, shape])
    template = np.outer(profiles[phase], bank.kernels[shape])
    window = slice(shift, shift + bank.kernels.shape[1])
    fit = _fit_quality(patch[:, window], live[:, window], template, value, bank.kernels[shape])
    zero = first_row + (shift + bank.pre) * bank.bin_rows
    light_px = pixel_profile(np.arange(-half, half + 1) - PHASES_PX[phase], amplifier.psf_sigma_px)
    norm = np.sqrt(np.sum((light_px / sigma) ** 2))
    peak_row = bank.peak_value[shape] / np.sqrt(bank.bin_rows)  # of the unit-norm template in rows
    limits = (0, amplifier.n_rows - 1)
    return (
        float(np.clip(column + PHASES_PX[phase], 0, amplifier.n_columns - 1)),
        0,
        int(np.clip(zero + bank.start[shape] * bank.bin_rows, *limits)),
        int(np.clip(zero + (bank.stop[shape] + 1) * bank.bin_rows - 1, *limits)),
        int(np.clip(zero + bank.peak[shape] * bank.bin_rows + bank.bin_rows // 2, *limits)),
        float((bank.stop[shape] - bank.start[shape] + 1) * bank.bin_rows),
        bank.names[shape],
        value,
        *fit,
        value * peak_row / norm,
    )


def _binned_patch(
    amplifier: Amplifier, column: int, half: int, first_row: int, n_bins: int, bin_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals around a column in bins of rows, (w, bins) in σ of a bin; live fraction of each; noise per column."""
    n_columns, n_rows = amplifier.n_columns, amplifier.n_rows
    patch = np.full((2 * half + 1, n_bins * bin_rows), np.nan, dtype=np.float32)
    c0, c1 = max(column - half, 0), min(column + half + 1, n_columns)
    r0, r1 = max(first_row, 0), min(first_row + n_bins * bin_rows, n_rows)
    patch[c0 - column + half : c1 - column + half, r0 - first_row : r1 - first_row] = amplifier.residual[
        0, c0:c1, r0:r1
    ]
    valid = np.isfinite(patch)
    binned = np.where(valid, patch, 0).reshape(2 * half + 1, n_bins, bin_rows)
    live = valid.reshape(binned.shape).mean(axis=2, dtype=np.float32)
    block = np.clip((r0 + r1) // 2 // BLOCK_ROWS, 0, amplifier.sigma_e.shape[2] - 1)
    taps = np.clip(np.arange(column - half, column + half + 1), 0, n_columns - 1)
    return binned.sum(axis=2) / np.sqrt(np.float32(bin_rows)), live, amplifier.sigma_e[0, taps, block]


def _column_profiles(amplifier: Amplifier, column: int, half: int, sigma: np.ndarray) -> np.ndarray:
    """Unit-norm matched filters across columns at each phase, shape (p, w)."""
    offsets = np.arange(-half, half + 1)
    profiles = [pixel_profile(offsets - phase, amplifier.psf_sigma_px) for phase in PHASES_PX]
    weight = np.asarray(profiles) / sigma
    return (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)


def _correlate(patch: np.ndarray, live: np.ndarray, profiles: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """S/N of every profile, shift and kernel, (p, shift, s); NaN where more than half of a template is masked."""
    windows = np.lib.stride_tricks.sliding_window_view(profiles @ patch, kernels.shape[1], axis=1)
    snr = windows @ kernels.T
    if live.min() < 1:
        coverage = (
            np.lib.stride_tricks.sliding_window_view((profiles**2) @ live, kernels.shape[1], axis=1) @ (kernels**2).T
        )
        snr = np.where(coverage >= MIN_LIVE_FRACTION, snr / np.sqrt(np.maximum(coverage, 1e-6)), np.nan)
    return snr


def _fit_quality(
    patch: np.ndarray, live: np.ndarray, template: np.ndarray, snr: float, kernel: np.ndarray
) -> tuple[float, float, float, float]:
    """chi2_excess, chi2_significance, sharpness and flatness of the best fit.

    Notes
    -----
    The patch is the whole two-dimensional footprint of the template, so a cosmic ray, sharper than the point-spread
    function in either direction, is left over. The chi-square of 60 pixels drowns a faint one, so ``sharpness`` asks
    directly: the S/N of the best track (`TRACKS`) near the trigger over that of the best template. ``flatness`` is
    what the sum of all columns has over the best single column, per S/N.
    """
    significant = np.flatnonzero(np.abs(kernel) > 0.02 * np.abs(kernel).max())
    rows = slice(max(significant[0] - 3, 0), significant[-1] + 4)
    used = live[:, rows] >= MIN_LIVE_FRACTION
    left = (patch[:, rows] - snr * template[:, rows])[used]
    dof = max(left.size - 1, 1)
    excess = float(np.sum(left**2) - dof)
    across = patch @ kernel  # S/N of each column alone at the best time
    middle = len(across) // 2
    flat = float(np.sum(across) / np.sqrt(len(across)))
    single = float(across[middle - 1 : middle + 2][np.argmax(np.abs(across[middle - 1 : middle + 2]))])
    return excess / snr**2, excess / np.sqrt(2 * dof), _best_track(patch[:, rows] / snr), (flat - single) / snr


def _best_track(patch: np.ndarray) -> float:
    """Highest S/N of a straight track of one to four pixels anywhere in a patch."""
    best = -np.inf
    for steps in TRACKS:
        n_rows, n_columns = steps.max(axis=0) + 1
        if n_columns > patch.shape[0] or n_rows > patch.shape[1]:
            continue
        total = sum(
            patch[column : patch.shape[0] - n_columns + column + 1, row : patch.shape[1] - n_rows + row + 1]
            for row, column in steps
        )
        best = max(best, float(np.max(total)) / np.sqrt(len(steps)))
    return best
