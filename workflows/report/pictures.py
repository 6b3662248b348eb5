"""Calibrate again the amplifiers that the report of a search draws: a search keeps numbers, not pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import MANIFEST, read_manifest, write_manifest
from shutterless.workflows.execution.cluster import EXPECTED_ERRORS
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.searching.search import RECORD


def calibrate_pictured(run: RunFolder) -> None:
    """Store the amplifiers of the pictured candidates of a search; without candidates, those of the first file.

    Stored amplifiers stay: a resumed search has other candidates than at its last report. Without the record of a
    search nothing is done. An amplifier that can no longer be read is left out of the report's drawings.
    """
    store = run.path / "store"
    is_elsewhere = run.manifest is not None and not (store / MANIFEST).is_file()
    if is_elsewhere or not (run.path / RECORD).is_file():
        return
    rows = []
    for path, quadrant in _pictured(run):
        try:
            rows.append(
                ingest_amplifier(
                    path, quadrant, store, instrument=run.record["instrument"], supplied=run.record["supplied"],
                    resume=True,
                )
            )  # fmt: skip
        except EXPECTED_ERRORS:
            continue
    if rows:
        before = [] if run.manifest is None else read_manifest(store).to_dict("records")
        write_manifest(store, [*before, *rows])
        del run.manifest  # it was read before


def _pictured(run: RunFolder) -> Iterator[tuple[Path, int | None]]:
    """Files and quadrants to store, each once: of the pictured candidates or, without any, of the first file."""
    files = {name: Path(path) for name, path in run.record["files"].items()}
    if run.pictured.empty:
        for path in list(files.values())[: 1 if run.manifest is None else 0]:
            with suppress(*EXPECTED_ERRORS):  # the file is gone; only its drawing is lost
                info = read_info(path, run.record["instrument"], run.record["supplied"])
                yield path, next(iter(info.readouts))
        return
    for _, row in run.pictured.drop_duplicates(["file", "quadrant"]).iterrows():
        if row["file"] in files and run.entry_of(row) is None:
            yield files[row["file"]], None if pd.isna(row["quadrant"]) else int(row["quadrant"])
