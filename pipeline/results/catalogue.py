"""Match streaks with catalogues of known stars, which give names and the detector rows that a steady frame lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table

from shutterless.pipeline.calibration.streaks.shared_onsets import share_onsets
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.stored_files import read_parquet

REQUIRED = ("x", "y", "mag")
_NUMBERS = ("ccd", "quadrant", "ra", "dec")  # numbers of columns that may be left out
CATALOGUE_MATCH_PX = 1.5
MATCH_MAG = 1.0
LEAST_MATCHED = 0.5


class CatalogueError(ValueError):
    """A catalogue that cannot be read or lacks a column."""


def read_catalogue(path: str | Path) -> pd.DataFrame:
    """Read a catalogue.

    Parameters
    ----------
    path : path
        ``.csv``, ``.ecsv`` or ``.parquet`` with ``x``, ``y`` (pixels, read order) and ``mag``. Optional columns are
        ``name``, the ``ccd`` and ``quadrant`` of a star, and ``ra`` and ``dec`` (degrees).

    Raises
    ------
    CatalogueError
        If the file is of another kind, cannot be read or lacks a column.
    """
    path = Path(path)
    readers = {".csv": pd.read_csv, ".parquet": read_parquet, ".ecsv": _read_ecsv}
    if path.suffix not in readers:
        raise CatalogueError(f"catalogue {path}: {path.suffix or 'no suffix'} is not one of {', '.join(readers)}")
    try:
        table = readers[path.suffix](path)
    except Exception as error:  # each of the readers has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CatalogueError(f"catalogue {path} cannot be read: {reason}") from error
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise CatalogueError(
            f"catalogue {path} lacks {', '.join(missing)}: it needs {', '.join(REQUIRED)} and has "
            f"{', '.join(map(str, table.columns))}; rename or add the column"
        )
    for name in (*REQUIRED, *(name for name in _NUMBERS if name in table)):
        table[name] = _to_numbers(table[name], path)
    return table


def _to_numbers(column: pd.Series, path: Path) -> pd.Series:
    """Column as float64, NaN where it is empty or infinite."""
    try:
        numbers = pd.to_numeric(column).astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise CatalogueError(
            f"catalogue {path}: column {column.name} holds something that is no number: {reason}"
        ) from error
    return numbers.where(np.isfinite(numbers))


def apply_catalogue(streaks: pd.DataFrame, catalogue: pd.DataFrame, readout: Readout) -> pd.DataFrame:
    """Name the streaks of an amplifier and give them the detector row of their star.

    Parameters
    ----------
    streaks : DataFrame
    catalogue : DataFrame
        From `read_catalogue`.
    readout : Readout
        Its ``ccd`` and ``quadrant`` select the stars if the catalogue has these columns.

    Returns
    -------
    DataFrame
        With ``name`` (empty without one) and ``y0`` of the star nearest in column within `CATALOGUE_MATCH_PX` and
        `MATCH_MAG`. A streak without a magnitude matches the nearest star of any magnitude. Each star is matched with
        one streak at most. ``ra`` and ``dec`` are added if the catalogue has them, NaN without a match.
    """
    stars = _stars_of_amplifier(catalogue, readout)
    streak, star = _match(streaks, stars)
    y0 = streaks["y0"].to_numpy(dtype=np.float64, copy=True)
    y0[streak] = stars["y"].to_numpy(dtype=np.float64)[star]
    names = np.full(len(streaks), "", dtype=object)
    if "name" in stars:
        names[streak] = stars["name"].fillna("").astype(str).to_numpy()[star]
    columns = {"y0": y0, "name": pd.array(names, dtype="string")}
    if {"ra", "dec"} <= set(stars):
        for key in ("ra", "dec"):
            columns[key] = np.full(len(streaks), np.nan)
            columns[key][streak] = stars[key].to_numpy(dtype=np.float64)[star]
    return streaks.assign(**columns)


def identify_streaks(
    streaks: Mapping[str, pd.DataFrame], readouts: Mapping[str, Readout], catalogue: pd.DataFrame | None = None
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Complete streaks with onsets from the other files of their sequence and with matches in a catalogue.

    Parameters
    ----------
    streaks : mapping of str to DataFrame
        Streak table by store entry.
    readouts : mapping of str to Readout
    catalogue : DataFrame, optional
        From `read_catalogue`.

    Returns
    -------
    streaks : dict of str to DataFrame
        After `share_onsets` and `apply_catalogue`.
    warnings : list of str
        One line for each amplifier that the catalogue does not fit (`check_match`); there the catalogue is not used.
    """
    shared = share_onsets(streaks, readouts)
    if catalogue is None:
        return shared, []
    named, lines = {}, []
    for entry, table in shared.items():
        line = check_match(entry, table, catalogue, readouts[entry])
        lines += [line] if line else []
        # chance matches would give wrong times marked as exact
        named[entry] = apply_catalogue(table, catalogue.iloc[:0] if line else catalogue, readouts[entry])
    return named, lines


def check_match(entry: str, streaks: pd.DataFrame, catalogue: pd.DataFrame, readout: Readout) -> str:
    """Warning for the user if a catalogue does not fit an amplifier, otherwise empty.

    Of the catalogue's stars brighter than the median streak, a share of `LEAST_MATCHED` must have a streak. With 500
    streaks, chance matches a sixth of them and the true positions nearly all.
    """
    stars = _stars_of_amplifier(catalogue, readout)
    if stars.empty:
        return f"{entry}: the catalogue has no star on CCD {readout.ccd}, quadrant {readout.quadrant}"
    if streaks.empty:
        return ""
    middle = streaks["mag"].median()
    expected = stars if np.isnan(middle) else stars[stars["mag"] < middle]
    matched = len(_match(streaks, expected)[0])
    if matched >= LEAST_MATCHED * len(expected):
        return ""
    share = f"{matched} of {len(expected)} catalogue stars ({matched / len(expected):.0%})"
    return (
        f"{entry}: only {share} have a streak within {CATALOGUE_MATCH_PX:g} px and {MATCH_MAG:g} mag, so it is "
        "not used there; is it another quadrant, shifted, not in read order or in another band?"
    )


def _stars_of_amplifier(catalogue: pd.DataFrame, readout: Readout) -> pd.DataFrame:
    """Stars of the catalogue, without those on another ``ccd`` or ``quadrant``."""
    for key in ("ccd", "quadrant"):
        if key in catalogue and getattr(readout, key) is not None:
            catalogue = catalogue[catalogue[key].isna() | (catalogue[key] == getattr(readout, key))]
    return catalogue


def _match(streaks: pd.DataFrame, stars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Positions of matched streaks and of their stars, (m,) each; the nearest pairs are matched first."""
    distance = np.abs(streaks["x"].to_numpy()[:, None] - stars["x"].to_numpy(dtype=np.float64))
    contrast = np.abs(streaks["mag"].to_numpy()[:, None] - stars["mag"].to_numpy(dtype=np.float64))
    distance[(distance > CATALOGUE_MATCH_PX) | (contrast > MATCH_MAG)] = np.inf
    pairs = []
    for flat in np.argsort(distance, axis=None, kind="stable")[: np.isfinite(distance).sum()]:
        streak, star = np.unravel_index(flat, distance.shape)
        if np.isfinite(distance[streak, star]):  # not matched with a nearer one
            distance[streak, :] = distance[:, star] = np.inf
            pairs.append((streak, star))
    matched = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def _read_ecsv(path: Path) -> pd.DataFrame:
    return Table.read(path, format="ascii.ecsv").to_pandas()
