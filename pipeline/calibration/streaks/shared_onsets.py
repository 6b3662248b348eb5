"""Share ``y0`` of streaks between the files of a sequence, as only the file with the ramp shows their onsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.reading.readout import Readout

SAME_STAR_PX = 0.7
SAME_STAR_FLUX_RATIO = 1.4


def share_onsets(streaks: Mapping[str, pd.DataFrame], readouts: Mapping[str, Readout]) -> dict[str, pd.DataFrame]:
    """Give ``y0`` from the file with the ramp to the streaks of the other files of its sequence.

    Parameters
    ----------
    streaks : mapping of str to DataFrame
        Streak table by store entry.
    readouts : mapping of str to Readout

    Returns
    -------
    dict of str to DataFrame
        The same tables with ``y0`` filled in, where a file of the same sequence, CCD and quadrant has a streak of known
        ``y0`` within `SAME_STAR_PX` and a factor `SAME_STAR_FLUX_RATIO` in flux.
    """
    known: dict[tuple[Any, ...], list[pd.DataFrame]] = {}
    for entry, table in streaks.items():
        readout = readouts[entry]
        if table["y0"].notna().any():
            key = readout.sequence, readout.ccd, readout.quadrant
            known.setdefault(key, []).append(table.dropna(subset="y0"))
    references = {key: pd.concat(tables, ignore_index=True) for key, tables in known.items()}
    shared = {}
    for entry, table in streaks.items():
        readout = readouts[entry]
        reference = references.get((readout.sequence, readout.ccd, readout.quadrant))
        is_timed = readout.first_row is not None
        shared[entry] = _adopt_onsets(table, reference) if is_timed and reference is not None else table
    return shared


def _adopt_onsets(table: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    if table["y0"].notna().all():
        return table
    x, flux, y0 = (reference[name].to_numpy() for name in ("x", "flux_e_row", "y0"))
    filled = table["y0"].to_numpy(copy=True)
    for i in np.flatnonzero(np.isnan(filled)):
        near = np.flatnonzero(np.abs(x - table["x"].iloc[i]) <= SAME_STAR_PX)
        ratio = np.abs(np.log(flux[near] / table["flux_e_row"].iloc[i]))
        if near.size and ratio.min() <= np.log(SAME_STAR_FLUX_RATIO):
            filled[i] = y0[near[np.argmin(ratio)]]
    return table.assign(y0=filled)
