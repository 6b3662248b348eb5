"""Write light curves star by star as Parquet, CSV, ECSV with units, or FITS. A file is complete or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time, TimeDelta

from shutterless.pipeline.files import written_whole
from shutterless.pipeline.reading.instruments import Site
from shutterless.pipeline.results.barycentric import Direction, bjd_tdb
from shutterless.pipeline.results.lightcurves import LightCurves

FORMATS = ("parquet", "ecsv", "csv", "fits")
UNITS = {
    "time_s": u.s,
    "flux_e_row": u.electron,
    "flux_error_e_row": u.electron,
    "flux_e_s": u.electron / u.s,
    "flux": u.electron / u.s,
    "flux_err": u.electron / u.s,
    "mag": u.mag,
    "row": u.pix,
    "x": u.pix,
    "bjd_tdb": u.d,
}
_MJD_ZERO = 2_400_000.5


@dataclass(frozen=True)
class Observer:
    """Site of the observation, and the direction that is assumed for stars of unknown position."""

    site: Site
    pointing: Direction


def write_stars(
    path: Path,
    format_name: str,
    curves: LightCurves,
    wanted: Sequence[int],
    file: str,
    observer: Observer | None = None,
) -> None:
    """Write the light curves of some stars, one below the other.

    Parameters
    ----------
    path : Path
    format_name : str
        Of `FORMATS`.
    curves : LightCurves
    wanted : sequence of int
        Positions of the stars in ``curves.streaks``; if empty, the file has every column and no row.
    file : str
        Name of the FITS file of the frame, kept in the header of Parquet, ECSV and FITS.
    observer : Observer, optional
        Adds barycentric times.
    """
    writer = {"parquet": _parquet_writer, "ecsv": _ecsv_writer, "csv": _csv_writer, "fits": _fits_writer}[format_name]
    with written_whole(path) as partial, writer(partial, _Stars(curves, file, observer)) as write:
        for index in wanted:
            write(index)


def _light_curve_table(curves: LightCurves, index: int, observer: Observer | None = None) -> pd.DataFrame:
    """Light curve of one star as a table.

    Parameters
    ----------
    curves : LightCurves
    index : int
        Position of the star in ``curves.streaks``.
    observer : Observer, optional

    Returns
    -------
    DataFrame
        ``time_s, time_read_utc, time_event_min_utc, time_event_max_utc, flux_e_row, flux_error_e_row, flux_e_s, mag,
        row, streak_id, x`` and, with a catalogue, ``name``, with an observer ``bjd_tdb``. ``mag`` is that of each flux,
        NaN where it is not positive, and is left out where the zero point is unknown.
    """
    star, readout = curves.streaks.iloc[index], curves.readout
    flux, error = curves.flux_e_row[index], curves.error_e_row[index]
    earliest, latest = curves.event_utc_range(float(star["y0"]))
    flux_e_s = flux * readout.row_rate_hz
    columns: dict[str, Any] = {
        "time_s": curves.time_s,
        "time_read_utc": curves.read_utc(),
        "time_event_min_utc": earliest,
        "time_event_max_utc": latest,
        "flux_e_row": flux.astype(np.float32),
        "flux_error_e_row": error.astype(np.float32),
        "flux_e_s": flux_e_s.astype(np.float32),
    }
    if readout.zero_point_mag is not None:
        positive = np.where(flux_e_s > 0, flux_e_s, np.nan)
        columns["mag"] = (readout.zero_point_mag - 2.5 * np.log10(positive)).astype(np.float32)
    columns |= {"row": curves.row, "streak_id": np.int64(star["streak_id"]), "x": float(star["x"])}
    if "name" in star:
        columns["name"] = star["name"]
    if observer is not None:
        columns["bjd_tdb"] = barycentric_time(curves, index, observer).jd
    return pd.DataFrame(columns)


def barycentric_time(curves: LightCurves, index: int, observer: Observer) -> Time:
    """Time at which the light of each row would have passed the barycentre, shape (t,).

    For a star of unknown detector row it is the middle of the time in which its light may have arrived.
    """
    star = curves.streaks.iloc[index]
    earliest, latest = curves.readout.event_row_range(curves.row, float(star["y0"]))
    rows = (latest + earliest) / 2
    own = float(star.get("ra", np.nan)), float(star.get("dec", np.nan))
    return bjd_tdb(curves.readout, rows, observer.pointing if np.isnan(own).any() else Direction(*own), observer.site)


@dataclass(frozen=True)
class _Stars:
    """Arguments of a writer."""

    curves: LightCurves
    file: str
    observer: Observer | None

    def table(self, index: int) -> pd.DataFrame:
        return _light_curve_table(self.curves, index, self.observer)

    def empty(self) -> _Stars:
        """The same with one star of unknown properties: it has every column, even for an amplifier without a star."""
        nobody = {"streak_id": -1, "x": np.nan, "y0": np.nan, "mag": np.nan}
        if "name" in self.curves.streaks:
            nobody["name"] = ""  # type: ignore[assignment]
        nothing = np.full((1, self.curves.row.size), np.nan)
        blank = replace(self.curves, streaks=pd.DataFrame([nobody]), flux_e_row=nothing, error_e_row=nothing)
        return replace(self, curves=blank)


Write = Callable[[int], object]


@contextmanager
def _parquet_writer(path: Path, stars: _Stars) -> Iterator[Write]:
    """One row group per star: a reader can skip to it, and the table of a whole amplifier is never in memory."""
    schema = pa.Schema.from_pandas(stars.empty().table(0).iloc[:0], preserve_index=False)
    schema = schema.with_metadata({**(schema.metadata or {}), "file": stars.file})
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda index: writer.write_table(
            pa.Table.from_pandas(stars.table(index), schema=schema, preserve_index=False)
        )


@contextmanager
def _csv_writer(path: Path, stars: _Stars) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stars.empty().table(0).iloc[:0].to_csv(stream, index=False)
        yield lambda index: stars.table(index).to_csv(stream, index=False, header=False)


@contextmanager
def _ecsv_writer(path: Path, stars: _Stars) -> Iterator[Write]:
    """ECSV: the header that astropy writes for a table of one row, then the rows as CSV."""
    row_rate_hz = stars.curves.readout.row_rate_hz
    has_utc = _has_utc(stars.curves)
    empty = _lightkurve_columns(stars.empty().table(0).iloc[:0], row_rate_hz, has_utc)
    table = Table({name: np.zeros(1, _plain_dtype(empty[name])) for name in empty})
    if has_utc:
        table["time"] = Time(["2000-01-01T00:00:00"], format="isot", scale="utc", precision=6)
    else:
        table["time"].unit = u.s
    for name in UNITS.keys() & set(table.colnames):
        table[name].unit = UNITS[name]
    table.meta |= {"file": stars.file, "time": "when the row was read; time_event_* say when its light fell"}
    header = StringIO()
    table.write(header, format="ascii.ecsv", delimiter=",")
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(header.getvalue().splitlines(keepends=True)[:-1])  # without the one row that astropy needed
        yield lambda index: _lightkurve_columns(stars.table(index), row_rate_hz, has_utc).to_csv(
            stream, index=False, header=False, na_rep="nan", lineterminator="\n"
        )


@contextmanager
def _fits_writer(path: Path, stars: _Stars) -> Iterator[Write]:
    """FITS: a binary table per star, numbers alone, with the time reference in its header (FITS standard 4.0, 9.2)."""
    primary = fits.PrimaryHDU()
    primary.header["FRAME"] = (stars.file, "file of the frame")
    with path.open("wb") as stream:
        stream.write(_file_bytes([primary]))
        n_skip = stream.tell()
        yield lambda index: stream.write(_file_bytes([primary, _fits_table(stars, index)])[n_skip:])
        if stream.tell() == n_skip:
            stream.write(_file_bytes([primary, _fits_table(stars.empty(), 0, no_rows=True)])[n_skip:])


def _file_bytes(hdus: Sequence[Any]) -> bytes:
    buffer = BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def _fits_table(stars: _Stars, index: int, *, no_rows: bool = False) -> fits.BinTableHDU:
    """Light curve of one star. TIME is in days of UTC or (with an observer) TDB at the barycentre, else in s."""
    curves, star = stars.curves, stars.curves.streaks.iloc[index]
    header = fits.Header({"EXTNAME": f"STREAK_{int(star['streak_id'])}", "OBJECT": _plain_text(star.get("name", ""))})
    facts = {"X": star["x"], "Y0": star["y0"], "MAG": star["mag"], "RA_OBJ": star.get("ra"), "DEC_OBJ": star.get("dec")}
    header.update({key: float(value) for key, value in facts.items() if value is not None and np.isfinite(value)})
    if stars.observer is None and not _has_utc(curves):
        time, unit = curves.time_s, "s"
        header["TIMESYS"] = "local"
    else:
        clock = _read_time(curves) if stars.observer is None else barycentric_time(curves, index, stars.observer)
        day = int(np.floor(clock.mjd[0])) if clock.size else 0
        time, unit = (clock.jd1 - _MJD_ZERO - day) + clock.jd2, "d"
        place = "TOPOCENTER" if stars.observer is None else "BARYCENTER"
        header.update({"TIMESYS": clock.scale.upper(), "TIMEREF": place, "MJDREFI": day, "MJDREFF": 0.0})
    rows = slice(0, 0) if no_rows else slice(None)
    rate_hz = curves.readout.row_rate_hz
    # FITS has no electrons; "e-/s" is how Kepler and TESS write them, and lightkurve understands it
    columns = [
        fits.Column("TIME", "D", unit, array=time[rows]),
        fits.Column("FLUX", "E", "e-/s", array=curves.flux_e_row[index, rows] * rate_hz),
        fits.Column("FLUX_ERR", "E", "e-/s", array=curves.error_e_row[index, rows] * rate_hz),
        fits.Column("TIME_S", "D", "s", array=curves.time_s[rows]),
        fits.Column("ROW", "D", array=curves.row[rows]),
    ]
    return fits.BinTableHDU.from_columns(columns, header=header)


def _plain_text(value: object) -> str:
    """Text that a FITS header may hold: printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in str(value))


def _read_time(curves: LightCurves) -> Time:
    opened = Time(curves.readout.shutter_open_utc, scale="utc", format="isot").tai
    return (opened + TimeDelta(curves.time_s, format="sec")).utc


def _has_utc(curves: LightCurves) -> bool:
    return bool(curves.readout.read_utc(0).item() != "")


def _lightkurve_columns(table: pd.DataFrame, row_rate_hz: float, has_utc: bool) -> pd.DataFrame:
    """Table with ``time``, ``flux`` and ``flux_err`` first, named as in lightkurve; ``time`` in seconds without UTC."""
    first = {
        "time": table["time_read_utc" if has_utc else "time_s"],
        "flux": table["flux_e_s"],
        "flux_err": table["flux_error_e_row"] * np.float32(row_rate_hz),
    }
    return pd.DataFrame(first | {name: table[name] for name in table if name not in ("time_read_utc", "flux_e_s")})


def _plain_dtype(series: pd.Series) -> Any:
    return series.dtype if isinstance(series.dtype, np.dtype) and series.dtype != object else "U1"
