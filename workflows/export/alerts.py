"""Write candidates as alert packets in Avro, in the manner of ZTF and Rubin, and read them back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from shutterless.pipeline.files import written_whole
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.workflows.export.cut_outs import CutAmplifier, CutOuts
from shutterless.workflows.export.errors import ExportError, require

SCHEMA_VERSION = "1.0"
SUFFIX = ".avro"
_WHAT = "alert packets"


@cache
def alert_schema() -> dict[str, Any]:
    """Schema of an alert: ``alert-VERSION.avsc`` in this package."""
    text = files("shutterless.workflows.export") / f"alert-{SCHEMA_VERSION}.avsc"
    return dict(json.loads(text.read_text(encoding="utf-8")))


def write_alerts(cut: Iterable[CutAmplifier], candidates: pd.DataFrame, folder: Path) -> list[Path]:
    """Write an alert for each candidate of some amplifiers, each file whole or not at all.

    Parameters
    ----------
    cut : iterable of CutAmplifier
        From `shutterless.workflows.export.cut_outs.cut_all`.
    candidates : DataFrame
        All of the search, among which are the earlier ones of the same star.
    folder : Path

    Raises
    ------
    ExportError
        If the package fastavro is not installed.
    """
    fastavro = require("fastavro", _WHAT)
    schema = fastavro.parse_schema(alert_schema())
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for amplifier in cut:
        for _, candidate in amplifier.candidates.iterrows():
            packet = _packet(candidate, earlier_of_star(candidate, candidates), amplifier)
            path = alert_path(folder, str(candidate["candidate_id"]))
            with written_whole(path) as partial, partial.open("wb") as file:
                fastavro.writer(file, schema, [packet])
            written.append(path)
    return written


def alert_path(folder: Path, candidate_id: str) -> Path:
    """File of the alert of a candidate; odd letters of its name are written as in a URL."""
    return folder / f"{quote(candidate_id, safe='')}{SUFFIX}"


def read_alert(path: Path) -> dict[str, Any]:
    """Read an alert with the schema in its file.

    Raises
    ------
    ExportError
        If the package fastavro is not installed, or the file holds no alert.
    """
    fastavro = require("fastavro", _WHAT)
    try:
        with path.open("rb") as file:
            (packet,) = fastavro.reader(file)
    except (ValueError, EOFError, TypeError, KeyError, IndexError) as error:
        raise ExportError(f"{path} is no alert: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not isinstance(packet, dict) or "candidate" not in packet:
        raise ExportError(f"{path} is no alert: it has no candidate")
    return packet


def alerted_candidates(paths: Sequence[Path]) -> pd.DataFrame:
    """Candidates of some alerts, as they were when the alerts were written."""
    rows = pd.DataFrame([read_alert(path)["candidate"] for path in paths], columns=list(CANDIDATE_TYPES))
    return rows.astype(CANDIDATE_TYPES)


def earlier_of_star(candidate: pd.Series, candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates on the same star that were read before: by the name of the star, else by its streak in the file."""
    if pd.notna(candidate["star_name"]):
        same = candidates["star_name"] == candidate["star_name"]
    elif pd.notna(candidate["streak_id"]):
        same = pd.Series(True, index=candidates.index)
        for name in ("path", "ccd", "quadrant", "streak_id"):
            same &= candidates[name].eq(candidate[name]) if pd.notna(candidate[name]) else candidates[name].isna()
    else:
        return candidates.iloc[:0]
    by = "row_peak" if pd.isna(candidate["time_read"]) else "time_read"
    return candidates[same.fillna(False).astype(bool) & (candidates[by] < candidate[by])].sort_values(by)


def _packet(candidate: pd.Series, earlier: pd.DataFrame, cut: CutAmplifier) -> dict[str, Any]:
    name = str(candidate["candidate_id"])
    cut_outs: CutOuts | None = cut.cut_outs.get(name)
    packet = {
        "schemavsn": SCHEMA_VERSION,
        "publisher": f"shutterless {version('shutterless')}",
        "candid": name,
        "objectId": _plain(candidate["star_name"]),
        "candidate": _record(candidate),
        "prv_candidates": [_record(row) for _, row in earlier.iterrows()] or None,
        "cutoutStrip": None,
        "cutoutLightCurve": None,
        "cutoutReason": cut.reason or None,
    }
    if cut_outs is not None:
        packet["cutoutStrip"] = {"fileName": f"{name}_strip.fits.gz", "stampData": cut_outs.strip}
        packet["cutoutLightCurve"] = {"fileName": f"{name}_light_curve.fits.gz", "stampData": cut_outs.light_curve}
    return packet


def _record(candidate: pd.Series) -> dict[str, Any]:
    return {name: _plain(candidate[name]) for name in CANDIDATE_TYPES}


def _plain(value: Any) -> Any:
    """Value for Avro: None where it is missing."""
    if value is None or pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value
