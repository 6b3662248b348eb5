"""Say what each file is taken for, before anything is searched: instrument, rows, times, and what is odd."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import survey_files


def check_files(
    files: Sequence[str | Path],
    *,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    stack: bool = False,
    executor: Executor,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What each file is taken for, by its headers and times alone.

    Parameters
    ----------
    files : sequence of path
        FITS files, and folders of such.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    stack : bool
        Take the images of all files for one cube.
    executor : Executor
    progress : Progress, optional

    Returns
    -------
    list of dict
        Plain values, sorted by file: ``file``, ``taken_for`` (``frame``, ``cube`` or ``nothing``), ``instrument``,
        ``rows``, ``height``, ``width``, ``amplifiers``, ``rows_per_second``, ``first_row_utc``, ``times`` (unit and
        scale of the archive's own), ``supplied``, ``problems`` (what cannot be read) and ``notes``.
    """
    with tempfile.TemporaryDirectory() as work:
        survey = survey_files(
            files, instrument=instrument, supplied=supplied, executor=executor, progress=progress, same_names=True,
            at_once=False, stack=Path(work) if stack else None, with_pixels=False,
        )  # fmt: skip
    found = {str(info.path): _describe_info(info) for info in survey.infos}
    for failure in survey.failures.to_dict("records"):
        row = found.setdefault(str(failure["path"]), {"file": str(failure["path"]), "taken_for": "nothing"})
        row.setdefault("problems", []).append(str(failure["reason"]))
    return [found[path] for path in sorted(found)]


def describe_check(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> str:
    """Findings of `check_files` as JSON, or in lines for a person."""
    if as_json:
        return json.dumps(list(rows), indent=1)
    lines = []
    for row in rows:
        lines.append(f"{row['file']}: {_sentence(row)}")
        lines += [f"    cannot be read: {problem}" for problem in row.get("problems", ())]
        lines += [f"    {note}" for note in row.get("notes", ())]
    return "\n".join(lines)


def _describe_info(info: FrameInfo) -> dict[str, Any]:
    readout = next(iter(info.readouts.values()))
    is_cube = None in info.readouts
    return {
        "file": str(info.path),
        "taken_for": "cube" if is_cube else "frame",
        "instrument": info.profile.name,
        "rows": info.n_rows,
        "height": info.n_y,
        "width": info.n_columns,
        "amplifiers": [quadrant for quadrant in info.readouts if quadrant is not None],
        "rows_per_second": readout.row_rate_hz,
        "first_row_utc": str(readout.read_utc(0)[0]),
        "times": readout.time_scale,
        "supplied": dict(readout.supplied),
        "problems": [],
        "notes": list(info.notes),
    }


def _sentence(row: Mapping[str, Any]) -> str:
    if row["taken_for"] == "nothing":
        return "not understood"
    begins = f"begins at {row['first_row_utc']} UTC" if row["first_row_utc"] else "no UTC"
    if row["taken_for"] == "cube":
        size = f"{row['rows']:,} images of {row['height']} × {row['width']} pixels"
        return f"cube ({row['instrument']}), {size}, one in {1 / row['rows_per_second']:g} s, {begins}"
    size = f"{row['rows']:,} rows of {row['width']} pixels"
    which = ", ".join(map(str, row["amplifiers"]))
    return f"frame ({row['instrument']}), quadrants {which}, {size}, {row['rows_per_second']:g} rows/s, {begins}"
