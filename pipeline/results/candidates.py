"""Build the table of candidates from accepted detections: position, time, star, probability and detector of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.table import Column, Table
from astropy.table.meta import get_yaml_from_table
from astropy.time import Time

from shutterless.pipeline.files import write_parquet, written_whole
from shutterless.pipeline.reading.frames import frame_stem
from shutterless.pipeline.reading.readout import Readout, read_utc_of
from shutterless.pipeline.results.file_places import FilePlace

TIMESTAMP = "datetime64[us, UTC]"
CANDIDATE_TYPES = {
    "candidate_id": "string",
    "group_id": "string",
    "file": "string",
    "ccd": "Int64",
    "quadrant": "Int64",
    "y": "Int64",
    "x": "float64",
    "row_start": "int64",
    "row_stop": "int64",
    "row_peak": "int64",
    "duration_s": "float64",
    "snr": "float64",
    "probability": "float64",
    "kind": "string",
    "kind_probability": "float64",
    "streak_id": "Int64",
    "star_mag": "float64",
    "amplitude_e": "float64",
    "time_archive": "float64",
    "time_read_utc": "string",
    "time_event_min_utc": "string",
    "time_event_max_utc": "string",
    "veto": "string",
    "model": "string",
    "trail_id": "string",
    "false_alarm_rate": "float64",
    "posterior": "float64",
    "path": "string",
    "hdu": "Int64",
    "fits_x": "float64",
    "fits_y": "Int64",
    "fits_z": "Int64",
    "object": "string",
    "cadence_number": "Int64",
    "campaign": "string",
    "time_read": TIMESTAMP,
    "time_event_min": TIMESTAMP,
    "time_event_max": TIMESTAMP,
    "star_name": "string",
    "star_probability": "float64",
    "star_flag": "string",
    "ra": "float64",
    "dec": "float64",
    "position_error": "float64",
    "segment_ra_1": "float64",
    "segment_dec_1": "float64",
    "segment_ra_2": "float64",
    "segment_dec_2": "float64",
    "point_ra": "float64",
    "point_dec": "float64",
    "point_error": "float64",
    "point_with": "string",
}
CANDIDATE_UNITS = {"x": u.pix, "y": u.pix, "duration_s": u.s, "amplitude_e": u.electron, "star_mag": u.mag}
CANDIDATE_UNITS |= {"false_alarm_rate": u.hour**-1, "fits_x": u.pix, "fits_y": u.pix}
CANDIDATE_UNITS |= dict.fromkeys(("ra", "dec", "segment_ra_1", "segment_dec_1", "segment_ra_2", "segment_dec_2"), u.deg)
CANDIDATE_UNITS |= {"position_error": u.arcsec, "point_ra": u.deg, "point_dec": u.deg, "point_error": u.arcsec}


# what is behind a column, for people who open the file; docs/reference/formats.md says more
CANDIDATE_DESCRIPTIONS = {
    "candidate_id": "file, amplifier, column and row in one name",
    "group_id": "candidate_id of the strongest of those that have one cause",
    "file": "name of the file in which it peaks",
    "ccd": "detector, from 1",
    "quadrant": "amplifier of the detector, from 1",
    "y": "row of the image, in read order from 0 (cubes)",
    "x": "column in read order, from 0",
    "row_start": "first row of the central 90 % of the fluence, in read order from 0",
    "row_stop": "last row of the central 90 % of the fluence",
    "row_peak": "row of the peak",
    "duration_s": "length of the central 90 % of the fluence",
    "snr": "signal to noise of the best template, negative for dips",
    "probability": "probability of an event",
    "kind": "most probable kind",
    "kind_probability": "probability of that kind",
    "streak_id": "star in that column",
    "star_mag": "its magnitude",
    "amplitude_e": "electrons per row at the peak, summed over columns",
    "time_archive": "time of the archive at the peak, in its own unit and scale (cubes)",
    "time_read_utc": "UTC at which the peak was read, as text",
    "time_event_min_utc": "UTC before which its light did not arrive, as text",
    "time_event_max_utc": "UTC after which its light did not arrive, as text",
    "veto": "why the classical detector takes it for no event; empty if it does not",
    "model": "detector",
    "trail_id": "trail for whose triggers it stands",
    "false_alarm_rate": "false alarms per amplifier-hour with this score or a higher one",
    "posterior": "probability of an event at the prior rate of events that the search was given",
    "path": "the file in which it peaks",
    "hdu": "number of the HDU with its pixels, the primary one is 0",
    "fits_x": "column of the HDU's pixels as FITS counts them, from 1, raw orientation",
    "fits_y": "row of the HDU's pixels at the peak, from 1, raw orientation; row of the image of a cube",
    "fits_z": "image of a cube at the peak: row of the table or plane of the HDU, from 1",
    "object": "OBJECT of the header (cubes)",
    "cadence_number": "CADENCENO of the archive at the peak (cubes)",
    "campaign": "campaign, quarter or sector of the archive (cubes)",
    "time_read": "time_read_utc as a time",
    "time_event_min": "time_event_min_utc as a time",
    "time_event_max": "time_event_max_utc as a time",
    "star_name": "name of that star in the catalogue that the search was given",
    "star_probability": "that the streak is this star's",
    "star_flag": "blended: other stars share the streak; uncertain: the probability is low; missing: beyond doubt",
    "ra": "right ascension of its star at the time of the frame, ICRS",
    "dec": "declination of its star at the time of the frame, ICRS",
    "position_error": "error of the position, or across the segment",
    "segment_ra_1": "right ascension of the end of the segment that is nearer to the register, ICRS",
    "segment_dec_1": "declination of that end, ICRS",
    "segment_ra_2": "right ascension of the other end of the segment, ICRS",
    "segment_dec_2": "declination of that end, ICRS",
    "point_ra": "right ascension where a second readout saw the same flash, ICRS",
    "point_dec": "declination of that place, ICRS",
    "point_error": "its error",
    "point_with": "candidate_id of the other appearance",
}
# what a column means to other programs, in UCD1+, the vocabulary by which TOPCAT finds positions and times
CANDIDATE_UCDS = {
    "candidate_id": "meta.id;meta.main",
    "group_id": "meta.id.assoc",
    "file": "meta.id;meta.file",
    "ccd": "meta.number;instr.det",
    "quadrant": "meta.number;instr.det",
    "y": "pos.cartesian.y;instr.det",
    "x": "pos.cartesian.x;instr.det",
    "row_start": "meta.number;time.start",
    "row_stop": "meta.number;time.end",
    "row_peak": "meta.number;time",
    "duration_s": "time.duration",
    "snr": "stat.snr",
    "probability": "stat.probability",
    "kind": "src.class",
    "kind_probability": "stat.probability;src.class",
    "streak_id": "meta.id.part",
    "star_mag": "phot.mag;em.opt",
    "amplitude_e": "phot.count;stat.max",
    "time_archive": "time.epoch",
    "time_read_utc": "time.epoch",
    "time_event_min_utc": "time.epoch;stat.min",
    "time_event_max_utc": "time.epoch;stat.max",
    "veto": "meta.code.qual",
    "model": "meta.id;meta.software",
    "trail_id": "meta.id.assoc",
    "false_alarm_rate": "arith.rate",
    "posterior": "stat.probability",
    "path": "meta.ref;meta.file",
    "hdu": "meta.number;meta.file",
    "fits_x": "pos.cartesian.x;instr.pixel",
    "fits_y": "pos.cartesian.y;instr.pixel",
    "fits_z": "meta.number;time",
    "object": "meta.id;src",
    "cadence_number": "meta.number;time",
    "campaign": "meta.id;obs",
    "time_read": "time.epoch;meta.main",
    "time_event_min": "time.epoch;stat.min",
    "time_event_max": "time.epoch;stat.max",
    "star_name": "meta.id;src",
    "star_probability": "stat.probability",
    "star_flag": "meta.code.qual",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "position_error": "stat.error;pos.eq",
    "segment_ra_1": "pos.eq.ra",
    "segment_dec_1": "pos.eq.dec",
    "segment_ra_2": "pos.eq.ra",
    "segment_dec_2": "pos.eq.dec",
    "point_ra": "pos.eq.ra",
    "point_dec": "pos.eq.dec",
    "point_error": "stat.error;pos.eq",
    "point_with": "meta.id.assoc",
}
_PLACE_COLUMNS = ("path", "hdu", "fits_x", "fits_y", "fits_z", "object", "cadence_number", "campaign")
_STAR_COLUMNS = ("star_probability", "star_flag", "ra", "dec", "position_error")
_STAR_NAMES = {"mag": "star_mag", "name": "star_name"}  # of a streak, in the table of candidates
_MOMENTS = ("time_read", "time_event_min", "time_event_max")
_NOTHING = np.array(None, dtype=object)
_ANY_MOMENT = "2000-01-01T00:00:00.000000"  # under a mask


def empty_candidates() -> pd.DataFrame:
    """Return a candidate table without a row but with every column."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in CANDIDATE_TYPES.items()})


