"""Frames in, ranked candidates out: ingest, detect, cut at a rate of false alarms, write the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation import RateCurve
from shutterless.pipeline.candidates import (
    build_candidates,
    empty_candidates,
    group_candidates,
    write_candidates,
)
from shutterless.pipeline.catalogue import know_streaks, read_catalogue
from shutterless.pipeline.store import Amplifier, manifest_hash, open_amplifier, read_entry
from shutterless.workflows.cluster import Executor
from shutterless.workflows.detect import Detector, DetectTask, detect, detector_columns, read_rates
from shutterless.workflows.ingest import failed_tasks, ingest_files, prepare_folder, used_entries, write_failures
from shutterless.workflows.progress import Progress
from shutterless.workflows.settings import SearchSettings
from shutterless.workflows.tracking import TEMPLATE_BANK, bundled_folder, model_type, resolve_model


class SearchError(ValueError):
    """A detector that no threshold is known for."""


@dataclass(frozen=True)
class SearchResult:
    """Candidates, what failed, the threshold that was used, and lines for the user."""

    candidates: pd.DataFrame
    failures: pd.DataFrame
    threshold: float
    warnings: tuple[str, ...]
    instruments: tuple[str, ...]


def search_files(
    files: Sequence[str | Path],
    *,
    reference: str,
    out: Path,
    settings: SearchSettings,
    catalogue: str | Path | None = None,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    resume: bool = False,
    progress: Progress | None = None,
) -> SearchResult:
    """Search FITS files.

    Parameters
    ----------
    files : sequence of path
    reference : str
        A model as the commands take it, or ``"template-bank"``.
    out : Path
        Gets ``store/``, ``candidates.parquet``, ``candidates.ecsv`` and ``failures.parquet``.
    settings : SearchSettings
    catalogue : path, optional
        Stars that resolve event times, as `shutterless.pipeline.catalogue.read_catalogue`.
    instrument, supplied
        As `shutterless.pipeline.frames.read_info`.
    executor : Executor
    resume : bool
        Keep amplifiers that were calibrated before.
    progress : Progress, optional

    Returns
    -------
    SearchResult

    Raises
    ------
    CatalogueError
        If the catalogue cannot be used.
    """
    stars = None if catalogue is None else read_catalogue(catalogue)
    out = prepare_folder(out)
    detector = find_detector(reference)
    threshold, notes = find_threshold(detector, settings.false_alarms_per_hour)
    ingested = ingest_files(
        files,
        out / "store",
        instrument=instrument,
        supplied=supplied,
        resume=resume,
        executor=executor,
        progress=progress,
    )
    manifest = used_entries(ingested.manifest, files)
    candidates, failures, unmatched = search_store(
        out / "store", manifest["entry"].tolist(), detector, threshold, settings, stars=stars, executor=executor,
        progress=progress,
    )  # fmt: skip
    failures = write_failures(out, ingested.failures, failures)
    write_candidates(
        candidates,
        out,
        {
            "model": reference,
            "threshold": threshold,
            "settings": settings.model_dump(),
            "instrument": instrument,
            "catalogue": None if catalogue is None else str(catalogue),
            "supplied": dict(supplied or {}),
            "manifest_hash": manifest_hash(manifest),
            "time_archive": _time_scales(out / "store", manifest),
        },
    )
    return SearchResult(candidates, failures, threshold, (*notes, *ingested.warnings, *unmatched), ingested.instruments)


def search_store(
    store: Path,
    entries: Sequence[str],
    detector: Detector,
    threshold: float,
    settings: SearchSettings,
    *,
    stars: pd.DataFrame | None = None,
    executor: Executor,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Search amplifiers of a store; candidates, best first, failures, and lines on catalogues that do not fit."""
    tasks = [
        DetectTask(str(store), entry, (detector,), settings.trigger_threshold, settings.batch_size) for entry in entries
    ]
    found: dict[str, pd.DataFrame] = {}
    failures: dict[str, str] = {}
    for outcome in executor.map(detect, tasks, describe="searching amplifiers", progress=progress):
        if outcome.value is None:
            failures[outcome.item.entry] = outcome.error or ""
        else:
            scored = detector_columns(outcome.value, detector.name)
            # -inf is vetoed, also at the threshold -inf of a detector without a false alarm
            found[outcome.item.entry] = scored[(scored["score"] >= threshold) & np.isfinite(scored["score"])]
    amplifiers = {entry: open_amplifier(store, entry) for entry in found}
    streaks, unmatched = know_streaks(
        {entry: amplifier.streaks for entry, amplifier in amplifiers.items()},
        {entry: amplifier.readout for entry, amplifier in amplifiers.items()},
        stars,
    )
    return _assemble(amplifiers, streaks, found, detector.name), failed_tasks(failures, store), unmatched


def find_detector(reference: str) -> Detector:
    """Turn a model reference into a detector with the name it has in tables."""
    folder = resolve_model(reference)
    return Detector(TEMPLATE_BANK, None) if folder is None else Detector(_model_name(reference, folder), str(folder))


def find_threshold(detector: Detector, rate_per_hour: float) -> tuple[float, list[str]]:
    """Score at which a detector raises so many false alarms per amplifier-hour, and what the user should know of it.

    Raises
    ------
    SearchError
        If the model was never evaluated, so that no false-alarm curve lies beside its weights.
    """
    folder = bundled_folder() / TEMPLATE_BANK if detector.folder is None else Path(detector.folder)
    curve: RateCurve | None = read_rates(folder)
    if curve is None:
        raise SearchError(
            f"{folder} holds no false-alarm curve, so no threshold is known for {rate_per_hour:g} per amplifier-hour; "
            f"run `shutterless evaluate STORE --model {detector.folder}` first"
        )
    threshold, extrapolated = curve.threshold(rate_per_hour)
    notes = []
    if extrapolated:
        notes.append(
            f"{rate_per_hour:g} false alarms per amplifier-hour is extrapolated: "
            f"{len(curve.scores)} alarms were counted in {curve.live_hours:.3g} amplifier-hours"
        )
    return threshold, notes


def _time_scales(store: Path, manifest: pd.DataFrame) -> dict[str, str]:
    """What the archive's own times of each file are, for files that have any."""
    entries = {row.file: read_entry(store, row.entry) or {} for row in manifest.itertuples()}
    scales = {file: entry.get("readout", {}).get("time_scale", "") for file, entry in entries.items()}
    return {file: scale for file, scale in scales.items() if scale}


def _assemble(
    amplifiers: Mapping[str, Amplifier],
    streaks: Mapping[str, pd.DataFrame],
    found: Mapping[str, pd.DataFrame],
    name: str,
) -> pd.DataFrame:
    """One table of all amplifiers, grouped, the surest first."""
    tables = [
        build_candidates(
            found[entry], streaks[entry], amplifier.readout, file=amplifier.file, model=name, n_y=amplifier.n_y
        )
        for entry, amplifier in amplifiers.items()
        if len(found[entry])
    ]
    if not tables:
        return empty_candidates()
    candidates = group_candidates(pd.concat(tables, ignore_index=True))
    order = candidates.assign(strength=candidates["snr"].abs()).sort_values(
        ["probability", "strength", "candidate_id"], ascending=[False, False, True], kind="stable"
    )
    return order.drop(columns="strength").reset_index(drop=True)


def _model_name(reference: str, folder: Path) -> str:
    """Family and where it is from: a table that outlives the model should say which one it was."""
    return f"{model_type(folder)} ({reference})"
