"""Calibrate again the amplifiers that the report of a search draws: a search keeps numbers, not pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import MANIFEST, read_manifest, write_manifest
from shutterless.workflows.execution.cluster import EXPECTED_ERRORS
from shutterless.workflows.pages.run_folder import RunFolder, best_of_groups
from shutterless.workflows.searching.search import RECORD

N_PICTURED = 12  # candidates with a drawing


def calibrate_pictured(run: RunFolder) -> None:
    """Store the amplifiers of the leading candidates of a search; without candidates, those of the first file.

    Stored amplifiers stay: a resumed search has other candidates than at its last report. Without the record of a
    search nothing is done. An amplifier that can no longer be read is left out of the report's drawings.
    """
    record, store = run.path / RECORD, run.path / "store"
    is_elsewhere = run.manifest is not None and not (store / MANIFEST).is_file()
    if is_elsewhere or not record.is_file():
        return
    search = json.loads(record.read_text(encoding="utf-8"))
    rows = []
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
        before = [] if run.manifest is None else read_manifest(store).to_dict("records")
        write_manifest(store, [*before, *rows])
        del run.manifest  # it was read before


def _pictured(run: RunFolder, search: dict[str, Any]) -> Iterator[tuple[Path, int | None]]:
    """Files and quadrants to store, each once: of the leading candidates or, without candidates, of the first file."""
    files = {name: Path(path) for name, path in search["files"].items()}
    candidates = run.candidates
    if candidates is None or candidates.empty:
        for path in list(files.values())[: 1 if run.manifest is None else 0]:
            with suppress(*EXPECTED_ERRORS):  # the file is gone; only its drawing is lost
                yield path, next(iter(read_info(path, search["instrument"], search["supplied"]).readouts))
        return
    best, _ = best_of_groups(candidates)
    leading = best.head(N_PICTURED).drop_duplicates(["file", "quadrant"])
    for _, row in leading.iterrows():
        if row["file"] in files and run.entry_of(row) is None:
            yield files[row["file"]], None if pd.isna(row["quadrant"]) else int(row["quadrant"])
