"""Write candidates as a VOTable, which TOPCAT opens: units, UCDs, descriptions, systems of coordinates and time."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import pandas as pd
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys, TimeSys
from astropy.table import Column, MaskedColumn
from astropy.time import Time

from shutterless.pipeline.files import written_whole
from shutterless.pipeline.results.candidates import CANDIDATE_UNITS, described_table

_SKY, _UTC_TEXT, _MJD = "icrs", "utc_text", "utc_mjd"
_VERSION = {"version_1_4_or_later": True}  # in which TIMESYS is known
_TIMESTAMP = "timestamp"  # xtype of an ISO 8601 text (DALI 1.1, section 3.3.3)


def write_votable(candidates: pd.DataFrame, path: Path) -> None:
    """Write candidates as VOTable 1.4, whole or not at all.

    Parameters
    ----------
    candidates : DataFrame
        With the columns of `shutterless.pipeline.results.candidates.CANDIDATE_TYPES`.
    path : Path

    Notes
    -----
    The moments, for which a VOTable has no type, are modified Julian dates (UTC, float64: to a microsecond); their
    texts are timestamps. Electrons are counts (``ct``), since VOUnit 1.0 has no electron.
    """
    table = described_table(candidates)
    systems = {}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, Time):
            mjd = MaskedColumn(column.mjd.filled(float("nan")) if column.masked else column.mjd, unit=u.d)
            mjd.description, mjd.info.meta = column.info.description, column.info.meta
            table.replace_column(name, mjd)
            systems[name] = _MJD
        elif name.endswith("_utc"):
            column.info.meta = {**column.info.meta, "xtype": _TIMESTAMP}
            systems[name] = _UTC_TEXT
        elif CANDIDATE_UNITS.get(name) == u.deg:
            systems[name] = _SKY
        if isinstance(column, Column) and column.unit == u.electron:
            column.unit = u.ct
    table.meta["description"] = "Candidates of a search by shutterless"
    document = from_table(table)
    resource = document.resources[0]
    resource.coordinate_systems.append(CooSys(ID=_SKY, system="ICRS"))
    for name, origin in ((_UTC_TEXT, None), (_MJD, "MJD-origin")):
        clock = TimeSys(name, timescale="UTC", refposition="TOPOCENTER", timeorigin=origin, config=_VERSION)
        resource.time_systems.append(clock)
    for field in document.get_first_table().fields:
        field.ref = systems.get(field.name)
    with written_whole(path) as partial:
        document.to_xml(str(partial))
