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
from shutterless.pipeline.examples.labelled_triggers import LabelledTriggers
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking.record import TRAINING
from shutterless.workflows.training.forest import count_scores, describe_growth, hours_by_entry, label_store


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
    groups = np.unique(table["field"].astype(str), return_inverse=True)[1]
    searched = float(hours.loc[table["entry"].unique(), "live_hours"].sum())
    combined, is_held = fit_combined(
        labelled.training_set(groups, grid), table[list(CONTEXT_FEATURES)], table["kind"].to_numpy(dtype=object),
        searched, forest_settings, settings, callbacks=callbacks,
    )  # fmt: skip
    combined.save(out)
    held_back = table[is_held]
    forest_score = combined.forest.score(held_back)["event_logit"].to_numpy()
    scores = {out: score_held_back(combined, labelled, is_held), out / FOREST: forest_score}
    for folder, score in scores.items():
        write_rates(folder, count_scores(score, held_back, hours), data_hash)
    grown = describe_growth(table, is_held, seed=settings.seed, data_hash=data_hash, trained_on=trained_on)
    grown["train_seconds"] = time.perf_counter() - started
    n_parameters = sum(count_parameters(network) for network in combined.networks)
    summary = {"name": out.name, "family": "combined", "n_parameters": n_parameters, **grown}
    forest = {"name": FOREST, "family": "forest", "n_parameters": combined.forest.n_values, **grown}
    for folder, content in {out: summary, out / FOREST: forest}.items():
        (folder / TRAINING).write_text(json.dumps(content, indent=1))
    return summary


def score_held_back(combined: Combined, labelled: LabelledTriggers, is_held: np.ndarray) -> np.ndarray:
    """Scores of the triggers of the fields held back."""
    strips = labelled.strips
    assert strips is not None, "labelled without a grid"
    at = np.flatnonzero(is_held)
    scores = combined.score(labelled.table.loc[at, list(CONTEXT_FEATURES)], lambda asked: strips[at[asked]])
    return scores["event_logit"].to_numpy()
