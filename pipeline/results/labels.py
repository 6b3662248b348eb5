"""Labels that people give to candidates: lines that are only ever appended, and one rule where people differ."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.events.kinds import NOISE
from shutterless.pipeline.stored_files import read_parquet

EVENT, ARTEFACT, UNSURE, UNDO = "event", "artefact", "unsure", "undo"
SIGNS = {EVENT: 1.0, ARTEFACT: -1.0, UNSURE: 0.0}
# kinds of artefact that a person tells apart, and the class of training examples that each is taken for
ARTEFACT_KINDS = {
    "cosmic ray": "cosmic_ray",
    "pickup": "pickup",
    "trail": "satellite",
    "ghost": "ghost",
    "bad column": "hot_column",
    "star residual": NOISE,
    "noise": NOISE,
}
ARTEFACT_MEANINGS = {
    "cosmic ray": "a track or a few pixels, sharper than a star",
    "pickup": "the same rows in many columns",
    "trail": "satellite, aircraft or meteor",
    "ghost": "light of a bright star that the optics reflect",
    "bad column": "a hot column, or a trap",
    "star residual": "motion, focus or blending of a star that was not taken out",
    "noise": "nothing but noise, or another artefact",
}
LABEL_COLUMNS = (
    "time_utc",
    "who",
    "candidate_id",
    "label",
    "kind",
    "confidence",
    "file",
    "ccd",
    "quadrant",
    "y",
    "x",
    "row_start",
    "row_stop",
    "snr",
    "path",
)
PLACE_COLUMNS_OF_LABELS = LABEL_COLUMNS[6:]
BLIND_TRUTH = "blind.parquet"  # beside the labels: candidates that are injected events, of which nothing is learned
TORN = " [torn]"  # ends a line whose writer was killed in the middle of it
_WHOLE = ("ccd", "quadrant", "y")
_NUMBERS = ("confidence", "x", "row_start", "row_stop", "snr")
_MOST_BYTES = 1 << 28


class LabelError(ValueError):
    """A label, or a file of labels, that cannot be used."""


@dataclass(frozen=True)
class LabelFile:
    """Lines of a file of labels (`LABEL_COLUMNS`), and notes on lines that were dropped."""

    lines: pd.DataFrame
    notes: tuple[str, ...] = ()


def append_label(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line to a file of labels; it is on the disk when the function returns.

    Parameters
    ----------
    path : Path
        Made with a header if it is absent.
    line : mapping
        `LABEL_COLUMNS`; None and NaN are written as nothing.

    Raises
    ------
    LabelError
        If a text holds a line break, or the disk is full.

    Notes
    -----
    A line is one write to a file that is opened for appending, so lines of two processes never mix. Where the file ends
    without a line break, a process was killed while it wrote: that line is closed with `TORN`, and readers drop it.
    """
    texts = [_to_text(line.get(name)) for name in LABEL_COLUMNS]
    broken = [text for text in texts if any(ord(sign) < 32 for sign in text)]
    if broken:
        raise LabelError(f"{broken[0]!r} holds a line break or another control character, which no label may")
    _make_with_header(path)
    data = _csv_line(texts).encode()
    if _ends_torn(path):
        data = f"{TORN}\n".encode() + data
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        n_written = os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if n_written < len(data):
        raise LabelError(f"only {n_written} of {len(data)} bytes of a label were written to {path}: is the disk full?")


