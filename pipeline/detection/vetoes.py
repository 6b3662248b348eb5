"""Decide which triggers are not events: the vetoes of the classical detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd

from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.events.kinds import NOISE

# limits set on events and cosmic rays injected into simulated training frames. They cost 1 % of the events and let pass
# 17 % of the cosmic rays between 6.5 and 8 sigma, 3 % between 8 and 20, and none above; docs/experiments.md
# S/N of the best track over that of the best template: 0.8 for events, 1.15 for cosmic rays; noise adds about 1.3 / S/N
MAX_SHARPNESS, SHARPNESS_MARGIN = 0.78, 1.3
MAX_CHI2_EXCESS = 0.15  # chi-square over degrees of freedom, per squared S/N; a one-pixel spike leaves 1.5
MIN_CHI2_SIGNIFICANCE = 3.5
# rows at any row rate, since a cosmic ray leaves its whole track at once; few last longer in continuous readout, and
# longer events fit worse
LONG_WIDTH = 9
MAX_CHI2_EXCESS_LONG = 0.3
MIN_CHI2_SIGNIFICANCE_LONG = 5.0
MAX_FLATNESS = 0.5  # a point source has -0.2, light shared by all columns of the patch 1.1
# a point source has -0.2 ± 1.2 / S/N; the residual of a star that moved or changed its width is positive in the middle
# and negative in the flanks, or the reverse. The limit costs 0.5 % of events injected above 8 sigma in still air. With
# all nuisances it reduced 29 and 15 triggers above 7 sigma on two amplifiers to 18 and 12
MIN_FLATNESS, FLATNESS_NOISE = -0.3, 3.5
POINT_FLATNESS = -0.2  # of the point sources on which `MIN_FLATNESS` was set
MIN_LIGHT_INSIDE = 0.8  # of a source; beyond that the border of the stack hides its shape and place
MAX_SAME_ROW = 1  # further triggers elsewhere on the amplifier in the same rows
SAME_ROW_TOLERANCE = 2  # rows at any row rate: what is read with a row is in all of its columns
SAME_ROW_DISTANCE_PX = 8
# beyond these limits no model scores a trigger. On 1.2 Gpix of simulated frames with 309 triggers on injected events
# they cut 28 % of the triggers in still air, 16 % with all nuisances, and no event; a trigger that they cut beside an
# event was a cosmic ray
NO_MODEL_SHARPNESS_MARGIN, NO_MODEL_FLATNESS = 0.2, 0.8


@dataclass(frozen=True)
class Veto:
    """One reason why the classical detector rejects a trigger.

    Parameters
    ----------
    name : str
        As in the column ``veto`` of triggers and candidates.
    meaning : str
        What the veto means, in words.
    limit : str
        When it applies, with the numbers.
    cause : str
        Typical cause.
    kind : str
        Kind that the trigger is taken for, of `shutterless.pipeline.events.kinds.KINDS`: the class of training examples
        in frames that hold no event.
    check : callable
        Takes triggers and a mask of long ones (bool); returns whether the veto applies to each (bool).
    """

    name: str
    meaning: str
    limit: str
    cause: str
    kind: str
    check: Callable[[pd.DataFrame, pd.Series], pd.Series]


def _is_misshapen(triggers: pd.DataFrame, is_long: pd.Series) -> pd.Series:
    excess = np.where(is_long, MAX_CHI2_EXCESS_LONG, MAX_CHI2_EXCESS)
    significance = np.where(is_long, MIN_CHI2_SIGNIFICANCE_LONG, MIN_CHI2_SIGNIFICANCE)
    return (triggers["chi2_excess"] > excess) & (triggers["chi2_significance"] > significance)


def _has_dark_flanks(triggers: pd.DataFrame, _: pd.Series) -> pd.Series:
    darkest = (triggers["template_flatness"] - POINT_FLATNESS).clip(upper=0) + MIN_FLATNESS
    return triggers["flatness"] < darkest - FLATNESS_NOISE / triggers["snr"].abs()


def _sharpness_limit(triggers: pd.DataFrame) -> pd.Series:
    return triggers["template_sharpness"].clip(lower=MAX_SHARPNESS) + SHARPNESS_MARGIN / triggers["snr"].abs()


# the first that applies is kept
VETOES = (
    Veto(
        name="same row",
        meaning="others elsewhere on the amplifier peak in the same rows, where a flash in the sky would reach two "
        "stars in two different rows",
        limit=f"more than {MAX_SAME_ROW} other trigger, at least half as strong, peaks within {SAME_ROW_TOLERANCE} "
        f"rows and more than {SAME_ROW_DISTANCE_PX} px away",
        cause="pickup",
        kind="pickup",
        check=lambda triggers, _: triggers["n_same_row"] > MAX_SAME_ROW,
    ),
    Veto(
        name="edge",
        meaning="the border of the stack cuts it, so that its shape is unknown",
        limit=f"less than {MIN_LIGHT_INSIDE} of a source's light falls inside the stack",
        cause="border of a cube or amplifier",
        kind=NOISE,
        check=lambda triggers, _: triggers["light_inside"] < MIN_LIGHT_INSIDE,
    ),
    Veto(
        name="wide",
        meaning="the light covers the whole patch, not the source alone",
        limit=f"flatness above {MAX_FLATNESS}",
        cause="rows shared by many columns",
        kind="pickup",
        check=lambda triggers, _: triggers["flatness"] > MAX_FLATNESS,
    ),
    Veto(
        name="sharp",
        meaning="a track of a few pixels fits better than the light of a star",
        limit=f"sharpness above {MAX_SHARPNESS} + {SHARPNESS_MARGIN}/S/N",
        cause="cosmic ray",
        kind="cosmic_ray",
        check=lambda triggers, _: triggers["sharpness"] > _sharpness_limit(triggers),
    ),
    Veto(
        name="shape",
        meaning="the best template leaves too large a residual",
        limit=f"χ² excess per squared S/N above {MAX_CHI2_EXCESS}, at {MIN_CHI2_SIGNIFICANCE} σ "
        f"({MAX_CHI2_EXCESS_LONG} and {MIN_CHI2_SIGNIFICANCE_LONG:g} σ beyond {LONG_WIDTH} rows)",
        cause="cosmic ray, blend",
        kind="cosmic_ray",
        check=_is_misshapen,
    ),
    Veto(
        name="flanks",
        meaning="the light beside it has the other sign",
        limit=f"flatness below −{abs(MIN_FLATNESS)} − {FLATNESS_NOISE}/S/N",
        cause="a star that moved or widened",
        kind=NOISE,
        check=_has_dark_flanks,
    ),
)


def veto_reasons(triggers: pd.DataFrame, long_width: int = LONG_WIDTH) -> pd.Series:
    """Name of the veto by which the classical detector rejects each trigger; empty if it accepts it.

    Parameters
    ----------
    triggers : DataFrame
        With all of `TRIGGER_COLUMNS` that come before ``veto``.
    long_width : int
        Rows that hardly any cosmic ray exceeds; beyond them the shape may fit worse.

    Returns
    -------
    Series of object
        The name of the first of `VETOES` that applies.

    Notes
    -----
    A sharp point-spread function makes the best template itself sharp or its flanks dark. The limits allow for that.
    """
    is_long = triggers["width_rows"] > long_width
    checks = [veto.check(triggers, is_long) for veto in VETOES]
    reasons = np.select(checks, [veto.name for veto in VETOES], default="")
    return pd.Series(reasons, index=triggers.index, dtype=object)


def kinds_by_veto() -> dict[str, str]:
    """Kind that a trigger without an event is taken for, by the name of its veto; noise without a veto."""
    return {"": NOISE, **{veto.name: veto.kind for veto in VETOES}}


def describe_veto(name: str) -> str:
    """Name of a veto and its meaning; only the name if the veto is unknown, as one of an older version may be."""
    meaning = next((veto.meaning for veto in VETOES if veto.name == name), "")
    return f"{name}: {meaning}" if meaning else name or "none"


def need_a_model(triggers: pd.DataFrame) -> np.ndarray:
    """Mask of the triggers that a model scores, bool, (number of triggers,).

    The others are certainly no events. They exceed the sharpness limit of the veto by `NO_MODEL_SHARPNESS_MARGIN`
    (cosmic rays), or are flatter than `NO_MODEL_FLATNESS` (rows that many columns share).
    """
    sharp = triggers["sharpness"] > _sharpness_limit(triggers) + NO_MODEL_SHARPNESS_MARGIN
    return ~(sharp | (triggers["flatness"] > NO_MODEL_FLATNESS)).to_numpy(dtype=bool)


def count_same_row(triggers: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Number of other triggers of an amplifier that peak in the same rows but elsewhere.

    Parameters
    ----------
    triggers, others : DataFrame
        With ``x``, ``y``, ``row_peak`` and ``snr``. Only those of ``others`` count that exceed `TRIGGER_THRESHOLD` and
        are at least half as strong. Pickup has the same strength in all columns, and two noise triggers must not veto a
        bright event.

    Returns
    -------
    ndarray of int64, shape (number of triggers,)
    """
    others = others[others["snr"].abs() >= TRIGGER_THRESHOLD].sort_values("row_peak", kind="stable")
    rows, strength = others["row_peak"].to_numpy(), others["snr"].abs().to_numpy(np.float64)
    peak, own_strength = triggers["row_peak"].to_numpy(), triggers["snr"].abs().to_numpy(np.float64)
    places, own_places = (table[["x", "y"]].to_numpy(np.float64) for table in (others, triggers))
    first = np.searchsorted(rows, peak - SAME_ROW_TOLERANCE, side="left")
    last = np.searchsorted(rows, peak + SAME_ROW_TOLERANCE, side="right")
    return _count_elsewhere(first, last, places, strength, own_places, own_strength)


@numba.njit(cache=True, nogil=True)
def _count_elsewhere(first, last, places, strength, own_places, own_strength):  # pragma: no cover - compiled
    """Number of those between ``first`` and ``last`` that are elsewhere and half as strong as each trigger at least."""
    counts = np.zeros(len(first), np.int64)
    for i in range(len(first)):
        for other in range(first[i], last[i]):
            away = max(abs(places[other, 0] - own_places[i, 0]), abs(places[other, 1] - own_places[i, 1]))
            counts[i] += away > SAME_ROW_DISTANCE_PX and strength[other] >= own_strength[i] / 2
    return counts
