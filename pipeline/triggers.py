"""What a trigger is worth: the best of many shapes at the best position, and whether something else explains it.

With its vetoes this is the classical detector, the rival that every learned model must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from shutterless.pipeline.habits import Habits
from shutterless.pipeline.psf import psf_half_width, stack_profile
from shutterless.pipeline.shape_bank import shape_bank
from shutterless.pipeline.store import TIME_AXIS, Amplifier
from shutterless.pipeline.streaks import nearest_streak
from shutterless.pipeline.template_bank import MIN_LIVE_FRACTION, TRIGGER_THRESHOLD, scan
from shutterless.pipeline.vetoes import LONG_WIDTH, count_same_row, veto_reasons

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
    "template_sharpness",
    "template_flatness",
    "light_inside",
    "n_same_row",
    "veto",
    "amplitude_e",
    "streak_id",
)
PHASES_PX = np.arange(-0.75, 0.76, 0.25)  # a source half a pixel off its template loses 8 % of its S/N
# an eighth of a pixel off leaves 2.6 % of a light of this width, along each axis, to the residual: too much for a veto
SHARP_PX = 0.7
_FINE_GRID = np.array([(y, x) for y in (0, -1, 1) for x in (0, -1, 1)])
# pixels (row, y, x) of straight tracks that a cosmic ray may leave, one to four pixels long; in y in stacks alone
TRACKS = tuple(
    np.array([[max(-step, 0) * (n - 1) + step * k for step in direction] for k in range(n)])
    for n in (1, 2, 3, 4)
    for direction in ((0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 0, -1), (0, 1, 0), (0, 1, 1), (0, 1, -1))
    if n > 1 or direction == (0, 0, 1)
)


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
    rows = [
        _refine(amplifier, int(hit.y), int(hit.x), int(hit.row_start), int(hit.width_rows)) for hit in hits.itertuples()
    ]
    triggers = pd.DataFrame(
        [row for row in rows if row is not None], columns=[c for c in TRIGGER_COLUMNS if c not in _LATE]
    )
    # two hits beside one event may find it both
    triggers = triggers[~triggers[["x", "y", "row_peak", "shape"]].duplicated()].reset_index(drop=True)
    scatter = np.array(_habitual_scatter(amplifier, triggers))
    triggers["snr"] /= scatter
    triggers = triggers[(scatter == 1) | (triggers["snr"].abs() >= threshold)].reset_index(drop=True)
    triggers["n_same_row"] = count_same_row(triggers, triggers)
    x, y = (triggers[name].to_numpy(dtype=np.float64) for name in ("x", "y"))
    streak = nearest_streak(amplifier.streaks, x, within_px=1.5, y=y)
    ids = amplifier.streaks["streak_id"].to_numpy()
    triggers["streak_id"] = pd.array([int(ids[k]) if k >= 0 else None for k in streak], dtype="Int64")
    triggers["veto"] = veto_reasons(triggers, LONG_WIDTH if amplifier.detector_axis == TIME_AXIS else 1)
    return triggers[list(TRIGGER_COLUMNS)].astype(_TYPES if triggers.empty else {})


def _habitual_scatter(amplifier: Amplifier, triggers: pd.DataFrame) -> list[float]:
    """How much the star of each trigger swings anyway over so many rows, in units of its noise."""
    habits = Habits(amplifier)
    return [
        habits.scatter(round(hit.y), round(hit.x), int(hit.width_rows), hit.row_start, hit.row_stop)
        for hit in triggers.itertuples()
    ]


_LATE = ("n_same_row", "veto", "streak_id")
_TYPES = {
    "x": "float64",
    "y": "float64",
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
    "template_sharpness": "float64",
    "template_flatness": "float64",
    "light_inside": "float64",
    "n_same_row": "int64",
    "veto": "object",
    "amplitude_e": "float64",
}


@dataclass(frozen=True)
class _Reach:
    """Pixels on either side of a hit along y and x; where within a pixel a source is tried, as (y, x); its light there.

    ``phases`` is (p, 2), ``light`` (p, k) over the pixels of the patch.
    """

    y: int
    x: int
    phases: np.ndarray
    light: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return 2 * self.y + 1, 2 * self.x + 1

    @property
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(-self.y, self.y + 1), np.arange(-self.x, self.x + 1)


@lru_cache(maxsize=16)
def _reach(sigma_px: float, is_high: bool) -> _Reach:
    half = psf_half_width(sigma_px) + (0 if is_high else 1)
    phases_y = PHASES_PX if is_high else np.zeros(1)
    phases = np.stack(np.meshgrid(phases_y, PHASES_PX, indexing="ij"), axis=-1).reshape(-1, 2)
    y, x, n_y = np.arange(-half, half + 1) if is_high else np.zeros(1), np.arange(-half, half + 1), 1 + half * is_high
    light = [stack_profile(y - at_y, x - at_x, sigma_px, n_y).ravel() for at_y, at_x in phases]
    return _Reach(half if is_high else 0, half, phases, np.stack(light))


def _refine(amplifier: Amplifier, y: int, column: int, row_start: int, width_rows: int) -> tuple | None:
    """Best position, time and shape around one hit; None where too little is unmasked."""
    bank = shape_bank(width_rows, round(amplifier.smear_rows, 3))
    reach = _reach(amplifier.psf_sigma_px, amplifier.n_y > 1)
    centre_row = row_start + (width_rows - 1) // 2
    first_row = centre_row - (bank.pre + bank.max_shift) * bank.bin_rows - (bank.bin_rows - 1) // 2
    n_bins = bank.kernels.shape[1] + 2 * bank.max_shift
    patch, live, sigma = _binned_patch(amplifier, y, column, reach, first_row, n_bins, bank.bin_rows)
    weight = reach.light / sigma
    profiles = (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)  # (p, k)
    snr = _correlate(patch, live, profiles, bank.kernels)  # (p, shift, s)
    if not np.any(np.isfinite(snr)):
        return None
    phase, shift, shape = np.unravel_index(np.nanargmax(np.abs(snr)), snr.shape)
    window, kernel = slice(shift, shift + bank.kernels.shape[1]), bank.kernels[shape]
    patch, live = patch[:, window], live[:, window]
    place, value = _refine_place(amplifier, reach, reach.phases[phase], patch, live, sigma, kernel)
    light = _light(amplifier, reach, place)
    norm = np.linalg.norm(light / sigma)
    fit = _fit_quality(patch, live, np.outer(light / sigma / norm, kernel), value, kernel, reach.shape)
    look = (round(amplifier.smear_rows, 3), amplifier.psf_sigma_px, amplifier.n_y > 1, tuple(place.tolist()))
    sharpness, flatness = _template_look(width_rows, int(shape), *look)
    # where the rows after a flare's first are masked, or it rises faster than any template, that row is all there is
    own = max(sharpness, _template_look(1, 0, *look)[0]), flatness
    zero = first_row + (shift + bank.pre) * bank.bin_rows
    peak = _seen_peak(bank.pre + bank.peak[shape], kernel, (light / sigma / norm) ** 2 @ live)
    peak_row = bank.peak_value[shape] / np.sqrt(bank.bin_rows)  # of the unit-norm template in rows
    limits = (0, amplifier.n_rows - 1)
    return (
        float(np.clip(column + place[1], 0, amplifier.n_columns - 1)),
        float(np.clip(y + place[0], 0, amplifier.n_y - 1)),
        int(np.clip(zero + bank.start[shape] * bank.bin_rows, *limits)),
        int(np.clip(zero + (bank.stop[shape] + 1) * bank.bin_rows - 1, *limits)),
        int(np.clip(first_row + (shift + peak) * bank.bin_rows + bank.bin_rows // 2, *limits)),
        float((bank.stop[shape] - bank.start[shape] + 1) * bank.bin_rows),
        bank.names[shape],
        value,
        *fit,
        *own,
        _light_inside(amplifier, light, reach, y, column),
        value * peak_row / norm,
    )


def _seen_peak(peak: int, kernel: np.ndarray, seen: np.ndarray) -> int:
    """Bin of a template's peak, or where that is masked of the brightest bin that is not."""
    if seen[peak] >= MIN_LIVE_FRACTION:
        return int(peak)
    return int(np.argmax(np.where(seen >= MIN_LIVE_FRACTION, np.abs(kernel), -1.0)))


