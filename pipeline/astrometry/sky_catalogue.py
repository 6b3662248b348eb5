"""Read catalogues of stars on the sky as surveys publish them, and move the stars to the epoch of the frames."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import Distance, SkyCoord
from astropy.table import Column, Table
from astropy.time import Time
from erfa import ErfaWarning

from shutterless.pipeline.results.catalogue import CatalogueError

# astropy's name of the format by the ending of a file, which may be packed
_FORMATS = {
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".parquet": "parquet",
}
# names of columns in the order of preference, in lower case: our own, Gaia, PS1, ATLAS-REFCAT2, then those of VizieR
_NAMES: Mapping[str, Sequence[str]] = {
    "ra": ("ra", "ra_deg", "ramean", "rastack", "ra_icrs", "raj2000", "_raj2000"),
    "dec": ("dec", "dec_deg", "decmean", "decstack", "de_icrs", "dej2000", "_dej2000"),
    "name": ("name", "designation", "source_id", "source", "objid", "id", "objname"),
    "mag": ("mag", "phot_g_mean_mag", "gmag_gaia"),
    "mag_g": ("mag_g", "gmeanpsfmag", "g", "gpsfmag", "gmag"),
    "mag_r": ("mag_r", "rmeanpsfmag", "r", "rpsfmag", "rmag"),
    "mag_i": ("mag_i", "imeanpsfmag", "i", "ipsfmag", "imag"),
    "pmra": ("pmra", "pm_ra", "pm_ra_cosdec"),
    "pmdec": ("pmdec", "pmde", "pm_dec"),
    "epoch": ("epoch", "ref_epoch", "refepoch"),
    "error": ("error", "position_error", "ra_error", "e_ra_icrs", "rameanerr"),
}
_UNITS = {"ra": u.deg, "dec": u.deg, "pmra": u.mas / u.yr, "pmdec": u.mas / u.yr, "error": u.mas}
_MAGNITUDES = ("mag", "mag_g", "mag_r", "mag_i")
# of catalogues that state proper motions but no epoch: Gaia DR2 and with it ATLAS-REFCAT2 (Tonry et al. 2018)
_EPOCH_WITHOUT_COLUMN = 2015.5
_LEAST_MAG, _MOST_MAG = -30.0, 40.0  # surveys write -999 or 99 where they have no magnitude
_FAR = Distance(10 * u.kpc)  # parallaxes are not used


def is_sky_catalogue(path: str | Path) -> bool:
    """Whether a catalogue has positions on the sky and none in pixels."""
    table = _read_table(Path(path), "catalogue")
    in_pixels = {"x", "y"} & {name.lower() for name in table.colnames}
    return not in_pixels or (len(in_pixels) < 2 and "ra" in _recognise(table))


def read_sky_catalogue(path: str | Path) -> pd.DataFrame:
    """Read a catalogue of stars with positions on the sky.

    Parameters
    ----------
    path : path
        CSV, ECSV, FITS, VOTable (``.vot``, ``.xml``) or Parquet. Columns are recognised by their names, in any case:
        ``ra``, ``dec`` and a magnitude are needed (``mag``, ``mag_g``, ``mag_r`` or ``mag_i``), and ``name``, proper
        motions, an epoch (years) and an error are used if they are there. Names of Gaia, PS1 and ATLAS-REFCAT2 are
        understood. Units of the file are converted; without units positions are degrees, motions mas a year
        (``pmra`` with the cosine of the declination, as all of these publish it) and errors mas.

    Returns
    -------
    DataFrame
        ``name, ra, dec`` (degrees, ICRS), magnitudes, and where the file has them ``pmra, pmdec`` (mas/yr), ``epoch``
        (Julian years), ``error`` (arcsec). Stars without any magnitude are left out. A star without a name is named by
        its position.

    Raises
    ------
    CatalogueError
        If the file cannot be read, a column is missing or a position is none.
    """
    path = Path(path)
    table = _read_table(path, "catalogue")
    where = _recognise(table)
    missing = [name for name in ("ra", "dec") if name not in where]
    if missing or not any(name in where for name in _MAGNITUDES):
        missing += [] if any(name in where for name in _MAGNITUDES) else ["mag"]
        raise CatalogueError(
            f"catalogue {path} lacks {', '.join(missing)}: it needs ra, dec (degrees) and mag, and has "
            f"{', '.join(table.colnames)}; rename or add the column"
        )
    stars = pd.DataFrame(
        {name: _numbers(table[column], name, path) for name, column in where.items() if name != "name"}
    )
    for name in set(_MAGNITUDES) & set(stars):
        stars[name] = stars[name].where(stars[name].between(_LEAST_MAG, _MOST_MAG))
    _check_positions(stars, path)
    if "error" in stars:
        stars["error"] /= 1000
    stars.insert(0, "name", _names(table, where, stars))
    with_light = stars[[name for name in _MAGNITUDES if name in stars]].notna().any(axis=1)
    if not with_light.any():
        raise CatalogueError(f"catalogue {path}: none of its {len(stars)} stars has a magnitude")
    return stars[with_light].reset_index(drop=True)


def magnitudes(stars: pd.DataFrame, band: str) -> np.ndarray:
    """Magnitudes nearest to a band, float64, (n,): those of the band, else the first that the catalogue has."""
    own = f"mag_{band.strip().lower()[-1:]}"  # "ZTF_r" is r, too
    order = [own, *_MAGNITUDES, "mag_r"]
    known = next(name for name in order if name in stars and stars[name].notna().any())
    return stars[known].to_numpy(dtype=np.float64)


def positions_at(stars: pd.DataFrame, time: Time | None) -> SkyCoord:
    """Positions of stars at a time (ICRS); as they are in the catalogue without a time or proper motions."""
    place = SkyCoord(stars["ra"].to_numpy() * u.deg, stars["dec"].to_numpy() * u.deg)
    if time is None or not {"pmra", "pmdec"} <= set(stars):
        return place
    motions = [np.nan_to_num(stars[name].to_numpy(dtype=np.float64)) * u.mas / u.yr for name in ("pmra", "pmdec")]
    epoch = stars.get("epoch", pd.Series(np.nan, index=stars.index)).fillna(_EPOCH_WITHOUT_COLUMN).to_numpy()
    moving = SkyCoord(
        place.ra, place.dec, distance=_FAR, pm_ra_cosdec=motions[0], pm_dec=motions[1],
        obstime=Time(epoch, format="jyear", scale="tcb"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ErfaWarning)
        moved = moving.apply_space_motion(new_obstime=time)
    return SkyCoord(moved.ra, moved.dec)


def _read_table(path: Path, what: str) -> Table:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in _FORMATS:
        raise CatalogueError(f"{what} {path}: {suffix or 'no suffix'} is not one of {', '.join(_FORMATS)}")
    form = _FORMATS[suffix.lower()]
    try:
        if form == "parquet":
            return Table.from_pandas(pd.read_parquet(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return Table.read(path, format=form, **({"hdu": 1} if form == "fits" else {}))
    except Exception as error:  # each of the formats has errors of its own
        raise CatalogueError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from error


def _recognise(table: Table) -> dict[str, str]:
    """Column of the table for each of our names."""
    known = {column.lower(): column for column in table.colnames}
    found = {}
    for name, choices in _NAMES.items():
        column = next((known[choice] for choice in choices if choice in known), None)
        if column is not None:
            found[name] = column
    if "Gmag" in table.colnames and "ra_icrs" in known:  # Gaia on VizieR; PS1 has gmag there
        found.setdefault("mag", "Gmag")
        found.pop("mag_g", None)
    return found


def _numbers(column: Column, name: str, path: Path) -> np.ndarray:
    """Values of a column in our unit, float64; NaN where it has none."""
    values = np.ma.filled(np.ma.asarray(column).astype(object), np.nan) if hasattr(column, "mask") else column
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        row = next(k for k, value in enumerate(values) if not _is_number(value))
        raise CatalogueError(
            f"catalogue {path}: {column.name} of row {row + 1} is {str(values[row])!r}, which is no number; positions "
            "are in degrees"
        ) from None
    if name in _UNITS and column.unit is not None:
        try:
            return np.asarray((numbers * u.Unit(column.unit)).to_value(_UNITS[name]))
        except (u.UnitsError, ValueError, TypeError) as error:
            raise CatalogueError(f"catalogue {path}: unit of {column.name}: {error}") from error
    return numbers


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _check_positions(stars: pd.DataFrame, path: Path) -> None:
    ra, dec = stars["ra"], stars["dec"]
    wrong = np.flatnonzero(~(ra.between(0, 360) & dec.between(-90, 90)))
    if wrong.size:
        row = int(wrong[0])
        raise CatalogueError(
            f"catalogue {path}: ra {ra[row]:g} and dec {dec[row]:g} of row {row + 1} are not within 0 to 360 and "
            f"-90 to 90 degrees ({wrong.size} rows of {len(stars)} are not)"
        )


def _names(table: Table, where: Mapping[str, str], stars: pd.DataFrame) -> pd.Series:
    """Names of the stars, those without one by their position."""
    names = pd.Series("", index=stars.index, dtype="string")
    if "name" in where:
        column = table[where["name"]]
        text = np.ma.filled(np.ma.asarray(column).astype(object), "") if hasattr(column, "mask") else column
        names = pd.Series([_text(value) for value in text], index=stars.index, dtype="string")
    nameless = (names == "").to_numpy()
    if nameless.any():
        place = SkyCoord(stars["ra"][nameless].to_numpy() * u.deg, stars["dec"][nameless].to_numpy() * u.deg)
        right = place.ra.to_string(u.hourangle, sep="", precision=2, pad=True)
        north = place.dec.to_string(u.deg, sep="", precision=1, pad=True, alwayssign=True)
        names[nameless] = [f"J{one}{other}" for one, other in zip(right, north, strict=True)]
    return names


def _text(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()
