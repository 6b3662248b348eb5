"""List the numbers that learned detectors see of a trigger, and measure them. One list for every model.

No place on the detector is among them: a model would learn where training events were.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.context.neighbours import NEIGHBOUR_FEATURES, count_neighbours
from shutterless.pipeline.context.stars import STAR_FEATURES, describe_stars
from shutterless.pipeline.context.surroundings import SURROUNDINGS, measure_surroundings

OWN_FEATURES = (
    "strength",
    "sign",
    "raw_strength",
    "star_scatter",
    "width_s",
    "is_box",
    "is_flare",
    "chi2_excess",
    "chi2_significance",
    "sharpness",
    "flatness",
    "template_sharpness",
    "template_flatness",
    "light_inside",
    "n_same_row",
    "n_trail",
)
AMPLIFIER_FEATURES = ("psf_sigma_px", "ramp_share")
CONTEXT_FEATURES = (*OWN_FEATURES, *SURROUNDINGS, *STAR_FEATURES, *NEIGHBOUR_FEATURES, *AMPLIFIER_FEATURES)


class ContextError(ValueError):
    """A stack whose triggers have no such context."""


def measure_context(amplifier: Amplifier, triggers: pd.DataFrame) -> pd.DataFrame:
    """Measure `CONTEXT_FEATURES` of the triggers of an amplifier of continuous readout.

    Parameters
    ----------
    amplifier : Amplifier
    triggers : DataFrame
        All triggers of `shutterless.pipeline.detection.triggers.find_triggers`; the context of one is the others, too.

    Returns
    -------
    DataFrame
        `CONTEXT_FEATURES`, float64, in the order of the triggers; NaN where a number is not known.

    Raises
    ------
    ContextError
        For a stack higher than one row.

    Notes
    -----
    ``strength`` is the absolute S/N, ``raw_strength`` that before it was divided by the scatter of the star,
    ``star_scatter``. ``width_s`` is the length in seconds. ``ramp_share`` is the share of the sky that a row has
    collected: 1 after the ramp, and where the ramp is not known to be in the file. The others are described in
    `shutterless.pipeline.context.surroundings`, `shutterless.pipeline.context.stars` and
    `shutterless.pipeline.context.neighbours`.
    """
    if amplifier.n_y > 1:
        raise ContextError(
            f"{amplifier.entry} is a stack of {amplifier.n_y} rows (y); the context of triggers is measured in "
            "continuous readout (y = 1) alone; search with --model template-bank"
        )
    strength = triggers["snr"].abs()
    own = triggers[[name for name in OWN_FEATURES if name in triggers]].assign(
        strength=strength,
        sign=np.sign(triggers["snr"]),
        raw_strength=strength * triggers["star_scatter"],
        width_s=triggers["width_rows"] / amplifier.readout.row_rate_hz,
        is_box=triggers["shape"].eq("box"),
        is_flare=triggers["shape"].eq("flare"),
        psf_sigma_px=amplifier.psf_sigma_px,
        ramp_share=_ramp_share(amplifier, triggers["row_peak"].to_numpy(dtype=np.float64)),
    )
    parts = [own, measure_surroundings(amplifier, triggers), describe_stars(amplifier, triggers)]
    parts.append(count_neighbours(amplifier, triggers))
    return pd.concat(parts, axis=1)[list(CONTEXT_FEATURES)].astype(np.float64)


def _ramp_share(amplifier: Amplifier, row: np.ndarray) -> np.ndarray:
    readout = amplifier.readout
    if readout.first_row is None or not readout.n_transit:
        return np.ones(len(row))
    return np.clip((readout.first_row + row) / readout.n_transit, 0, 1)