def _make_with_header(path: Path) -> None:
    """Make a file that holds the header alone, at once: another process may do so at the same moment."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(_csv_line(LABEL_COLUMNS), encoding="utf-8")
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def _csv_line(texts: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(texts)
    return buffer.getvalue()


def _to_text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_label_lines(path: str | Path) -> LabelFile:
    """Read all lines of a file of labels, in their order.

    Returns
    -------
    LabelFile
        ``ccd``, ``quadrant`` and ``y`` are nullable integers; a torn line is dropped, with a note.

    Raises
    ------
    LabelError
        If it is no such file; the message names the line.
    """
    path = Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise LabelError(f"{path} has {path.stat().st_size:,} bytes, more than {_MOST_BYTES:,} of a file of labels")
    *lines, rest = path.read_bytes().split(b"\n")
    torn = [number for number, line in enumerate(lines, start=1) if line.endswith(TORN.encode())]
    if rest:
        torn.append(len(lines) + 1)
    whole = [(k, line) for k, line in enumerate(lines, start=1) if k not in set(torn) and line.strip()]
    header = _parse_line(path, *whole[0]) if whole else []
    if tuple(header) != LABEL_COLUMNS:
        found = ", ".join(header) or "nothing"
        raise LabelError(
            f"{path} is no file of labels: its first line holds {found}; expected {','.join(LABEL_COLUMNS)}"
        )
    rows = [_parse_line(path, number, line) for number, line in whole[1:]]
    wrong = [k for k, row in enumerate(rows) if len(row) != len(LABEL_COLUMNS)]
    if wrong:
        number, n_fields = whole[1 + wrong[0]][0], len(rows[wrong[0]])
        raise LabelError(f"line {number} of {path} has {n_fields} fields instead of {len(LABEL_COLUMNS)}")
    table = pd.DataFrame(rows, columns=list(LABEL_COLUMNS), dtype=object)
    _convert_columns(path, table, [number for number, _ in whole[1:]])
    note = f"{path}: line {', '.join(map(str, torn))} was torn when its writer was killed, and is dropped"
    return LabelFile(table, (note,) if torn else ())


def _parse_line(path: Path, number: int, line: bytes) -> list[str]:
    try:
        (row,) = csv.reader([line.decode("utf-8").rstrip("\r")], strict=True)
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise LabelError(f"line {number} of {path} is no line of a CSV file: {error}") from error
    return row


def _convert_columns(path: Path, table: pd.DataFrame, numbers: Sequence[int]) -> None:
    """Give columns their types in place; a value that does not fit is an error that names its line."""

    def check(name: str, is_right: pd.Series, expected: str) -> None:
        wrong = np.flatnonzero(~is_right.to_numpy(dtype=bool))
        if wrong.size:
            value = table[name].iloc[wrong[0]]
            raise LabelError(f"line {numbers[wrong[0]]} of {path}: {name} is {value!r}; expected {expected}")

    check("label", table["label"].isin([*SIGNS, UNDO]), f"one of {', '.join((*SIGNS, UNDO))}")
    known = table["kind"].isin(list(ARTEFACT_KINDS)) | (table["label"] != ARTEFACT)
    check("kind", known, f"one of {', '.join(ARTEFACT_KINDS)}")
    for name in (*_NUMBERS, *_WHOLE):
        text = table[name].astype(str)
        value = pd.to_numeric(text.where(text != "", None), errors="coerce").astype("float64")
        is_right = (np.isfinite(value) & value.abs().lt(1e15)) | ((text == "") & (name in _WHOLE))
        if name == "confidence":
            is_right = (value.between(0, 100)) | (table["label"] == UNDO)
        elif name in _WHOLE:
            is_right &= value.isna() | (value == value.round())
        check(name, is_right, "a number from 0 to 100" if name == "confidence" else "a number")
        table[name] = value.astype("Int64") if name in _WHOLE else value


def standing_labels(lines: pd.DataFrame) -> pd.DataFrame:
    """Last label of every vetter for every candidate; what was undone does not count.

    Parameters
    ----------
    lines : DataFrame
        From `read_label_lines`. A line `UNDO` takes back the vetter's last label of its candidate that still stands.

    Returns
    -------
    DataFrame
        Of the same columns, in the order in which they were given.
    """
    standing: dict[tuple[str, str, str], list[int]] = {}
    columns = (lines[name] for name in ("who", "path", "candidate_id", "label"))
    for number, (who, path, candidate, label) in enumerate(zip(*columns, strict=True)):
        own = standing.setdefault((who, path, candidate), [])
        if label != UNDO:
            own.append(number)
        elif own:
            own.pop()
    return lines.iloc[sorted(own[-1] for own in standing.values() if own)].reset_index(drop=True)


def combine_vetters(standing: pd.DataFrame) -> pd.DataFrame:
    """One label for each candidate, by the mean of the vetters' signed confidence.

    Parameters
    ----------
    standing : DataFrame
        From `standing_labels`.

    Returns
    -------
    DataFrame
        A row for each candidate: its place (columns of `LABEL_COLUMNS` from ``file`` on), ``candidate_id``, ``label``,
        ``weight`` (0 to 1), ``kind`` (of the surest vetter who agrees), ``n_vetters`` and ``agreed``, whether all gave
        the same label.

    Notes
    -----
    A vetter's signed confidence is +c for an event, -c for an artefact and 0 if unsure, with c from 0 to 1. The sign of
    the mean is the label, and its size the weight. So two who are sure of opposite labels leave none, `UNSURE` with a
    weight of 0.
    """
    signed = standing["label"].map(SIGNS).astype("float64") * standing["confidence"] / 100
    rows = []
    for _, own in standing.assign(signed=signed).groupby(["path", "candidate_id"], sort=False):
        mean = float(own["signed"].mean())
        label = EVENT if mean > 0 else ARTEFACT if mean < 0 else UNSURE
        agreeing = own[own["label"] == label].sort_values("confidence", ascending=False, kind="stable")
        first = own.iloc[0]
        rows.append(
            {name: first[name] for name in ("candidate_id", *PLACE_COLUMNS_OF_LABELS)}
            | {"label": label, "weight": abs(mean), "kind": agreeing["kind"].iloc[0] if label == ARTEFACT else ""}
            | {"n_vetters": len(own), "agreed": own["label"].nunique() == 1}
        )
    columns = ["candidate_id", *PLACE_COLUMNS_OF_LABELS, "label", "weight", "kind", "n_vetters", "agreed"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_WHOLE, "Int64"))


def read_vetted(paths: Iterable[str | Path]) -> LabelFile:
    """Candidates that people vetted, of one or several files of labels, with one label for each.

    Parameters
    ----------
    paths : iterable of path
        CSV files. Candidates that a `BLIND_TRUTH` beside a file names are left out: they are injected events, and the
        frames hold nothing at their places.

    Returns
    -------
    LabelFile
        Rows of `combine_vetters` with a weight above 0, and notes.

    Raises
    ------
    LabelError
        If a file is none of labels, or no label is left.
    """
    files = [read_label_lines(path) for path in paths]
    tables = [
        file.lines[~file.lines["candidate_id"].isin(_blind_names(Path(path).parent))]
        for path, file in zip(paths, files, strict=True)
    ]
    notes = [note for file in files for note in file.notes]
    combined = combine_vetters(standing_labels(pd.concat(tables, ignore_index=True)))
    vetted = combined[combined["weight"] > 0].reset_index(drop=True)
    if vetted.empty:
        raise LabelError(f"no candidate has a label of event or artefact in {', '.join(map(str, paths))}")
    if len(vetted) < len(combined):
        notes.append(f"{len(combined) - len(vetted)} candidates have no label: unsure, or vetters who disagree")
    return LabelFile(vetted, tuple(notes))


def _blind_names(folder: Path) -> set[str]:
    path = folder / BLIND_TRUTH
    return set(read_parquet(path, {"candidate_id": "text"})["candidate_id"]) if path.is_file() else set()
