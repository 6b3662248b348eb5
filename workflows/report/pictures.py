"""Calibrate again the amplifiers that the report of a search draws: a search keeps numbers, not pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    if not _may_store(run):
        return
    _store(run, _of_first_file(run) if run.pictured.empty else _of_candidates(run, run.pictured))


def calibrate_candidate(run: RunFolder, candidate: pd.Series) -> None:
    """Store the amplifier of one candidate, under the conditions of `calibrate_pictured`."""
    if _may_store(run):
        _store(run, _of_candidates(run, candidate.to_frame().T))


def _may_store(run: RunFolder) -> bool:
    """Whether a folder is that of a search, and its store, if there is one, its own."""
    is_elsewhere = run.manifest is not None and not (run.path / "store" / MANIFEST).is_file()
    return not is_elsewhere and (run.path / RECORD).is_file()


def _store(run: RunFolder, wanted: Iterable[tuple[Path, int | None]]) -> None:
    """Calibrate files and quadrants into the store of a search."""
    store, rows = run.path / "store", []
    for path, quadrant in wanted:
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
        new = {row["entry"] for row in rows}
        write_manifest(store, [*(row for row in before if row["entry"] not in new), *rows])
        del run.manifest  # it was read before


def _of_first_file(run: RunFolder) -> Iterator[tuple[Path, int | None]]:
    for path in list(map(Path, run.record["files"].values()))[: 1 if run.manifest is None else 0]:
        with suppress(*EXPECTED_ERRORS):  # the file is gone; only its drawing is lost
            info = read_info(path, run.record["instrument"], run.record["supplied"])
            yield path, next(iter(info.readouts))


def _of_candidates(run: RunFolder, candidates: pd.DataFrame) -> Iterator[tuple[Path, int | None]]:
    """Files and quadrants of candidates that are not stored, each once."""
    files = {name: Path(path) for name, path in run.record["files"].items()}
    for _, row in candidates.drop_duplicates(["file", "quadrant"]).iterrows():
        if row["file"] in files and run.entry_of(row) is None:
            yield files[row["file"]], None if pd.isna(row["quadrant"]) else int(row["quadrant"])
