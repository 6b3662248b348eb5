"""Why a trigger may be something else than an event: the vetoes of the classical detector."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.detection.scan import TRIGGER_THRESHOLD

# set on events and cosmic rays injected into simulated training frames: they cost 1 % of the events and let
# 17 % of the cosmic rays between 6.5 and 8 sigma pass, 3 % between 8 and 20, none above; docs/experiments.md
# S/N of the best track over that of the best template: 0.8 for events, 1.15 for cosmic rays; noise adds about 1.3 / S/N
MAX_SHARPNESS, SHARPNESS_MARGIN = 0.78, 1.3
MAX_CHI2_EXCESS = 0.15  # chi-square over degrees of freedom, per squared S/N; a one-pixel spike leaves 1.5
MIN_CHI2_SIGNIFICANCE = 3.5
LONG_WIDTH = 9  # rows; beyond, few cosmic rays reach in continuous readout and the shapes of events fit worse
MAX_CHI2_EXCESS_LONG = 0.3
MIN_CHI2_SIGNIFICANCE_LONG = 5.0
MAX_FLATNESS = 0.5  # a point source has -0.2, light shared by all columns of the patch 1.1
# a point source has -0.2 ± 1.2 / S/N; what is left of a star that moved or widened gives the middle what it takes from
# the flanks. Costs 0.5 % of events injected above 8 sigma in still air; on two amplifiers with all nuisances on it took
# 29 and 15 triggers above 7 sigma down to 18 and 12
MIN_FLATNESS, FLATNESS_NOISE = -0.3, 3.5
POINT_FLATNESS = -0.2  # on which that was set
MIN_LIGHT_INSIDE = 0.8  # of a source; at the border of a stack, shape and place of one that is cut cannot be told
MAX_SAME_ROW = 1  # further triggers elsewhere on the amplifier in the same rows
SAME_ROW_TOLERANCE = 2
SAME_ROW_DISTANCE_PX = 8
# beyond these no model is asked: on 1.2 Gpix of simulated frames with 309 triggers on injected events they cut 28 % of
# the triggers in still air, 16 % with everything on, and no event; what was cut beside one was a cosmic ray
ARTEFACT_SHARPNESS, ARTEFACT_FLATNESS = 0.2, 0.8


def are_clear_artefacts(triggers: pd.DataFrame) -> np.ndarray:
    """Triggers that need no model to be told from an event, bool, (number of triggers,).

    Sharper than the veto allows by `ARTEFACT_SHARPNESS` (cosmic rays), or flatter than `ARTEFACT_FLATNESS` (rows that
    many columns share).
    """
    sharp = triggers["sharpness"] > _sharpness_limit(triggers) + ARTEFACT_SHARPNESS
    return (sharp | (triggers["flatness"] > ARTEFACT_FLATNESS)).to_numpy(dtype=bool)


def _sharpness_limit(triggers: pd.DataFrame) -> pd.Series:
    return triggers["template_sharpness"].clip(lower=MAX_SHARPNESS) + SHARPNESS_MARGIN / triggers["snr"].abs()


def veto_reasons(triggers: pd.DataFrame, long_width: int = LONG_WIDTH) -> pd.Series:
    """Why a trigger is not taken for an event by the classical detector; empty where it is.

    Parameters
    ----------
    triggers : DataFrame
        With all of `TRIGGER_COLUMNS` that come before ``veto``.
    long_width : int
        Rows beyond which no cosmic ray lasts, so that the shape may fit worse.

    Notes
    -----
    ``same row``: others elsewhere on the amplifier in the same rows (pickup; a flash in the sky reaches two stars in
    two different rows). ``edge``: cut by the border of the stack, so that nothing can be said of its shape. ``wide``:
    wider than the point-spread function (rows shared by many columns). ``sharp``: a track of a few pixels fits better
    (cosmic rays). ``shape``: what is left after the best template is too much. ``flanks``: their light has the other
    sign (a star that moved or widened). Where a sharp point-spread function makes the best template itself look sharp
    or its flanks dark, that much is allowed.
    """
    long = triggers["width_rows"] > long_width
    excess = np.where(long, MAX_CHI2_EXCESS_LONG, MAX_CHI2_EXCESS)
    significance = np.where(long, MIN_CHI2_SIGNIFICANCE_LONG, MIN_CHI2_SIGNIFICANCE)
    darkest = (triggers["template_flatness"] - POINT_FLATNESS).clip(upper=0) + MIN_FLATNESS
    checks = {
        "same row": triggers["n_same_row"] > MAX_SAME_ROW,
        "edge": triggers["light_inside"] < MIN_LIGHT_INSIDE,
        "wide": triggers["flatness"] > MAX_FLATNESS,
        "sharp": triggers["sharpness"] > _sharpness_limit(triggers),
        "shape": (triggers["chi2_excess"] > excess) & (triggers["chi2_significance"] > significance),
        "flanks": triggers["flatness"] < darkest - FLATNESS_NOISE / triggers["snr"].abs(),
    }
    reasons = np.select(list(checks.values()), list(checks), default="")
    return pd.Series(reasons, index=triggers.index, dtype=object)


def count_same_row(triggers: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """How many other triggers of an amplifier peak in the same rows but elsewhere.

    Parameters
    ----------
    triggers, others : DataFrame
        With ``x``, ``y``, ``row_peak`` and ``snr``. Of ``others`` those above `TRIGGER_THRESHOLD` count that are at
        least half as strong: pickup is the same in all columns, and a bright event must not fall to two of noise
        beside it.

    Returns
    -------
    ndarray of int64, shape (number of triggers,)
    """
    others = others[others["snr"].abs() >= TRIGGER_THRESHOLD].sort_values("row_peak", kind="stable")
    rows, strengths, places = others["row_peak"].to_numpy(), others["snr"].to_numpy(), others[["x", "y"]].to_numpy()
    peak, snr, own_places = triggers["row_peak"].to_numpy(), triggers["snr"].to_numpy(), triggers[["x", "y"]].to_numpy()
    first = np.searchsorted(rows, peak - SAME_ROW_TOLERANCE, side="left")
    last = np.searchsorted(rows, peak + SAME_ROW_TOLERANCE, side="right")
    counts = []
    for i in range(len(peak)):
        near = slice(first[i], last[i])
        apart = np.abs(places[near] - own_places[i]).max(axis=1, initial=0) > SAME_ROW_DISTANCE_PX
        counts.append(np.sum(apart & (np.abs(strengths[near]) >= abs(snr[i]) / 2)))
    return np.asarray(counts, dtype=np.int64)
