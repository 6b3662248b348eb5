"""Light curves as files: Parquet, CSV, and ECSV with units, written star by star and whole or absent."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table
from astropy.time import Time

from shutterless.pipeline.lightcurves import LightCurves

FORMATS = ("parquet", "ecsv", "csv")
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
}


def write_stars(path: Path, format_name: str, curves: LightCurves, wanted: Sequence[int], file: str) -> None:
    """Write the light curves of some stars, one below the other.

    Parameters
    ----------
    path : Path
    format_name : str
        Of `FORMATS`.
    curves : LightCurves
    wanted : sequence of int
        Positions of the stars in ``curves.streaks``; none of them makes a file with every column and no row.
    file : str
        Name of the FITS file, kept in the header of Parquet and ECSV.
    """
    writer = {"parquet": _parquet_writer, "ecsv": _ecsv_writer, "csv": _csv_writer}[format_name]
    with _whole_or_absent(path) as partial, writer(partial, _empty_table(curves), curves, file) as write:
        for index in wanted:
            write(star_table(curves, index))


def star_table(curves: LightCurves, index: int) -> pd.DataFrame:
    """Light curve of one star as a table.

    Parameters
    ----------
    curves : LightCurves
    index : int
        Position of the star in ``curves.streaks``.

    Returns
    -------
    DataFrame
        ``time_s, time_read_utc, time_event_min_utc, time_event_max_utc, flux_e_row, flux_error_e_row, flux_e_s, mag,
        row, streak_id, x`` and, with a catalogue, ``name``. ``mag`` is that of each flux, NaN where it is not positive,
        and is left out where the zero point is unknown.
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
    return pd.DataFrame(columns)


def _empty_table(curves: LightCurves) -> pd.DataFrame:
    """Every column, no row: an amplifier without a star."""
    nobody = {"streak_id": -1, "x": np.nan, "y0": np.nan}
    if "name" in curves.streaks:
        nobody["name"] = ""  # type: ignore[assignment]
    nothing = np.full((1, curves.row.size), np.nan)
    blank = replace(curves, streaks=pd.DataFrame([nobody]), flux_e_row=nothing, error_e_row=nothing)
    return star_table(blank, 0).iloc[:0]


@contextmanager
def _whole_or_absent(path: Path) -> Iterator[Path]:
    """Another name to write under; the file takes its own only when it is finished."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


Write = Callable[[pd.DataFrame], None]


@contextmanager
def _parquet_writer(path: Path, example: pd.DataFrame, curves: LightCurves, file: str) -> Iterator[Write]:
    """One row group per star: a reader can skip to it, and the table of a whole amplifier is never in memory."""
    schema = pa.Schema.from_pandas(example, preserve_index=False)
    schema = schema.with_metadata({**(schema.metadata or {}), "file": file})
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda table: writer.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False))


@contextmanager
def _csv_writer(path: Path, example: pd.DataFrame, curves: LightCurves, file: str) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        example.iloc[:0].to_csv(stream, index=False)
        yield lambda table: table.to_csv(stream, index=False, header=False)


@contextmanager
def _ecsv_writer(path: Path, example: pd.DataFrame, curves: LightCurves, file: str) -> Iterator[Write]:
    """ECSV: the header that astropy writes for a table of one row, then the rows as CSV."""
    row_rate_hz = curves.readout.row_rate_hz
    has_utc = curves.readout.read_utc(0).item() != ""
    empty = _lightkurve_columns(example, row_rate_hz, has_utc)
    table = Table({name: np.zeros(1, _plain_dtype(empty[name])) for name in empty})
    if has_utc:
        table["time"] = Time(["2000-01-01T00:00:00"], format="isot", scale="utc", precision=6)
    else:
        table["time"].unit = u.s
    for name in UNITS.keys() & set(table.colnames):
        table[name].unit = UNITS[name]
    table.meta |= {"file": file, "time": "when the row was read; time_event_* say when its light fell"}
    header = StringIO()
    table.write(header, format="ascii.ecsv", delimiter=",")
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(header.getvalue().splitlines(keepends=True)[:-1])  # without the one row that made it whole
        yield lambda table: _lightkurve_columns(table, row_rate_hz, has_utc).to_csv(
            stream, index=False, header=False, na_rep="nan", lineterminator="\n"
        )


def _lightkurve_columns(table: pd.DataFrame, row_rate_hz: float, has_utc: bool) -> pd.DataFrame:
    """``time``, ``flux`` and ``flux_err`` first, as lightkurve calls them; ``time`` in seconds without UTC."""
    first = {
        "time": table["time_read_utc" if has_utc else "time_s"],
        "flux": table["flux_e_s"],
        "flux_err": table["flux_error_e_row"] * np.float32(row_rate_hz),
    }
    return pd.DataFrame(first | {name: table[name] for name in table if name not in ("time_read_utc", "flux_e_s")})


def _plain_dtype(series: pd.Series) -> Any:
    return series.dtype if isinstance(series.dtype, np.dtype) and series.dtype != object else "U1"