def _light_inside(amplifier: Amplifier, light: np.ndarray, reach: _Reach, y: int, column: int) -> float:
    """Fraction of a source's light on a patch around a pixel that falls on pixels of the stack."""
    inside_y, inside_x = (
        (offsets + middle >= 0) & (offsets + middle < size)
        for offsets, middle, size in zip(reach.offsets, (y, column), amplifier.residual.shape, strict=False)
    )
    return float(np.sum(light.reshape(reach.shape)[inside_y][:, inside_x]))


def _light(amplifier: Amplifier, reach: _Reach, place: np.ndarray) -> np.ndarray:
    """Share of the light of a source at ``place`` (y, x) on every pixel of a patch, shape (k,)."""
    return amplifier.profile(*(o - p for o, p in zip(reach.offsets, place, strict=True))).ravel()


def _refine_place(
    amplifier: Amplifier,
    reach: _Reach,
    phase: np.ndarray,
    patch: np.ndarray,
    live: np.ndarray,
    sigma: np.ndarray,
    kernel: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Place (y, x) within a pixel of the highest S/N at the best time and shape, and that S/N.

    The phases lie dense enough for a wide point-spread function; around a sharp one's best phase others are tried.
    """
    best, value = phase, 0.0
    for step in (None, *_fine_steps(amplifier.psf_sigma_px)):
        places = [best] if step is None else best + step * _FINE_GRID * [amplifier.n_y > 1, True]
        weight = np.stack([_light(amplifier, reach, place) for place in places]) / sigma
        profiles = (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)
        snr = _correlate(patch, live, profiles, kernel[None])[:, 0, 0]
        first = int(np.argmax(np.nan_to_num(np.abs(snr))))
        best, value = places[first], float(snr[first])
    return np.asarray(best, dtype=np.float64), value


def _fine_steps(sigma_px: float) -> tuple[float, ...]:
    """Distances at which further places are tried, each half the one before (pixels)."""
    return () if sigma_px >= SHARP_PX else (0.125, 0.0625)


@lru_cache(maxsize=4096)
def _template_look(
    width_rows: int, shape: int, smear_rows: float, sigma_px: float, is_high: bool, place: tuple[float, float]
) -> tuple[float, float]:
    """Sharpness and flatness that a template itself has where the noise of all pixels is the same."""
    bank, reach = shape_bank(width_rows, smear_rows), _reach(sigma_px, is_high)
    (y, x), (at_y, at_x) = reach.offsets, place
    light = stack_profile(y - at_y, x - at_x, sigma_px, reach.shape[0]).ravel()
    template = np.outer(light / np.linalg.norm(light), bank.kernels[shape])
    return _fit_quality(template, np.ones_like(template), template, 1.0, bank.kernels[shape], reach.shape)[2:]


def _binned_patch(
    amplifier: Amplifier, y: int, column: int, reach: _Reach, first_row: int, n_bins: int, bin_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals around a pixel in bins of rows, (k, bins) in σ of a bin; live fraction of each; noise per pixel."""
    n_rows = amplifier.n_rows
    patch = np.full((*reach.shape, n_bins * bin_rows), np.nan, dtype=np.float32)
    y0, y1 = max(y - reach.y, 0), min(y + reach.y + 1, amplifier.n_y)
    c0, c1 = max(column - reach.x, 0), min(column + reach.x + 1, amplifier.n_columns)
    r0, r1 = max(first_row, 0), min(first_row + n_bins * bin_rows, n_rows)
    patch[
        y0 - y + reach.y : y1 - y + reach.y,
        c0 - column + reach.x : c1 - column + reach.x,
        r0 - first_row : r1 - first_row,
    ] = amplifier.residual[y0:y1, c0:c1, r0:r1]
    valid = np.isfinite(patch).reshape(-1, n_bins * bin_rows)
    binned = np.where(valid, patch.reshape(valid.shape), 0).reshape(len(valid), n_bins, bin_rows)
    live = valid.reshape(binned.shape).mean(axis=2, dtype=np.float32)
    taps_y = np.clip(y + reach.offsets[0], 0, amplifier.n_y - 1)
    taps = np.clip(column + reach.offsets[1], 0, amplifier.n_columns - 1)
    sigma = amplifier.sigma_e[taps_y[:, None], taps, amplifier.block_of((r0 + r1) // 2)]
    return binned.sum(axis=2) / np.sqrt(np.float32(bin_rows)), live, sigma.ravel()


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
    patch: np.ndarray,
    live: np.ndarray,
    template: np.ndarray,
    snr: float,
    kernel: np.ndarray,
    shape: tuple[int, int],
) -> tuple[float, float, float, float]:
    """chi2_excess, chi2_significance, sharpness and flatness of the best fit.

    Notes
    -----
    The patch is the whole two-dimensional footprint of the template, so a cosmic ray, sharper than the point-spread
    function in either direction, is left over. The chi-square of 60 pixels drowns a faint one, so ``sharpness`` asks
    directly: the S/N of the best track (`TRACKS`) near the trigger over that of the best template. ``flatness`` is
    what the sum of all pixels has over the best single one of the middle, per S/N.
    """
    significant = np.flatnonzero(np.abs(kernel) > 0.02 * np.abs(kernel).max())
    rows = slice(max(significant[0] - 3, 0), significant[-1] + 4)
    used = live[:, rows] >= MIN_LIVE_FRACTION
    left = (patch[:, rows] - snr * template[:, rows])[used]
    dof = max(left.size - 1, 1)
    excess = float(np.sum(left**2) - dof)
    across = patch @ kernel  # S/N of each pixel alone at the best time
    flat = float(np.sum(across) / np.sqrt(max(int(np.count_nonzero(live.max(axis=1))), 1)))
    middle = across.reshape(shape)[tuple(slice(max(n // 2 - 1, 0), n // 2 + 2) for n in shape)].ravel()
    single = float(middle[np.argmax(np.abs(middle))])
    track = _best_track((patch[:, rows] / snr).reshape(*shape, -1))
    return excess / snr**2, excess / np.sqrt(2 * dof), track, (flat - single) / snr


def _best_track(patch: np.ndarray) -> float:
    """Highest S/N of a straight track of one to four pixels anywhere in a patch (y, x, t)."""
    best = -np.inf
    n_y, n_columns, n_rows = patch.shape
    for steps in TRACKS:
        room = np.array([n_rows, n_y, n_columns]) - steps.max(axis=0)
        if room.min() < 1:
            continue
        total = sum(patch[y : y + room[1], column : column + room[2], row : row + room[0]] for row, y, column in steps)
        best = max(best, float(np.max(total)) / np.sqrt(len(steps)))
    return best
