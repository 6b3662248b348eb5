"""Train a forest on a store: label the triggers of every amplifier, grow the trees, count the false alarms."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, empty_truth, false_alarm_curve
from shutterless.models.forest.fit import fit_forest
from shutterless.models.forest.forest import Forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.examples.labelled_triggers import inject_and_label, label_triggers
from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.store.store import manifest_hash, open_amplifier, read_manifest
from shutterless.workflows.comparison.field_tables import place_by_entry
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor, SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking.record import TRAINED_ON, TRAINING
from shutterless.workflows.training.train import TrainError, sky_groups


@dataclass(frozen=True)
class _Amplifier:
    store: str
    entry: str
    number: int


def label_store(
    store: str | Path,
    *,
    seed: int,
    truth: pd.DataFrame | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Label the triggers of every amplifier of a store.

    Parameters
    ----------
    store : path
    seed : int
        Of the events that are injected.
    truth : DataFrame, optional
        Truth table of the store's frames. Without one the store is taken to be event-free, and events are injected.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    DataFrame
        As `shutterless.pipeline.examples.labelled_triggers.label_triggers`, with ``entry`` and ``field``, the number
        of the field of stars.

    Raises
    ------
    TrainError
        If the store is empty, or an amplifier cannot be used; the message names it.
    """
    manifest = read_manifest(store)
    if manifest.empty:
        raise TrainError(f"store {store} holds no amplifier; see its failures.parquet")
    fields = dict(zip(manifest["entry"], sky_groups(manifest), strict=True))
    items = [_Amplifier(str(store), entry, number) for number, entry in enumerate(manifest["entry"])]
    work = partial(_label, seed=seed, truth=None if truth is None else place_by_entry(truth, manifest))
    tables = []
    for outcome in (executor or SerialExecutor()).map(work, items, describe="labelling triggers", progress=progress):
        if outcome.value is None:
            raise TrainError(f"no triggers from {store}/{outcome.item.entry}: {outcome.error}")
        tables.append(outcome.value.assign(entry=outcome.item.entry, field=fields[outcome.item.entry]))
    return pd.concat(tables, ignore_index=True)


def _label(item: _Amplifier, *, seed: int, truth: pd.DataFrame | None) -> pd.DataFrame:
    amplifier = open_amplifier(item.store, item.entry)
    if truth is None:
        rng = np.random.default_rng([seed, item.number])
        return inject_and_label(amplifier, rng, InjectionSettings())
    return label_triggers(amplifier, truth[truth["entry"] == item.entry])


def train_forest(
    store: Path,
    *,
    settings: ForestSettings,
    out: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a forest on an event-free store: the command ``shutterless train STORE --model forest``.

    Parameters
    ----------
    store : Path
    settings : ForestSettings
    out : Path
        For the forest, its false-alarm curve and `TRAINING`.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    dict
        The content of `TRAINING`.
    """
    started = time.perf_counter()
    labelled = label_store(store, seed=settings.seed, executor=executor, progress=progress)
    manifest = read_manifest(store)
    hours = manifest.set_index("entry")["live_pixel_rows"] / manifest.set_index("entry")["pixel_rows_per_hour"]
    summary = grow_forest(
        labelled, hours, settings, Path(out),
        data_hash=manifest_hash(manifest), trained_on=describe_frames((store, manifest)),
    )  # fmt: skip
    summary["train_seconds"] = time.perf_counter() - started
    (Path(out) / TRAINING).write_text(json.dumps(summary, indent=1))
    return summary


def grow_forest(
    labelled: pd.DataFrame,
    live_hours: pd.Series,
    settings: ForestSettings,
    out: Path,
    *,
    data_hash: str,
    trained_on: Mapping[str, Any],
) -> dict[str, Any]:
    """Grow a forest from labelled triggers, and write it with the false-alarm curve of the fields held back.

    Parameters
    ----------
    labelled : DataFrame
        From `label_store`.
    live_hours : Series
        Amplifier-hours of each entry.
    settings : ForestSettings
    out : Path
    data_hash : str
        Of the frames.
    trained_on : mapping
        What identifies the frames (`shutterless.workflows.comparison.unseen.describe_frames`).

    Returns
    -------
    dict
        What the forest was grown from, for `TRAINING`.
    """
    kind = labelled["kind"].to_numpy(dtype=object)
    forest, is_held = fit_forest(labelled, kind, labelled["field"].to_numpy(), settings)
    forest.save(out)
    held_back = labelled[is_held]
    write_rates(out, _count_false_alarms(forest, held_back, live_hours), data_hash)
    is_event = np.isin(kind, EVENT_KINDS)
    return {
        "name": out.name,
        "family": "forest",
        "shuffled": False,
        "n_parameters": int(len(forest.events.value) + len(forest.classes.value)),
        "n_triggers": len(labelled),
        "n_event_triggers": int(is_event.sum()),
        "n_fields": int(labelled["field"].nunique()),
        "validation_groups": [str(name) for name in np.unique(held_back["field"])],
        "manifest_hash": data_hash,
        "seed": settings.seed,
        TRAINED_ON: dict(trained_on),
    }


def _count_false_alarms(forest: Forest, triggers: pd.DataFrame, live_hours: pd.Series) -> RateCurve:
    """Highest score of each cluster of triggers that match no event."""
    noise = triggers[~np.isin(triggers["kind"].to_numpy(dtype=object), EVENT_KINDS)].reset_index(drop=True)
    score = forest.score(noise)["event_logit"]
    hours = float(live_hours.loc[triggers["entry"].unique()].sum())
    return false_alarm_curve(noise, score.to_numpy(), empty_truth(), hours)
