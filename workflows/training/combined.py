"""Train a combined detector on a store: label the triggers of every amplifier, grow the forest, train the networks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.combined.combined import FOREST, Combined
from shutterless.models.combined.fit import fit_combined
from shutterless.models.combined.settings import CombinedSettings
from shutterless.models.describe import count_parameters
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.examples.labelled_triggers import LabelledTriggers
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking.record import TRAINED_ON, TRAINING
from shutterless.workflows.training.forest import count_noise, hours_by_entry, label_store


def train_combined(
    store: Path,
    *,
    forest_settings: ForestSettings,
    settings: CombinedSettings,
    grid: TokenGrid,
    out: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a combined detector on an event-free store: the command ``shutterless train STORE --model combined``.

    Parameters
    ----------
    store : Path
    forest_settings : ForestSettings
    settings : CombinedSettings
    grid : TokenGrid
    out : Path
        For the detector, its false-alarm curve and `TRAINING`; the forest in it is a detector of its own.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    dict
        The content of `TRAINING`.
    """
    labelled = label_store(store, seed=settings.seed, grid=grid, executor=executor, progress=progress)
    manifest = read_manifest(store)
    return grow_combined(
        labelled, hours_by_entry(manifest), grid, forest_settings, settings, Path(out),
        data_hash=manifest_hash(manifest), trained_on=describe_frames((store, manifest)),
    )  # fmt: skip


def grow_combined(
    labelled: LabelledTriggers,
    hours: pd.DataFrame,
    grid: TokenGrid,
    forest_settings: ForestSettings,
    settings: CombinedSettings,
    out: Path,
    *,
    data_hash: str,
    trained_on: Mapping[str, Any],
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train a combined detector on labelled triggers, and write it with the false-alarm curve of the fields held back.

    Parameters
    ----------
    labelled : LabelledTriggers
        From `shutterless.workflows.training.forest.label_store`, with strips.
    hours : DataFrame
        From `shutterless.workflows.training.forest.hours_by_entry`.
    grid : TokenGrid
        Of the strips.
    forest_settings : ForestSettings
    settings : CombinedSettings
    out : Path
    data_hash : str
        Of the frames.
    trained_on : mapping
        What identifies the frames (`shutterless.workflows.comparison.unseen.describe_frames`).
    callbacks : sequence of TrainerCallback
        As `shutterless.models.training.fit.fit_model`.

    Returns
    -------
    dict
        What the detector was trained on, for `TRAINING`, which is written, too.
    """
    started = time.perf_counter()
    table = labelled.table
    kind = table["kind"].to_numpy(dtype=object)
    names, groups = np.unique(table["field"].astype(str), return_inverse=True)
    examples = labelled.training_set(groups, grid)
    searched = float(hours.loc[table["entry"].unique(), "live_hours"].sum())
    combined, is_held = fit_combined(
        examples, table[list(CONTEXT_FEATURES)], kind, searched, forest_settings, settings, callbacks=callbacks
    )
    combined.save(out)
    write_rates(out, count_noise(score_held_back(combined, labelled, is_held), table[is_held], hours), data_hash)
    summary = {
        "name": out.name,
        "family": "combined",
        "shuffled": False,
        "n_parameters": sum(count_parameters(network) for network in combined.networks),
        "n_triggers": len(table),
        "n_event_triggers": int(np.isin(kind, EVENT_KINDS).sum()),
        "n_fields": len(names),
        "validation_groups": names[np.unique(groups[is_held])].tolist(),
        "manifest_hash": data_hash,
        "seed": settings.seed,
        "train_seconds": time.perf_counter() - started,
        TRAINED_ON: dict(trained_on),
    }
    (out / TRAINING).write_text(json.dumps(summary, indent=1))
    _complete_forest(combined, table[is_held], hours, out / FOREST, summary)
    return summary


def _complete_forest(
    combined: Combined, held_back: pd.DataFrame, hours: pd.DataFrame, folder: Path, summary: Mapping[str, Any]
) -> None:
    """Write the curve of the forest and what it was grown from, so that it is a detector of its own."""
    score = combined.forest.score(held_back[list(CONTEXT_FEATURES)])["event_logit"].to_numpy()
    write_rates(folder, count_noise(score, held_back, hours), summary["manifest_hash"])
    n_values = len(combined.forest.events.value) + len(combined.forest.classes.value)
    own = {**summary, "name": folder.name, "family": "forest", "n_parameters": int(n_values)}
    (folder / TRAINING).write_text(json.dumps(own, indent=1))


def score_held_back(combined: Combined, labelled: LabelledTriggers, is_held: np.ndarray) -> np.ndarray:
    """Scores of the triggers of the fields held back."""
    strips = labelled.strips
    assert strips is not None, "labelled without a grid"
    at = np.flatnonzero(is_held)
    scores = combined.score(labelled.table.loc[at, list(CONTEXT_FEATURES)], lambda asked: strips[at[asked]])
    return scores["event_logit"].to_numpy()
