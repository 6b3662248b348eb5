"""Catalogues of known stars: names for streaks, and the detector rows that a steady frame does not show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table

from shutterless.pipeline.readout import Readout

REQUIRED = ("x", "y", "mag")
MATCH_PX = 1.5
MATCH_MAG = 1.0


class CatalogueError(ValueError):
    """A catalogue that cannot be read or lacks a column."""


def read_catalogue(path: str | Path) -> pd.DataFrame:
    """Read a catalogue.

    Parameters
    ----------
    path : path
        ``.csv``, ``.ecsv`` or ``.parquet`` with ``x``, ``y`` (pixels, read order) and ``mag``; a ``name``, and the
        ``ccd`` and ``quadrant`` that a star belongs to, are used where they are given.

    Raises
    ------
    CatalogueError
        If the file is of another kind, cannot be read or lacks a column.
    """
    path = Path(path)
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".ecsv": _read_ecsv}
    if path.suffix not in readers:
        raise CatalogueError(f"catalogue {path}: {path.suffix or 'no suffix'} is not one of {', '.join(readers)}")
    try:
        table = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise CatalogueError(f"catalogue {path} cannot be read: {error}") from error
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise CatalogueError(
            f"catalogue {path} lacks {', '.join(missing)}: it needs {', '.join(REQUIRED)} and has "
            f"{', '.join(map(str, table.columns))}; rename or add the column"
        )
    return table


def apply_catalogue(streaks: pd.DataFrame, catalogue: pd.DataFrame, readout: Readout) -> pd.DataFrame:
    """Name the streaks of an amplifier and give them the detector row of their star.

    Parameters
    ----------
    streaks : DataFrame
    catalogue : DataFrame
        From `read_catalogue`.
    readout : Readout
        Its ``ccd`` and ``quadrant`` choose among the stars where the catalogue tells them apart.

    Returns
    -------
    DataFrame
        With ``name`` (empty where there is none) and ``y0`` of the star nearest in column within `MATCH_PX` and
        `MATCH_MAG`; a streak without a magnitude takes the nearest of any. Each star goes to one streak at most.
    """
    for key in ("ccd", "quadrant"):
        if key in catalogue and getattr(readout, key) is not None:
            catalogue = catalogue[catalogue[key].isna() | (catalogue[key] == getattr(readout, key))]
    distance = np.abs(streaks["x"].to_numpy()[:, None] - catalogue["x"].to_numpy(dtype=np.float64))
    contrast = np.abs(streaks["mag"].to_numpy()[:, None] - catalogue["mag"].to_numpy(dtype=np.float64))
    distance[(distance > MATCH_PX) | (contrast > MATCH_MAG)] = np.inf
    y0 = streaks["y0"].to_numpy(dtype=np.float64, copy=True)
    names = np.full(len(streaks), "", dtype=object)
    given = catalogue["name"].fillna("").astype(str).to_numpy() if "name" in catalogue else None
    for flat in np.argsort(distance, axis=None, kind="stable")[: np.isfinite(distance).sum()]:
        streak, star = np.unravel_index(flat, distance.shape)
        if np.isinf(distance[streak, star]):  # taken by a nearer one
            continue
        distance[streak, :] = distance[:, star] = np.inf
        y0[streak] = catalogue["y"].iloc[star]
        names[streak] = given[star] if given is not None else ""
    return streaks.assign(y0=y0, name=pd.array(names, dtype="string"))


def _read_ecsv(path: Path) -> pd.DataFrame:
    return Table.read(path, format="ascii.ecsv").to_pandas()
