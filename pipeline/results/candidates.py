"""Build the table of candidates from accepted detections: position, time, star, probability and detector of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.table import Table

from shutterless.pipeline.detection.matching import number_groups
from shutterless.pipeline.files import write_parquet, written_whole
from shutterless.pipeline.reading.frames import frame_stem
from shutterless.pipeline.reading.readout import Readout

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
}
CANDIDATE_UNITS = {"x": u.pix, "y": u.pix, "duration_s": u.s, "amplitude_e": u.electron, "star_mag": u.mag}
CANDIDATE_UNITS |= {"false_alarm_rate": 1 / u.hour}
SAME_GROUP_ROWS = 3  # at any row rate: what is read with a row is in all of its columns


def empty_candidates() -> pd.DataFrame:
    """Return a candidate table without a row but with every column."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in CANDIDATE_TYPES.items()})


def build_candidates(
    detections: pd.DataFrame, streaks: pd.DataFrame, readout: Readout, *, file: str, model: str, n_y: int = 1
) -> pd.DataFrame:
    """Candidates of one amplifier of one file.

    Parameters
    ----------
    detections : DataFrame
        Rows of `shutterless.pipeline.detection.triggers.find_triggers` that are to become candidates, with
        ``probability``, ``kind`` and ``kind_probability`` where a model gave them, and ``false_alarm_rate``.
        ``trail_id`` numbers the trails of the whole amplifier, not of a segment.
    streaks : DataFrame
        Streaks of the amplifier, with ``y0`` where it is known.
    readout : Readout
    file, model : str
        Names of the FITS file and of the detector.
    n_y : int
        Height of the stack. In a stack one row high no candidate has a ``y``.

    Returns
    -------
    DataFrame
        `CANDIDATE_TYPES`; ``group_id`` is the candidate's own at this stage. A candidate that peaks before the streak
        at its place begins is not assigned to that star.
    """
    star = streaks.set_index("streak_id").reindex(detections["streak_id"].fillna(-1).astype("int64"))
    peak = detections["row_peak"].to_numpy()
    y0 = star["y0"].to_numpy(dtype=np.float64)
    begun = readout.has_begun(peak, y0)
    earliest, latest = readout.event_utc_range(peak, np.where(begun, y0, np.nan))
    n_rows = detections["row_stop"] - detections["row_start"] + 1
    missing = pd.Series(np.nan, index=detections.index)
    place_y = detections["y"].round().astype("Int64") if n_y > 1 else missing.astype("Int64")
    table = detections.assign(
        candidate_id=[
            _candidate_id(file, readout, *place) for place in zip(detections["x"], place_y, peak, strict=True)
        ],
        file=file,
        ccd=readout.ccd,
        quadrant=readout.quadrant,
        y=place_y,
        duration_s=n_rows / readout.row_rate_hz,
        probability=detections.get("probability", missing),
        kind=detections.get("kind", missing.astype("string")),
        kind_probability=detections.get("kind_probability", missing),
        streak_id=detections["streak_id"].where(begun),
        star_mag=star["mag"].where(begun).to_numpy(),
        time_archive=readout.archive_time(peak),
        time_read_utc=readout.read_utc(peak),
        time_event_min_utc=earliest,
        time_event_max_utc=latest,
        model=model,
        trail_id=_trail_ids(file, readout, detections),
        false_alarm_rate=detections.get("false_alarm_rate", missing),
    )
    table["group_id"] = table["candidate_id"]
    return table[list(CANDIDATE_TYPES)].astype(CANDIDATE_TYPES).reset_index(drop=True)


def group_candidates(candidates: pd.DataFrame) -> pd.DataFrame:
    """Group candidates of one cause: the same rows in several columns or quadrants of a CCD, or one flash on two stars.

    Two candidates of one file are joined if their peaks agree within `SAME_GROUP_ROWS` or a quarter of the shorter one
    and their rows overlap by more than half, as for events at read time (pickup, the crossing of a satellite). They are
    also joined if their event times are known and agree, which only a cause in the sky can produce.

    Returns
    -------
    DataFrame
        With ``group_id``: the ``candidate_id`` of the group's strongest member.
    """
    numbered = candidates.reset_index(drop=True)
    pairs: list[tuple[int, int]] = []
    for _, part in numbered.groupby("file", sort=False):
        pairs += [(part.index[a], part.index[b]) for a, b in _same_cause(part)]
    leader = numbered["snr"].abs().groupby(number_groups(pairs, len(numbered))).transform("idxmax")
    return candidates.assign(group_id=numbered["candidate_id"].iloc[leader].astype("string").array)


