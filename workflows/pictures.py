"""Calibrate again what the report of a search pictures: a search keeps numbers, not pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.ingest import ingest_amplifier
from shutterless.pipeline.reading import read_info
from shutterless.pipeline.store import write_manifest
from shutterless.workflows.cluster import EXPECTED_ERRORS
from shutterless.workflows.run_folder import RunFolder, best_of_groups
from shutterless.workflows.search import RECORD

N_PICTURED = 12  # candidates with a picture


def calibrate_pictured(run: RunFolder) -> None:
    """Make a store of the amplifiers that hold the leading candidates of a search, or of the first without any.

    Does nothing where there is a store, or no record of a search. An amplifier that can no longer be read is left out,
    and so is its picture.
    """
    record = run.path / RECORD
    if run.manifest is not None or not record.is_file():
        return
    search = json.loads(record.read_text(encoding="utf-8"))
    store, rows = run.path / "store", []
    for path, quadrant in _pictured(run, search):
        try:
            rows.append(
                ingest_amplifier(
                    path, quadrant, store, instrument=search["instrument"], supplied=search["supplied"], resume=True
                )
            )
        except EXPECTED_ERRORS:
            continue
    if rows:
        write_manifest(store, rows)
        del run.manifest  # which was None


def _pictured(run: RunFolder, search: dict[str, Any]) -> Iterator[tuple[Path, int | None]]:
    """Files and quadrants of the leading candidates, each once; of the first file without any."""
    files = {name: Path(path) for name, path in search["files"].items()}
    candidates = run.candidates
    if candidates is None or candidates.empty:
        for path in list(files.values())[:1]:
            with suppress(*EXPECTED_ERRORS):  # gone, and nothing is lost but a picture of the sky
                yield path, next(iter(read_info(path, search["instrument"], search["supplied"]).readouts))
        return
    best, _ = best_of_groups(candidates)
    leading = best.head(N_PICTURED)[["file", "quadrant"]].drop_duplicates()
    for row in leading.itertuples():
        if row.file in files:
            yield files[row.file], None if pd.isna(row.quadrant) else int(row.quadrant)