@dataclass(frozen=True, eq=False)
class DetectedIn:
    """Amplifier of a file in which there were detections.

    Parameters
    ----------
    streaks : DataFrame
        Streaks of the amplifier, with ``y0`` where it is known, and name and position of its
        star where a catalogue was given.
    readout : Readout
    file : str
        Name of the FITS file.
    n_y : int
        Height of the stack. In a stack one row high no candidate has a ``y``.
    place : FilePlace, optional
        Says where the pixels are in the file; without it the columns for that are missing.
    """

    streaks: pd.DataFrame
    readout: Readout
    file: str
    n_y: int = 1
    place: FilePlace | None = None


def build_candidates(
    detections: pd.DataFrame, streaks: pd.DataFrame, readout: Readout, *, file: str, model: str, n_y: int = 1,
    place: FilePlace | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Candidates of one amplifier of one file; see `join_candidates` and `DetectedIn`."""
    return join_candidates(detections, [(len(detections), DetectedIn(streaks, readout, file, n_y, place))], model=model)


def join_candidates(
    detections: pd.DataFrame, amplifiers: Sequence[tuple[int, DetectedIn]], *, model: str
) -> pd.DataFrame:
    """Candidates of many amplifiers and files at once: a table of a few rows takes as long as one of thousands.

    Parameters
    ----------
    detections : DataFrame
        Rows of `shutterless.pipeline.detection.triggers.find_triggers` that are to become candidates, with
        ``probability``, ``kind`` and ``kind_probability`` where a model gave them, ``false_alarm_rate`` and
        ``posterior``. ``trail_id`` numbers the trails of the whole amplifier, not of a segment.
    amplifiers : sequence of (int, DetectedIn)
        How many of the rows are of each amplifier, in the order of the rows.
    model : str
        Name of the detector.

    Returns
    -------
    DataFrame
        `CANDIDATE_TYPES`; ``group_id`` is the candidate's own at this stage. A candidate that peaks before the streak
        at its place begins is not assigned to that star.
    """
    if detections.empty:
        return empty_candidates()
    missing = pd.Series(np.nan, index=detections.index)
    sizes = [n for n, _ in amplifiers]
    is_stack = np.repeat([here.n_y > 1 for _, here in amplifiers], sizes)
    y = (detections["y"].where(is_stack).round() if is_stack.any() else missing).astype("Int64")
    star = detections["streak_id"].fillna(-1).to_numpy(dtype=np.int64)
    own = []
    for (_, here), last, n in zip(amplifiers, np.cumsum(sizes), sizes, strict=True):
        rows = slice(last - n, last)
        own.append(_amplifier_columns(detections.iloc[rows], star[rows], y.iloc[rows], here))
    columns = {name: np.concatenate([part[name] for part in own]) for name in own[0]}
    row_rate_hz, begun = columns.pop("row_rate_hz"), columns.pop("begun")
    readouts = [here.readout for _, here in amplifiers]
    for name in _MOMENTS:
        utc = np.concatenate(read_utc_of(readouts, [part[name] for part in own]))
        columns |= {f"{name}_utc": utc, name: pd.to_datetime(utc, errors="coerce", format="ISO8601", utc=True)}
    names = np.repeat([_amplifier_id(here.file, here.readout) for _, here in amplifiers], sizes)
    places = zip(names, detections["x"], y, detections["row_peak"], strict=True)
    columns["candidate_id"] = columns["group_id"] = np.array([_candidate_id(*place) for place in places], dtype=object)
    optional = ("probability", "kind", "kind_probability", "false_alarm_rate", "posterior")
    table = detections.assign(
        y=y,
        duration_s=(detections["row_stop"] - detections["row_start"] + 1) / row_rate_hz,
        streak_id=detections["streak_id"].where(begun),
        model=model,
        trail_id=_trail_names(names, detections),
        **{name: detections.get(name, missing) for name in optional},
        **columns,
    )
    return table.reindex(columns=list(CANDIDATE_TYPES)).astype(CANDIDATE_TYPES).reset_index(drop=True)


def _amplifier_columns(
    detections: pd.DataFrame, streak: np.ndarray, y: pd.Series, here: DetectedIn
) -> dict[str, np.ndarray]:
    """What depends on the amplifier of some detections: place, star and clock; moments as rows of the file."""
    readout, n = here.readout, len(detections)
    peak = detections["row_peak"].to_numpy()
    star = _stars_of(here.streaks, streak)
    y0 = star.pop("y0")
    begun = readout.has_begun(peak, y0)
    earliest, latest = readout.event_row_range(peak, np.where(begun, y0, np.nan))
    place = dict.fromkeys(_PLACE_COLUMNS) if here.place is None else here.place.columns(detections, y)
    known = {"file": here.file, "ccd": readout.ccd, "quadrant": readout.quadrant}
    return {
        "row_rate_hz": np.full(n, readout.row_rate_hz),
        "begun": begun,
        "time_archive": readout.archive_time(peak),
        "time_read": peak,
        "time_event_min": earliest,
        "time_event_max": latest,
        **{name: _repeat(value, n) for name, value in {**place, **known}.items()},
        **{name: np.where(begun, values, _NOTHING) for name, values in star.items()},
    }


def _repeat(value: Any, n: int) -> np.ndarray:
    """Values of a column of ``n`` rows as Python objects; one value stands for all."""
    column = np.empty(n, dtype=object)
    column[:] = value
    return column


def _stars_of(streaks: pd.DataFrame, number: np.ndarray) -> dict[str, np.ndarray]:
    """``y0`` of some streaks by their number, and magnitude, name and position of their stars; None where unknown."""
    at = pd.Index(streaks["streak_id"]).get_indexer(number)
    stars = {}
    for name in ("y0", "mag", "name", *_STAR_COLUMNS):
        values = np.full(len(at), np.nan if name == "y0" else None)
        if name in streaks and (at >= 0).any():
            values[at >= 0] = streaks[name].to_numpy()[at[at >= 0]]
        if name in ("name", "star_flag"):
            values[values == ""] = None
        stars[_STAR_NAMES.get(name, name)] = values
    return stars


def write_candidates(candidates: pd.DataFrame, folder: str | Path, settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``candidates.parquet`` and ``candidates.ecsv``, with units, descriptions and what made them in both.

    Returns
    -------
    parquet, ecsv : Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parquet, ecsv = folder / "candidates.parquet", folder / "candidates.ecsv"
    table = described_table(candidates)
    table.meta["shutterless"] = version("shutterless")
    table.meta["settings"] = json.dumps(dict(settings), sort_keys=True, default=str)
    columns = {name: {"description": text} for name, text in CANDIDATE_DESCRIPTIONS.items()}
    for name, unit in CANDIDATE_UNITS.items():
        columns[name]["unit"] = unit.to_string()
    write_parquet(candidates, parquet, about=_parquet_metadata(table), columns=columns)
    with written_whole(ecsv) as partial:
        table.write(partial, format="ascii.ecsv")
    return parquet, ecsv


def described_table(candidates: pd.DataFrame) -> Table:
    """Candidates as a table of astropy with units, descriptions and UCDs; missing values masked, moments as times."""
    table = Table({name: _plain_column(candidates[name]) for name in CANDIDATE_TYPES})
    for name, unit in CANDIDATE_UNITS.items():
        table[name].unit = unit
    for name, text in CANDIDATE_DESCRIPTIONS.items():
        table[name].info.description = text
        table[name].info.meta = {"ucd": CANDIDATE_UCDS[name]}
    return table


def _parquet_metadata(table: Table) -> dict[str, str]:
    """Metadata by which astropy finds units and descriptions in a Parquet file, and what made the table."""
    plain = Table(table, copy=True)
    for name in _MOMENTS:
        plain[name] = Column(np.zeros(len(table), dtype="datetime64[us]"), description=CANDIDATE_DESCRIPTIONS[name])
    texts = [name for name, kind in CANDIDATE_TYPES.items() if kind == "string"]
    return {
        **{key: str(value) for key, value in table.meta.items()},
        "table_meta_yaml": "\n".join(get_yaml_from_table(plain)),
        **{f"table::len::{name}": str(max(plain[name].dtype.itemsize // 4, len("None"))) for name in texts},
    }


def _candidate_id(amplifier: str, x: float, y: Any, row: int) -> str:
    place = f"x{x:07.2f}" if pd.isna(y) else f"y{y:04d}_x{x:07.2f}"
    return f"{amplifier}_{place}_r{row:07d}"


def _amplifier_id(file: str, readout: Readout) -> str:
    folders = "".join(f"{part}-" for part in Path(file).parent.parts)  # where files of one name are told apart
    return f"{folders}{frame_stem(file)}_c{readout.ccd or 0:02d}_q{readout.quadrant or 0}"


def trail_names(file: str, readout: Readout, detections: pd.DataFrame) -> pd.Series:
    """Name of the trail of each detection in the table of candidates, missing without one."""
    names = _trail_names([_amplifier_id(file, readout)] * len(detections), detections)
    return pd.Series(names, index=detections.index, dtype="string")


def _trail_names(amplifiers: Sequence[str] | np.ndarray, detections: pd.DataFrame) -> np.ndarray:
    number = detections.get("trail_id", pd.Series(pd.NA, index=detections.index)).astype("Int64")
    named = [None if pd.isna(n) else f"{name}_t{n:04d}" for name, n in zip(amplifiers, number, strict=True)]
    return np.array(named, dtype=object)


def _plain_column(series: pd.Series) -> Any:
    """Column that astropy writes: missing integers, texts and moments are masked."""
    missing = series.isna().to_numpy()
    if series.dtype == TIMESTAMP:
        text = series.dt.strftime("%Y-%m-%dT%H:%M:%S.%f").fillna(_ANY_MOMENT).to_numpy(dtype="U26")
        moments = Time(text, format="isot", scale="utc", precision=6)
        moments[missing] = np.ma.masked
        return moments
    if series.dtype == "Int64":
        return np.ma.MaskedArray(series.fillna(0).to_numpy(dtype=np.int64), mask=missing)
    if series.dtype == "string":
        return np.ma.MaskedArray(series.fillna("").to_numpy(dtype=str), mask=missing)
    return series.to_numpy()
