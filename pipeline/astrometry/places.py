"""Say where on the sky a candidate lies: at a star, or on a segment that its column draws on the sky."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.astrometry.identify import SolvedAmplifier
from shutterless.pipeline.astrometry.solve import LARGEST_OFFSET_ARCSEC
from shutterless.pipeline.reading.readout import Readout

SEGMENT_COLUMNS = ("segment_ra_1", "segment_dec_1", "segment_ra_2", "segment_dec_2")
_COLUMN_ERROR_PX = 0.5  # of a candidate on no streak: the column of its trigger is that of a grid of pixels


def place_orphans(candidates: pd.DataFrame, solved: SolvedAmplifier, readout: Readout) -> pd.DataFrame:
    """Give candidates on no known star, or on one in doubt, the segment of sky on which they lie.

    Parameters
    ----------
    candidates : DataFrame
        Of one amplifier of one file, from `shutterless.pipeline.results.candidates.build_candidates`.
    solved : SolvedAmplifier
    readout : Readout
        Of the file, as for the candidates.

    Returns
    -------
    DataFrame
        With `SEGMENT_COLUMNS`, the ends of an arc of a great circle (degrees, ICRS). Where no star is known,
        ``position_error`` is the error across the segment (arcsec).

    Notes
    -----
    Light that falls y rows from the register at time t is read in row ``k = v t + y``. It fell while the shutter was
    open, so y is between 0 and the lesser of k and the last row of the amplifier. Where no onset told the offset along
    the rows, the segment is longer at both ends by as much as a pointing may be wrong.
    """
    unsure = candidates["ra"].isna() | (candidates["star_flag"].fillna("") != "")
    if not unsure.any():
        return candidates
    here = candidates[unsure]
    row = here["row_peak"].to_numpy(dtype=np.float64)
    earliest, latest = readout.event_row_range(row)
    longer = 0.0 if solved.solution.knows_rows else LARGEST_OFFSET_ARCSEC / solved.sky.scale_arcsec
    x = here["x"].to_numpy(dtype=np.float64)
    placed = candidates.copy()
    ends = row - latest - longer, row - earliest + longer
    for (ra, dec), y in zip((SEGMENT_COLUMNS[:2], SEGMENT_COLUMNS[2:]), ends, strict=True):
        sky = solved.to_sky(x, y)
        placed.loc[unsure, ra], placed.loc[unsure, dec] = sky.ra.deg, sky.dec.deg
    across = np.hypot(solved.rms_arcsec, _COLUMN_ERROR_PX * solved.sky.scale_arcsec)
    placed.loc[candidates["ra"].isna(), "position_error"] = across
    return placed