def write_candidates(candidates: pd.DataFrame, folder: str | Path, settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``candidates.parquet`` and, with units and settings in its header, ``candidates.ecsv``.

    Returns
    -------
    parquet, ecsv : Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parquet, ecsv = folder / "candidates.parquet", folder / "candidates.ecsv"
    write_parquet(candidates, parquet)
    table = Table(names=list(CANDIDATE_TYPES), dtype=[_plain_dtype(dtype) for dtype in CANDIDATE_TYPES.values()])
    if len(candidates):
        table = Table({name: _plain_column(candidates[name]) for name in CANDIDATE_TYPES})
    for name, unit in CANDIDATE_UNITS.items():
        table[name].unit = unit
    table.meta["settings"] = json.dumps(dict(settings), sort_keys=True, default=str)
    with written_whole(ecsv) as partial:
        table.write(partial, format="ascii.ecsv")
    return parquet, ecsv


def _candidate_id(file: str, readout: Readout, x: float, y: Any, row: int) -> str:
    place = f"x{x:07.2f}" if pd.isna(y) else f"y{y:04d}_x{x:07.2f}"
    return f"{_amplifier_id(file, readout)}_{place}_r{row:07d}"


def _amplifier_id(file: str, readout: Readout) -> str:
    folders = "".join(f"{part}-" for part in Path(file).parent.parts)  # where files of one name are told apart
    return f"{folders}{frame_stem(file)}_c{readout.ccd or 0:02d}_q{readout.quadrant or 0}"


def _trail_ids(file: str, readout: Readout, detections: pd.DataFrame) -> pd.Series:
    """Name of the trail of each detection, missing without one."""
    number = detections.get("trail_id", pd.Series(pd.NA, index=detections.index)).astype("Int64")
    names = [pd.NA if pd.isna(n) else f"{_amplifier_id(file, readout)}_t{n:04d}" for n in number]
    return pd.Series(names, index=detections.index, dtype="string")


def _same_cause(part: pd.DataFrame) -> list[tuple[int, int]]:
    """Pairs of positions within one file's candidates that have one cause."""
    start, stop, peak = (part[name].to_numpy(dtype=np.float64) for name in ("row_start", "row_stop", "row_peak"))
    event = pd.to_datetime(part["time_event_min_utc"], errors="coerce", format="ISO8601")
    exact = (part["time_event_min_utc"] == part["time_event_max_utc"]).to_numpy() & event.notna().to_numpy()
    event_s = event.to_numpy(dtype="datetime64[ns]").astype(np.int64) / 1e9
    row_s = part["duration_s"].to_numpy() / (stop - start + 1)
    pairs = []
    for a in range(len(part)):
        length = np.minimum(stop[a] - start[a], stop - start) + 1
        tolerance = np.maximum(SAME_GROUP_ROWS, length / 4)
        overlap = np.minimum(stop[a], stop) - np.maximum(start[a], start) + 1
        union = np.maximum(stop[a], stop) - np.minimum(start[a], start) + 1
        same_rows = (np.abs(peak[a] - peak) <= tolerance) & (overlap > union / 2)
        same_time = exact[a] & exact & (np.abs(event_s[a] - event_s) <= tolerance * row_s)
        pairs += [(a, int(b)) for b in np.flatnonzero(same_rows | same_time) if b > a]
    return pairs


def _plain_dtype(dtype: str) -> str:
    return {"string": "U1", "Int64": "i8"}.get(dtype, dtype)


def _plain_column(series: pd.Series) -> Any:
    """Column that astropy writes: missing integers masked, missing strings empty."""
    if series.dtype == "Int64":
        return np.ma.MaskedArray(series.fillna(0).to_numpy(dtype=np.int64), mask=series.isna().to_numpy())
    if series.dtype == "string":
        return series.fillna("").to_numpy(dtype=str)
    return series.to_numpy()
