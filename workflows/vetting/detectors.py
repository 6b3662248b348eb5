"""Measure detectors on candidates that people vetted: ``shutterless evaluate STORE --labels FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import match_entries
from shutterless.models.evaluation.platt import roc_area
from shutterless.models.evaluation.vetted import purity_at, purity_curve
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.results.labels import EVENT, LabelError, read_vetted
from shutterless.pipeline.store.store import read_manifest
from shutterless.workflows.comparison.evaluate import collect_detections, name_detectors
from shutterless.workflows.comparison.field_tables import place_by_entry
from shutterless.workflows.comparison.unseen import check_not_trained_on
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress

TABLE_OF_LABELS = "labels.parquet"
_KEPT = (0.5, 0.7, 0.9)  # shares of the vetted events at which the purity is printed


@dataclass(frozen=True)
class VettedEvaluation:
    """Detectors on vetted candidates.

    Parameters
    ----------
    curves : dict of str to DataFrame
        Purity curve of each detector.
    areas : dict of str to float
        Probability that a vetted event has a higher score than a vetted artefact.
    n_events, n_artefacts : int
        Vetted candidates that the store holds.
    notes : tuple of str
    """

    curves: dict[str, pd.DataFrame]
    areas: dict[str, float]
    n_events: int
    n_artefacts: int
    notes: tuple[str, ...]

    def text(self) -> str:
        """Table for a terminal, after what it rests on."""
        rows = []
        for name, curve in self.curves.items():
            row = {"detector": name, "area": f"{self.areas[name]:.3f}"}
            for share in _KEPT:
                at = purity_at(curve, share)
                row[f"purity at {share:.0%}"] = (
                    "-" if at is None else f"{at['purity']:.0%} ({at['purity_low']:.0%} to {at['purity_high']:.0%})"
                )
            rows.append(row)
        head = (
            f"{self.n_events} events and {self.n_artefacts} artefacts that people vetted; purity where so many of "
            "these events are kept:"
        )
        return "\n".join([*self.notes, head, pd.DataFrame(rows).to_string(index=False)])


def evaluate_on_labels(
    store: Path,
    labels: Sequence[Path],
    *,
    references: Sequence[str],
    out: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> VettedEvaluation:
    """Measure detectors on the vetted candidates that a store holds, and write their purity curves.

    Parameters
    ----------
    store : Path
    labels : sequence of Path
        Files of `shutterless vet`.
    references : sequence of str
        Models as for the commands.
    out : Path
        For `TABLE_OF_LABELS`.
    executor : Executor, optional
    progress : Progress, optional

    Raises
    ------
    LabelError
        If the store holds no vetted event, or no vetted artefact.
    SeenError
        If a model was trained on a part of the store.

    Notes
    -----
    The label of a candidate is that of `shutterless.pipeline.results.labels.combine_vetters`; its weight does not count
    here, so that the intervals hold. A detector that has no trigger at a candidate, or rejects it, has lost it. Purity
    and completeness are those among the vetted candidates; events that the search behind them missed are not there.
    """
    read = read_vetted(labels)
    manifest = read_manifest(store)
    named = read.lines.assign(file=read.lines["path"].map(lambda path: Path(path).name))
    placed = place_by_entry(named, manifest).assign(rho=1.0)
    is_event = (placed["label"] == EVENT).to_numpy()
    if is_event.all() or not is_event.any():
        raise LabelError(
            f"{store} holds {is_event.sum()} vetted events and {(~is_event).sum()} vetted artefacts of "
            f"{', '.join(map(str, labels))}; both are needed: ingest the files that were vetted"
        )
    detectors = name_detectors(references)
    for detector in detectors:
        if detector.folder is not None:
            check_not_trained_on(detector.folder, manifest, store)
    here = manifest[manifest["entry"].isin(placed["entry"])]
    detections = collect_detections(store, here, detectors, executor, progress)
    matched = match_entries(detections, placed)
    curves, areas = {}, {}
    for detector in detectors:
        score = np.full(len(placed), -np.inf)
        own = detections[f"{detector.name}/score"].to_numpy(dtype=np.float64)
        np.maximum.at(score, matched[matched >= 0], own[matched >= 0])
        curves[detector.name] = purity_curve(score, is_event)
        lost = np.min(score, where=np.isfinite(score), initial=0.0) - 1.0  # below all others
        areas[detector.name] = roc_area(np.where(np.isfinite(score), score, lost), is_event)
    tables = [curve.assign(detector=name) for name, curve in curves.items()]
    write_parquet(pd.concat(tables, ignore_index=True), Path(out) / TABLE_OF_LABELS)
    n_elsewhere = len(read.lines) - len(placed)
    elsewhere = (f"{n_elsewhere} vetted candidates are of files that {store} does not hold",) if n_elsewhere else ()
    return VettedEvaluation(curves, areas, int(is_event.sum()), int((~is_event).sum()), (*read.notes, *elsewhere))
